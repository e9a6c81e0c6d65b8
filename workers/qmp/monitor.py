"""Our client for one QMP socket: state, events, figures and the switches of one QEMU.

Owns the socket on this host (``lock``) and a ``qemu.qmp.QMPClient``. Doesn't know records, nor what a VM is to OwnUp.
Raw messages are never logged.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate
from qemu.qmp.message import Message
from qemu.qmp.protocol import ConnectError, StateError

from app.core.errors import MonitorAbsentError, MonitorError, SocketTakenError
from workers.qmp import process, replies
from workers.quiet_client import QuietClient
from workers.socket_lock import SocketLock

REPLY_LIMIT_BYTES = 16 * 1024 * 1024
EXECUTE_TIMEOUT_S = 5.0
_WORDS_LIMIT = 1000

OnEvent = Callable[[str, Mapping[str, Any]], None]

_silent = logging.getLogger("workers.qmp.silent")
_silent.disabled = True


class _MonitorClient(QuietClient):
    """QMPClient that hands events on at once: the stock one keeps every event for ever."""

    def __init__(self, on_event: OnEvent) -> None:
        super().__init__(_silent, readbuflen=REPLY_LIMIT_BYTES)
        self._on_event = on_event

    async def _on_message(self, msg: Message) -> None:
        await asyncio.sleep(0)  # a flood that is there already is received without giving way to anybody
        if "event" not in msg:
            await super()._on_message(msg)
            return
        name, data = msg["event"], msg.get("data", {})
        if isinstance(name, str) and isinstance(data, Mapping):
            # Not called from within the reader, whose connection would end with whatever the callback raises.
            asyncio.get_running_loop().call_soon(self._on_event, name, data)


@dataclass(frozen=True, slots=True)
class _Connection:
    sock: socket.socket
    client: QMPClient
    lock: SocketLock | None
    qemu_pid: int | None


class Monitor:
    """One VM's QEMU monitor. After a failure or ``close`` it can be connected again."""

    def __init__(self, socket_path: Path, *, on_event: OnEvent) -> None:
        """Describe the monitor; nothing is opened yet.

        Args:
            socket_path: The QMP socket.
            on_event: Called on the loop with each event's name and data, in the order QEMU sent them.
        """
        self.socket_path = socket_path
        self._on_event = on_event
        self._connection: _Connection | None = None
        self._closing = asyncio.Lock()
        self._patient_until_s = float("-inf")

    @property
    def connected(self) -> bool:
        """Whether QEMU can be asked."""
        return self._connection is not None and self._connection.client.runstate is Runstate.RUNNING

    @property
    def qemu_pid(self) -> int | None:
        """The pid of the QEMU at the other end; ``None`` without a connection, or where it can't be told."""
        return self._connection.qemu_pid if self._connection is not None else None

    async def connect(self, timeout_s: float, *, lock: SocketLock | None = None) -> None:
        """Take the socket's lock, connect and wait for QEMU's greeting.

        QEMU greets once it is through its own start: before that a connection waits, or ends with QEMU.

        Args:
            timeout_s: For the greeting and the negotiation.
            lock: The socket's lock, where the caller has it already; it stays the caller's.

        Raises:
            MonitorAbsentError: Nobody listens there.
            MonitorError: Another client holds the monitor, or it is no QEMU's.
        """
        if self._connection is not None:
            raise MonitorError(f"{self.socket_path} is already connected")
        try:
            own_lock = SocketLock.take(self.socket_path) if lock is None else None
        except SocketTakenError as exc:
            raise MonitorError(str(exc)) from exc
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect(sock, self.socket_path)
            pid = process.peer_pid(sock)
            client = await self._greet(sock, timeout_s)
        except BaseException:
            sock.close()
            _release(own_lock)
            raise
        qemu_pid = pid if pid is not None and process.is_qemu(pid) else None
        self._connection = _Connection(sock, client, own_lock, qemu_pid)

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = EXECUTE_TIMEOUT_S
    ) -> Any:
        """Ask QEMU and return what it returned.

        Effect: whatever the command does. After a time-out the connection is closed, and QEMU may still do it.

        Raises:
            MonitorError: Not connected, refused (with QEMU's words), no answer in time, or the connection ended.
        """
        connection = self._connection
        if connection is None:
            raise MonitorError(f"{command}: QEMU's monitor is not connected")
        timeout_s = max(timeout_s, self._patient_until_s - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(timeout_s):
                return await connection.client.execute(command, arguments)
        except TimeoutError as exc:
            await self.close()
            raise MonitorError(f"{command}: QEMU did not answer within {timeout_s:g} s") from exc
        except ExecuteError as exc:
            raise MonitorError(f"{command}: {str(exc)[:_WORDS_LIMIT]}") from exc
        except (StateError, ExecInterruptedError) as exc:
            await self.close()
            raise MonitorError(f"{command}: the connection to QEMU's monitor has ended") from exc
        except QMPError:
            # The text of this one holds the raw message.
            raise MonitorError(f"{command}: QEMU's answer is malformed") from None

    @contextlib.contextmanager
    def patient(self, timeout_s: float) -> Iterator[None]:
        """Give every request that is made within the block, by anybody, at least until so many seconds from now.

        QEMU answers nothing while it saves or loads a guest's memory, and that is no reason to take it for dead.
        """
        self._patient_until_s = asyncio.get_running_loop().time() + timeout_s
        try:
            yield
        finally:
            self._patient_until_s = float("-inf")

    async def close(self) -> None:
        """End the connection and give the lock back; requests under way fail with ``MonitorError``."""
        async with self._closing:
            connection = self._connection
            if connection is None:
                return
            # Makes reader and writer end by themselves: disconnect() alone would wait for a QEMU that reads nothing.
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
            try:
                # disconnect() raises once more whatever ended the connection, of any class; nothing is lost with it.
                with contextlib.suppress(Exception):
                    await connection.client.disconnect()
            finally:
                _release(connection.lock)
                self._connection = None

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whoever ended it, and its lock is free; returns at once without one."""
        connection = self._connection
        while connection is not None and connection.client.runstate is Runstate.RUNNING:
            await connection.client.runstate_changed()
        if connection is self._connection:
            await self.close()

    async def run_state(self) -> str:
        """Ask for QEMU's run state, for instance ``running``, ``paused``, ``shutdown``.

        Raises:
            MonitorError: As ``execute`` says.
        """
        return replies.load_run_state(await self.execute("query-status"))

    async def agent_port_open(self, qga_socket: Path) -> bool | None:
        """Ask whether an agent in the guest holds the port behind an agent socket; ``None`` where it can't be told.

        Raises:
            MonitorError: As ``execute`` says.
        """
        return replies.load_port_open(await self.execute("query-chardev"), qga_socket)

    async def cpu_count(self) -> int:
        """Ask for the number of virtual CPUs.

        Raises:
            MonitorError: As ``execute`` says.
        """
        return replies.load_cpu_count(await self.execute("query-cpus-fast"))

    async def memory_bytes(self) -> int:
        """Ask for the memory that the guest was given.

        Raises:
            MonitorError: As ``execute`` says.
        """
        return replies.load_memory_bytes(await self.execute("query-memory-size-summary"))

    async def block_bytes(self) -> tuple[int, int]:
        """Ask for the bytes the guest read from and wrote to its disks since QEMU started.

        Raises:
            MonitorError: As ``execute`` says.
        """
        return replies.load_block_bytes(await self.execute("query-blockstats"))

    async def drives(self) -> tuple[replies.Drive, ...]:
        """Ask for the guest's drives and how much they were used.

        Raises:
            MonitorError: As ``execute`` says.
        """
        return replies.load_drives(await self.execute("query-block"), await self.execute("query-blockstats"))

    async def images(self) -> tuple[replies.Image, ...]:
        """Ask for the images in the guest's drives, and the snapshots in them.

        Raises:
            MonitorError: As ``execute`` says.
        """
        return replies.load_images(await self.execute("query-block"))

    async def power_button(self) -> None:
        """Press the ACPI power button.

        Effect: a guest that listens shuts down; others do nothing, and QEMU can't tell.

        Raises:
            MonitorError: As ``execute`` says.
        """
        await self.execute("system_powerdown")

    async def reset(self) -> None:
        """Press the reset button.

        Effect: the guest starts anew without being asked.

        Raises:
            MonitorError: As ``execute`` says.
        """
        await self.execute("system_reset")

    async def resume(self) -> None:
        """Let the virtual CPUs run.

        Effect: the guest goes on where it was.

        Raises:
            MonitorError: As ``execute`` says.
        """
        await self.execute("cont")

    async def quit(self) -> None:
        """End QEMU. Its going away before it could answer is what was asked for.

        Effect: the guest loses its power.

        Raises:
            MonitorError: Not connected, or QEMU refused.
        """
        if self._connection is None:
            raise MonitorError("quit: QEMU's monitor is not connected")
        try:
            await self.execute("quit")
        except MonitorError:
            if self.connected:
                raise

    async def _greet(self, sock: socket.socket, timeout_s: float) -> QMPClient:
        client = _MonitorClient(self._on_event)
        try:
            async with asyncio.timeout(timeout_s):
                await client.connect(sock)
        except TimeoutError as exc:
            raise MonitorError(
                f"QEMU's monitor {self.socket_path} did not greet within {timeout_s:g} s:"
                " another client (libvirt, Proxmox, a tool of yours) holds it, or QEMU hangs"
            ) from exc
        except ConnectError as exc:
            if isinstance(exc.exc, (EOFError, OSError)):
                raise MonitorError(f"QEMU closed the connection to {self.socket_path}") from exc
            raise MonitorError(f"{self.socket_path} is not QEMU's monitor") from None
        return client


def _connect(sock: socket.socket, path: Path) -> None:
    """Connect at once. Not by the loop: its sock_connect takes a full backlog (EAGAIN) for a connection.

    Raises:
        MonitorAbsentError: Nobody listens there.
        MonitorError: Too many clients wait already, or the path is of no use.
    """
    sock.settimeout(0)
    try:
        sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise MonitorAbsentError(f"nobody listens on {path}: the VM is off") from exc
    except BlockingIOError as exc:
        raise MonitorError(f"other clients already wait for QEMU's monitor {path}") from exc
    except OSError as exc:
        raise MonitorError(f"{path} can't be used: {exc}") from exc


def _release(lock: SocketLock | None) -> None:
    if lock is not None:
        lock.release()
