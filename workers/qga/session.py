"""One synchronised connection to a guest agent, from sync to close.

Owns a socket and a ``qemu.qmp.QMPClient``; knows nothing of who else may want the agent (see ``channel``). Raw replies
are never logged: the far end is the customer's.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from qemu.qmp import ExecInterruptedError, QMPError, Runstate
from qemu.qmp.message import Message
from qemu.qmp.protocol import ConnectError

from app.core.errors import (
    AgentAbsentError,
    AgentProtocolError,
    AgentSilentError,
    AgentUnavailableError,
)
from app.core.memory import give_back_soon
from workers.qga import wire
from workers.qga.window import Window
from workers.quiet_client import QuietClient

_CHUNK_BYTES = 16 * 1024
_CLOSE_TIMEOUT_S = 1.0
_LONG_RPCS = frozenset({"guest-exec-status"})
"""What may be answered with a long reply; one to anything else is broken off where it becomes long."""
_LONG_REPLY_TIMEOUT_S = 30.0
"""For one long reply, once it is its turn: 64 MiB at the 9 MB/s of an emulated guest take 8 s."""
_PATIENCE_S = 60.0
"""For one short reply at most, however many other requests the agent answers meanwhile."""
_IN_MEMORY_BYTES = 1024 * 1024
_STRAYS_LIMIT = 1000
"""How many replies to nobody a session takes: late ones are normal, a flood isn't."""

_silent = logging.getLogger("workers.qga.silent")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class _Pending:
    """A request that is not settled yet, whether its caller still waits or has gone.

    Attributes:
        reply: What its caller waits for.
        on_answered: Called when the agent has answered.
        sent_s: When it was sent, by the loop's clock.
        timeout_s: How long the agent may say nothing at all after that; ``None``: the caller sees to that.
    """

    __slots__ = ("on_answered", "reply", "sent_s", "timeout_s")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[Message] = loop.create_future()
        self.on_answered: Callable[[], None] = _nothing
        self.sent_s = loop.time()
        self.timeout_s: float | None = None

    def deadline_s(self, heard_s: float) -> float | None:
        """Tell until when the agent may be silent that was heard last at a certain time."""
        if self.timeout_s is None:
            return None
        return min(max(self.sent_s, heard_s) + self.timeout_s, self.sent_s + max(self.timeout_s, _PATIENCE_S))

    def answer(self, reply: Message) -> None:
        """Settle it with the agent's reply."""
        self.on_answered()
        if not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, error: Exception) -> None:
        """Settle it without one: the session is over."""
        if not self.reply.done():
            self.reply.set_exception(error)
            self.reply.exception()  # told to the caller, if there still is one


class _AgentClient(QuietClient):
    """QMPClient for the far side of a virtio-serial port.

    Stock ids start at 0 for each client, so that a stale reply to an earlier client answers another call; ours start
    with a random part.
    """

    def __init__(self, long_replies: asyncio.Semaphore) -> None:
        super().__init__(_silent, readbuflen=wire.SMALL_REPLY_BYTES)
        self._long_replies = long_replies
        self._asked: dict[str, _Pending] = {}
        self._strays = 0
        self.long_calls = 0
        self.heard_s = 0.0
        self.await_greeting = False
        self.negotiate = False
        self._id_prefix = secrets.token_hex(8)

    def write(self, rpc: str, arguments: Mapping[str, object] | None) -> tuple[str, bytes]:
        """Write a request with an id of its own.

        Returns:
            The id, and all that is to be sent.
        """
        self._execute_id += 1
        request_id = f"{self._id_prefix}-{self._execute_id}"
        return request_id, wire.dump_request(rpc, arguments, request_id)

    def send(self, request_id: str, request: bytes) -> _Pending:
        """Send a request at once.

        QMPClient's own ``execute`` does the same with a queue and a task's turn in each direction, and writes each
        request four times.

        Effect: whatever the RPC does in the guest.

        Returns:
            Is settled by the reply, or by ``ExecInterruptedError`` when the connection ends before.

        Raises:
            AgentUnavailableError: The connection has ended: nothing was sent.
        """
        if self.runstate is not Runstate.RUNNING or self._writer is None:
            raise AgentUnavailableError("the connection to the QEMU Guest Agent has ended")
        pending = self._asked[request_id] = _Pending()
        self._writer.write(request)
        return pending

    def give_up_late(self) -> tuple[bool, float | None]:
        """Settle the requests that the agent has let wait too long.

        Returns:
            Whether there were any, and when to look again: at the next deadline, by the loop's clock, if there is one.
        """
        deadlines = {
            request_id: deadline_s
            for request_id, pending in self._asked.items()
            if (deadline_s := pending.deadline_s(self.heard_s)) is not None
        }
        now_s = asyncio.get_running_loop().time()
        late = [request_id for request_id, deadline_s in deadlines.items() if deadline_s <= now_s]
        for request_id in late:
            del deadlines[request_id]
            self._asked.pop(request_id).fail(TimeoutError())
        return bool(late), min(deadlines.values(), default=None)

    async def _bh_disconnect(self) -> None:
        try:
            await super()._bh_disconnect()
        finally:
            asked, self._asked = self._asked, {}
            for each in asked.values():
                each.fail(ExecInterruptedError("Disconnected"))

    async def _do_recv(self) -> Message:
        if self._reader is None:
            raise EOFError
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as exc:
            raise EOFError from exc
        except asyncio.LimitOverrunError:
            line = await self._receive_long_line(self._reader)
        reply = wire.load_reply(line)
        del line  # an exception keeps what its frames hold until the garbage collector comes, which counts no bytes
        if reply is None:
            raise AgentProtocolError("the agent sent what is no reply")
        return Message(reply, eager=False)

    async def _receive_long_line(self, reader: asyncio.StreamReader) -> bytes:
        if not self.long_calls:
            raise AgentProtocolError("the agent's reply is too long for what was asked")
        give_back_soon()
        try:
            async with self._long_replies, asyncio.timeout(_LONG_REPLY_TIMEOUT_S):
                # Mostly on disk: a slow sender occupies no memory, so that many can be received at once.
                with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as line:
                    while not await self._receive_part(reader, line):
                        if line.tell() > wire.REPLY_LIMIT_BYTES:
                            raise AgentProtocolError("the agent's reply is too long")
                    line.seek(0)
                    return line.read()
        except TimeoutError as exc:
            raise AgentProtocolError("the agent's reply takes too long") from exc

    async def _receive_part(self, reader: asyncio.StreamReader, line: IO[bytes]) -> bool:
        """Receive a part of a line; answer whether it was the last.

        Raises:
            EOFError: The connection ended.
        """
        last = True
        try:
            part = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as exc:
            raise EOFError from exc
        except asyncio.LimitOverrunError as exc:
            part, last = await reader.readexactly(exc.consumed), False
        line.write(part)
        self.heard_s = asyncio.get_running_loop().time()
        return last

    async def _on_message(self, msg: Message) -> None:
        request_id = msg.get("id")
        if request_id is None and "error" in msg:
            raise AgentProtocolError("the agent could not read a request")
        # An agent has no events; QMPClient would keep each one that came.
        if isinstance(request_id, str) and request_id in self._asked and "event" not in msg:
            self.heard_s = asyncio.get_running_loop().time()
            self._asked.pop(request_id).answer(msg)
            return
        self._strays += 1
        if self._strays > _STRAYS_LIMIT:
            raise AgentProtocolError("the agent sends what nobody asked for")


class Session:
    """A connection to an agent between two syncs. After any time-out it is closed and never used again."""

    def __init__(self, sock: socket.socket, client: _AgentClient, on_end: Callable[[bool], None]) -> None:
        self._sock = sock
        self._client = client
        self._window = Window()
        self._timer: asyncio.TimerHandle | None = None
        self._watcher = asyncio.create_task(self._watch(on_end))

    @classmethod
    async def open(
        cls, path: Path, *, timeout_s: float, long_replies: asyncio.Semaphore, on_end: Callable[[bool], None]
    ) -> "Session":
        """Connect and synchronise.

        The raw socket is synchronised first and handed over then, because QMPClient's reader breaks on 0xFF and takes
        the id-less error that a parser reset yields for the end of the connection.

        Args:
            path: The agent socket.
            timeout_s: For connecting and synchronising together.
            long_replies: How many long replies the whole node receives at the same time.
            on_end: Called once when the connection ends, with whether that was for what the far end sent.

        Raises:
            AgentUnavailableError: Nobody listens on the socket, or nobody answered in time; nothing ran.
            AgentProtocolError: The far end is no guest agent.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(0)
        try:
            async with asyncio.timeout(timeout_s):
                _connect(sock, path)
                await _synchronise(sock)
                client = _AgentClient(long_replies)
                await client.connect(sock)
        except TimeoutError as exc:
            sock.close()
            raise AgentUnavailableError("QEMU Guest Agent does not answer") from exc
        except (OSError, QMPError) as exc:
            sock.close()
            if isinstance(exc, ConnectError) and isinstance(exc.exc, AgentProtocolError):
                raise exc.exc from None
            raise AgentUnavailableError("the VM's agent socket was closed by the other side") from exc
        except BaseException:
            sock.close()
            raise
        return cls(sock, client, on_end)

    @property
    def alive(self) -> bool:
        """Whether calls can be made."""
        return self._client.runstate is Runstate.RUNNING

    async def call(self, rpc: str, arguments: Mapping[str, object] | None, *, timeout_s: float) -> Any:
        """Ask the agent and return what it returned.

        Effect: whatever the RPC does in the guest.

        Args:
            rpc: Its name.
            arguments: Its arguments.
            timeout_s: How long the agent may say nothing at all. It does one request after the other: while it answers
                earlier ones it isn't silent.

        Raises:
            AgentUnavailableError: The session had ended already: nothing was sent.
            AgentRefusedError: The agent answered with an error.
            AgentSilentError: Sent, but the time was up or the connection ended before the reply. The session is closed.
            AgentProtocolError: The reply is malformed.
        """
        request_id, request = self._client.write(rpc, arguments)
        room_bytes = await self._window.take(len(request))
        try:
            pending = self._client.send(request_id, request)
        except AgentUnavailableError:
            self._window.give(room_bytes)
            raise
        self._attend(pending, rpc, timeout_s, room_bytes)
        try:
            return wire.load_return(rpc, await pending.reply)
        except TimeoutError as exc:
            await self.close()
            raise AgentSilentError(f"{rpc}: no reply within {timeout_s:g} s") from exc
        except ExecInterruptedError as exc:
            raise AgentSilentError(f"{rpc}: the connection to the agent ended before the reply") from exc

    def _attend(self, pending: _Pending, rpc: str, timeout_s: float, room_bytes: int) -> None:
        """See a request that was sent to its end: the agent answers also a caller who has gone."""
        long_calls = int(rpc in _LONG_RPCS)
        self._client.long_calls += long_calls

        def make_room() -> None:
            self._window.give(room_bytes)
            self._client.long_calls -= long_calls

        pending.on_answered, pending.timeout_s = make_room, timeout_s
        self._look_at(pending.sent_s + timeout_s)

    def _look_at(self, when_s: float) -> None:
        """Look then at the latest whether the agent has been silent for too long; one timer serves all requests."""
        if self._timer is not None:
            if self._timer.when() <= when_s:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when_s, self._look)

    def _look(self) -> None:
        self._timer = None
        is_silent, next_s = self._client.give_up_late()
        if is_silent:
            self._hang_up()
        elif next_s is not None:
            self._look_at(next_s)

    async def tell(self, rpc: str, arguments: Mapping[str, object] | None, *, grace_s: float) -> None:
        """Send an RPC that has no success reply, such as guest-shutdown, and listen for a refusal for a while.

        Effect: whatever the RPC does in the guest.

        Raises:
            AgentUnavailableError: The session had ended already: nothing was sent.
            AgentRefusedError: The agent answered with an error.
        """
        pending = self._client.send(*self._client.write(rpc, arguments))
        with contextlib.suppress(TimeoutError, ExecInterruptedError, AgentProtocolError):
            async with asyncio.timeout(grace_s):
                wire.load_return(rpc, await pending.reply)

    async def close(self) -> None:
        """End the connection; calls under way fail with ``AgentSilentError``."""
        self._hang_up()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.shield(self._watcher)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    async def _watch(self, on_end: Callable[[bool], None]) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        self._window.open_for_all()
        misbehaved = False
        # disconnect() raises once more whatever ended the connection, and must be called to free the client.
        with contextlib.suppress(Exception):
            try:
                await self._client.disconnect()
            except AgentProtocolError:
                misbehaved = True
        if self._timer is not None:  # not before: until then somebody may still wait
            self._timer.cancel()
        on_end(misbehaved)


def _connect(sock: socket.socket, path: Path) -> None:
    # Not by the loop: its sock_connect takes a full backlog (EAGAIN) for a connection.
    try:
        sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise AgentAbsentError("the VM's agent socket is not there: the VM is off") from exc
    except BlockingIOError as exc:
        raise AgentUnavailableError("other programs are connected to the VM's agent socket") from exc
    except OSError as exc:
        raise AgentUnavailableError(f"the VM's agent socket can't be used: {exc.strerror}") from exc


async def _synchronise(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    sync_id = wire.make_sync_id()
    scanner = wire.SyncScanner(sync_id)
    await loop.sock_sendall(sock, wire.dump_sync(sync_id))
    while True:
        data = await loop.sock_recv(sock, _CHUNK_BYTES)
        if not data:
            raise AgentUnavailableError("the VM's agent socket was closed by the other side")
        if scanner.feed(data):
            return
        await asyncio.sleep(0)  # bytes that are there already are received without giving way to anybody


def _nothing() -> None:
    return
