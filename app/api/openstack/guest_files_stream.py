"""A request's body and an answer as streams of chunks: bounded, and given up where a client stands still.

Knows the server's socket, because a thread that waits for a client's bytes can be freed in no other way. Doesn't know
where bytes come from or go to.
"""

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import IO, Self, cast

from flask import Response, request
from werkzeug.exceptions import ClientDisconnected

from app.core.errors import FileTooLargeError, InvalidRequestError, OwnUpError, Problem
from app.files import CHUNK_BYTES, Download
from app.request_log import request_id

_LOG = logging.getLogger(__name__)


class Watchdog:
    """Ends a connection whose client lets us wait for too long: each chunk has its time."""

    def __init__(self, connection: socket.socket | None, how: int, stall_s: float) -> None:
        """Watch nothing yet.

        Args:
            connection: To the client; ``None`` where there is none to be watched.
            how: Which way is closed, as ``socket.shutdown`` takes it.
            stall_s: The time for a chunk.
        """
        self._connection = connection
        self._how = how
        self._stall_s = stall_s
        self._until_s: float | None = None
        self._over = False
        self._news = threading.Condition()
        if connection is not None:
            threading.Thread(target=self._run, args=(connection,), name="watchdog", daemon=True).start()

    def watch(self) -> None:
        """From now on it is the client who is waited for."""
        with self._news:
            self._until_s = time.monotonic() + self._stall_s
            self._news.notify()

    def rest(self) -> None:
        """From now on it isn't."""
        with self._news:
            self._until_s = None
            self._news.notify()

    def close(self) -> None:
        """End the watch."""
        with self._news:
            self._over = True
            self._news.notify()

    def _run(self, connection: socket.socket) -> None:
        with self._news:
            while not self._over:
                left_s = None if self._until_s is None else self._until_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    with contextlib.suppress(OSError):
                        connection.shutdown(self._how)
                    return
                self._news.wait(left_s)


def insist_on_length(limit_bytes: int) -> None:
    """Insist that the body of the present request doesn't say that it is too long; it may say nothing.

    Raises:
        FileTooLargeError: It does.
    """
    if (request.content_length or 0) > limit_bytes:
        raise FileTooLargeError(limit_bytes)


def read_body(limit_bytes: int, stall_s: float) -> Iterator[bytes]:
    """Read the body of the present request as it comes, in chunks of ``CHUNK_BYTES``, the last one shorter.

    Args:
        limit_bytes: How long it may be, and one more byte, which tells that it is too long.
        stall_s: How long the client may take for a chunk.

    Raises:
        InvalidRequestError: It came to no end.
    """
    request.max_content_length = limit_bytes + 1  # the application's own limit is for bodies that are held in memory
    received_bytes, watchdog = 0, Watchdog(_connection(), socket.SHUT_RD, stall_s)
    try:
        while chunk := _read_chunk(request.stream, watchdog):
            received_bytes += len(chunk)
            yield chunk
    finally:
        watchdog.close()
    if received_bytes < (request.content_length or 0):
        raise InvalidRequestError(Problem("body", "came to no end, or too slowly"))


def answer(download: Download, stall_s: float) -> Response:
    """Answer the present request with the bytes of a file, as they come."""
    watchdog = Watchdog(_connection(), socket.SHUT_RDWR, stall_s)
    return Response(_Body(download, watchdog, request_id()), content_type="application/octet-stream")


class _Body:
    """The bytes of an answer; closed by the server, whatever happens."""

    def __init__(self, download: Download, watchdog: Watchdog, request_id_: str) -> None:
        self._download = download
        self._watchdog = watchdog
        self._request_id = request_id_

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Wait for the next bytes.

        Raises:
            StopIteration: That was all of it.
            ConnectionResetError: There is more, and it will not come: the server breaks the answer off without a word.
        """
        self._watchdog.rest()
        try:
            chunk = next(self._download)
        except OwnUpError as exc:
            # Why, which may be in the guest's words, the record says.
            _LOG.warning("file_read_broken", extra={"request_id": self._request_id, "error": type(exc).__name__})
            raise ConnectionResetError(errno.ECONNRESET, str(exc)) from exc
        self._watchdog.watch()
        return chunk

    def close(self) -> None:
        """Let the file and the connection go."""
        self._watchdog.close()
        self._download.close()


def _read_chunk(stream: IO[bytes], watchdog: Watchdog) -> bytes:
    """Read a chunk; a shorter one, or none, is the last.

    Raises:
        InvalidRequestError: The client has gone in the middle.
    """
    parts, missing_bytes = [], CHUNK_BYTES
    watchdog.watch()
    try:
        while missing_bytes and (part := stream.read(missing_bytes)):
            parts.append(part)
            missing_bytes -= len(part)
    except (OSError, ClientDisconnected) as exc:
        raise InvalidRequestError(Problem("body", "came to no end, or too slowly")) from exc
    finally:
        watchdog.rest()
    return b"".join(parts)


def _connection() -> socket.socket | None:
    """Find the client's socket. Source: gunicorn, http/wsgi.py, ``gunicorn.socket``."""
    return cast("socket.socket | None", request.environ.get("gunicorn.socket"))
