"""The host's end of a virtio-serial port, as QEMU's socket chardev (`server=on,wait=off`) plays it.

Responsible for who is connected, and for what becomes of bytes when nobody is. It doesn't know what the bytes mean.

A byte belongs to the port, never to a client: what the guest writes goes to whoever is connected when it is sent.
"""

import asyncio
import contextlib
import select
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

# QEMU listens with a backlog of one, for which Linux lets two clients wait; a third gets EAGAIN.
BACKLOG = 1
# The guest's kernel hands QEMU at most this much at once (Linux, virtio_console.c: port_fops_write).
CHUNK_BYTES = 32 * 1024
# How much QEMU takes from a client ahead of the guest: a virtqueue of 128 buffers.
QUEUED_CHUNKS = 128


class Chardev:
    """One port: a listening socket that serves one client at a time, and the guest's end as methods."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._client: socket.socket | None = None
        self._connected = asyncio.Event()
        self._sending = asyncio.Lock()
        self._port_open = asyncio.Event()
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue(QUEUED_CHUNKS)
        self._serving: asyncio.Task[None] | None = None
        self.clients_served = 0

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)  # as QEMU does with a socket that a killed QEMU left behind
        self._listener.settimeout(0)
        self._listener.bind(str(self._path))
        self._listener.listen(BACKLOG)
        self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._serving is not None:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def open_port(self) -> None:
        """Let the guest read. What a client sent before still waits in its socket, and comes first."""
        self._port_open.set()

    def close_port(self) -> None:
        """Stop reading, as when the agent died: clients stay connected, new ones connect, and all hear nothing.

        What the guest had not read is gone: its kernel throws it away when the port is closed.
        """
        self._port_open.clear()
        while not self._inbox.empty():
            self._inbox.get_nowait()

    async def read(self) -> bytes:
        """Wait for bytes from whichever client sends some. That clients come and go can't be seen from here."""
        return await self._inbox.get()

    async def write(self, data: bytes) -> None:
        """Hand `data` to the client of the moment, waiting for one; if it leaves, the next one gets the rest."""
        for start in range(0, len(data), CHUNK_BYTES):
            await self._write_chunk(data[start : start + CHUNK_BYTES])
            await asyncio.sleep(0)  # a long reply mustn't keep other agents of this process from theirs

    def hang_up(self) -> None:
        """End the present client's stream, as when QEMU goes away. What was written before still reaches it."""
        if self._client is not None:
            _shut_down(self._client)

    async def _write_chunk(self, chunk: bytes) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._connected.wait()
            async with self._sending:
                if self._client is None:
                    continue
                try:
                    return await loop.sock_sendall(self._client, chunk)
                except OSError:  # the client left: the chunk is for the next one
                    self._connected.clear()

    async def _serve(self) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            try:
                self._greet(client)
                await self._receive(client)
            finally:
                await self._part_from(client)

    def _greet(self, client: socket.socket) -> None:
        client.settimeout(0)
        self._client = client
        self.clients_served += 1
        self._connected.set()

    async def _part_from(self, client: socket.socket) -> None:
        self._client = None
        self._connected.clear()
        _shut_down(client)  # wakes a write that waits for this client to read
        async with self._sending:
            client.close()

    async def _receive(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionResetError):  # it left without reading what it was sent
            while data := await loop.sock_recv(client, CHUNK_BYTES):
                if not await self._passed_on(data, client):
                    return

    async def _passed_on(self, data: bytes, client: socket.socket) -> bool:
        """Pass `data` to the guest; False if the client left while the guest wasn't ready for it."""
        if self._port_open.is_set() and not self._inbox.full():
            self._inbox.put_nowait(data)
            return True
        passed = asyncio.create_task(self._pass_on(data))
        left = asyncio.create_task(_hung_up(client))
        try:
            await asyncio.wait([passed, left], return_when=asyncio.FIRST_COMPLETED)
            return passed.done()
        finally:
            passed.cancel()
            left.cancel()

    async def _pass_on(self, data: bytes) -> None:
        await self._port_open.wait()
        await self._inbox.put(data)


def _shut_down(client: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it left first
        client.shutdown(socket.SHUT_RDWR)


async def _hung_up(client: socket.socket) -> None:
    """Wait until the far end has closed, without reading: bytes that nobody wants yet may stand before the end."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    with select.epoll() as watch:
        watch.register(client, select.EPOLLRDHUP)
        loop.add_reader(watch.fileno(), closed.set)
        try:
            await closed.wait()
        finally:
            loop.remove_reader(watch.fileno())
