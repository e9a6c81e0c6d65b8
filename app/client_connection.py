"""One client's connection to gunicorn: how long it may let us wait, and what of its next request has come.

Knows sockets and gunicorn's parser; who is served when is ``slow_clients``' business.
"""

import errno
import re
import socket
import struct
import sys
import time
from select import POLLIN, POLLOUT, poll
from typing import Any

from gunicorn.http.body import ChunkedReader  # type: ignore[import-untyped]
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn  # type: ignore[import-untyped]

HEAD_LIMIT_BYTES = 64 * 1024
"""Of the request line and all header fields together."""
LEAST_BYTES_PER_S = 5000
"""A client that is slower than this for ``stall_s``, on the whole, is cut off."""

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_NO_LINGER = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER
_PIECE_BYTES = 64 * 1024


class ClientSocket(socket.socket):
    """A connection whose client has only so much time in which it lets us wait.

    Whether it waits at all is kept here: each of its system calls says that it must not wait, so the kernel needn't
    be told twice a request.
    """

    def __init__(self, accepted: socket.socket, stall_s: float) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._stall_s = stall_s
        self._left_s = stall_s
        self._may_wait = True
        self.is_stuck = False

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001 - socket's method
        """Let it wait for its client, or not."""
        self._may_wait = flag

    def settimeout(self, value: float | None, /) -> None:
        """Let it wait for its client, or not: how long is ``stall_s``."""
        self._may_wait = value != 0

    def begin(self) -> None:
        """Give the client all of its time again: a request begins."""
        self._left_s = self._stall_s

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive what there is, and wait for it.

        Raises:
            BlockingIOError: Nothing is there, and this connection is one not to wait for.
            ConnectionResetError: The client took too long.
        """
        while True:
            try:
                data = super().recv(size, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._may_wait:
                    raise
                self._wait(POLLIN)
            else:
                self._earn(len(data))
                return data

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all of it, and wait until the client's side has taken it.

        Raises:
            BlockingIOError: It doesn't take all of it, and this connection is one not to wait for.
            ConnectionResetError: The client took too long.
        """
        rest = memoryview(data)
        while rest:
            try:
                sent_bytes = super().send(rest, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._may_wait:
                    raise
                self._wait(POLLOUT)
            else:
                self._earn(sent_bytes)
                rest = rest[sent_bytes:]

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send all of it, as ``sendall`` does."""
        self.sendall(data, flags)
        return memoryview(data).nbytes

    def _wait(self, event: int) -> None:
        readiness = poll()
        readiness.register(self, event)
        began_s = time.monotonic()
        ready = readiness.poll(max(0.0, self._left_s) * 1000)
        self._left_s -= time.monotonic() - began_s
        if event == POLLOUT and not ready:  # the kernel needn't keep for it what it doesn't take
            self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.is_stuck = True
        if not ready:  # as if it had gone: gunicorn and werkzeug know what to do then
            raise ConnectionResetError(errno.ECONNRESET, "the client was too slow")

    def _earn(self, size_bytes: int) -> None:
        self._left_s = min(self._stall_s, self._left_s + size_bytes / LEAST_BYTES_PER_S)


class Connection(TConn):  # type: ignore[misc]
    """A client's connection, and as much of the next request's head as has come."""

    def __init__(self, cfg: Any, client_socket: ClientSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, client_socket, client, server)
        self.data_ready = True  # a thread needn't look
        self.head = bytearray()
        self.is_too_long = False
        self.ignored_bytes = 0
        self.skipped_bytes = 0

    def receive(self) -> bytes | None:
        """Receive what has come; ``None`` if nothing has, nothing if nothing more will."""
        try:
            data: bytes = self.sock.recv(_PIECE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        return data

    def has_head(self, data: bytes) -> bool:
        """Take what has come, and tell whether the head is complete; one that is too long is.

        What is left of the body of the request before goes first, and to nobody.
        """
        skipped_bytes = min(len(data), self.skipped_bytes)
        self.skipped_bytes -= skipped_bytes
        searched_bytes = max(0, len(self.head) - 2)
        self.head += data[skipped_bytes:]
        end = _EMPTY_LINE.search(self.head, searched_bytes)
        self.is_too_long = (end.end() if end else len(self.head)) > HEAD_LIMIT_BYTES
        return end is not None or self.is_too_long

    def unread_bytes(self) -> int:
        """Tell how much of the last request's body nobody has read; too much where its length can't be known."""
        reader = self.parser.mesg.body.reader
        if isinstance(reader, Chunks):
            return 0 if reader.are_over() else sys.maxsize
        length: int = reader.length
        return length


class Chunks:
    """A body in chunks; one that is malformed reads like one whose client has gone."""

    def __init__(self, reader: ChunkedReader) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        """Read.

        Raises:
            ConnectionAbortedError: What comes is no chunk.
        """
        try:
            data: bytes = self._reader.read(size)
        except ParseException as exc:
            raise ConnectionAbortedError(errno.ECONNABORTED, type(exc).__name__) from exc
        return data

    def are_over(self) -> bool:
        """Tell whether the last one has been read."""
        return self._reader.parser is None
