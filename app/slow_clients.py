"""gunicorn's threaded worker, where a client that takes its time holds up nobody else, and is cut off.

A connection gets a thread when the head of its request is there, not before. From then on its client has ``stall_s``
for what it sends and takes; each byte earns some of it back. Knows gunicorn's worker from inside, and nothing of what
is served. Plain HTTP/1 only: TLS ends at a proxy.

Source: gunicorn 27.0, workers/gthread.py. There a thread waits without an end for a head or a body that has begun, and
for a client that doesn't take its answer; and the one loop that accepts waits up to two seconds for each client that
doesn't close its end.
"""

import contextlib
import errno
import selectors
import socket
import time
from collections import deque
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gunicorn.http.body import ChunkedReader  # type: ignore[import-untyped]
from gunicorn.http.errors import LimitRequestHeaders  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from app import refusals
from app.client_connection import Chunks, ClientSocket, Connection
from app.connection_shares import Shares
from app.request_threads import RequestThreads

if TYPE_CHECKING:
    from concurrent.futures import Future

LINGER_S = 2.0
"""How long the client may take to close its end, so that it gets all of an answer though it goes on sending."""

LEFT_TO_OTHERS_S = 0.001
"""How long a connection is left to the processes that have fewer; whoever is woken by it takes it sooner."""

_IGNORED_LIMIT_BYTES = 2 * 1024 * 1024
"""Of a body that nobody reads: so much is received, so that the connection can be used again or closed well."""
_PASSING = frozenset({errno.EAGAIN, errno.ECONNABORTED, errno.EPROTO, errno.EPERM})
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """Serves each request in a thread, and waits for clients without one."""

    stall_s = 30.0
    """How long a client may take for the head of a request, and how long it may let a thread wait."""
    shares = Shares(1)
    """How many connections this process and the others have."""
    share = 0
    """Which of them are this process's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering: deque[Connection] = deque()
        self._accept_again_s = 0.0
        self._has_left_it = False

    def get_thread_pool(self) -> RequestThreads:
        """Make the threads that requests are served in."""
        return RequestThreads(self.cfg.threads)

    def run(self) -> None:
        """Serve until the process is to end, or can't go on; idle threads would keep it from ending."""
        try:
            super().run()
        finally:
            self.shares.leave(self.share)
            self.tpool.shutdown()

    # --- a connection comes -------------------------------------------------------------------------------------------

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's method
        """Take new connections or leave them alone, which is asked for at every turn of the loop."""
        super().set_accept_enabled(enabled and time.monotonic() >= self._accept_again_s)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Do one turn of the loop; no longer than a connection is left to others."""
        self.shares.tell(self.share, self.nr_conns)
        if self._has_left_it and not self._accepting:
            left_s = self._accept_again_s - time.monotonic()
            timeout = min(timeout, max(0.0, left_s))
            self._has_left_it = left_s > 0
        super().wait_for_and_dispatch_events(timeout)
        if self._accepting:  # so it was there for us to take, and either we have taken it or somebody else
            self._has_left_it = False

    # --- a request comes ----------------------------------------------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, unless a process with fewer ones may."""
        if self._leaves_it():
            return
        try:
            accepted, client = listener.accept()
        except OSError as exc:
            self._not_accepted(exc)
            return
        self.nr_conns += 1
        self._begin(Connection(self.cfg, ClientSocket(accepted, self.stall_s), client, listener.getsockname()))

    def on_client_socket_readable(self, conn: Connection, client: ClientSocket) -> None:
        """Take up a connection that was kept."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._begin(conn)

    def on_pending_socket_readable(self, conn: Connection, client: ClientSocket) -> None:
        """Take more of a head."""
        data = conn.receive()
        if data is None or (data and not conn.has_head(data)):
            return
        self.poller.unregister(client)
        self.pending_conns.remove(conn)
        if data:
            self._submit(conn)
        else:
            self._drop(conn)

    def enqueue_req(self, conn: Connection) -> None:
        """Let a thread serve a request."""
        conn.sock.begin()
        super().enqueue_req(conn)

    def _leaves_it(self) -> bool:
        """Leave a connection to others for a moment, but only once."""
        if self._has_left_it or self.nr_conns <= self.shares.fewest():
            return False
        self._has_left_it = True
        self._accept_again_s = time.monotonic() + LEFT_TO_OTHERS_S
        self.set_accept_enabled(False)
        return True

    def _not_accepted(self, exc: OSError) -> None:
        """Go on; where there is no room for one more connection, with those that there are, until there is."""
        if exc.errno in _FULL:
            self.worker_connections = max(1, self.nr_conns)
        elif exc.errno not in _PASSING:
            raise exc

    def _begin(self, conn: Connection, received: bytes | None = None) -> None:
        data = received or conn.receive()
        if data == b"":
            self._drop(conn)
        elif data is not None and conn.has_head(data):
            self._submit(conn)
        else:
            conn.timeout = time.monotonic() + self.stall_s
            self.pending_conns.append(conn)
            self._watch(conn, self.on_pending_socket_readable)

    def _submit(self, conn: Connection) -> None:
        head, conn.head = conn.head, bytearray()
        if conn.is_too_long:
            self.handle_error(None, conn.sock, conn.client, LimitRequestHeaders("all together"))
            self._linger(conn)
            return
        conn.init()
        conn.parser.unreader.unread(bytes(head))
        self.enqueue_req(conn)

    # --- a request has been served ------------------------------------------------------------------------------------

    def handle_request(self, req: Any, conn: Connection) -> bool:
        """Serve a request, in a thread."""
        if isinstance(req.body.reader, ChunkedReader):
            req.body.reader = Chunks(req.body.reader)
        keep: bool = super().handle_request(req, conn)
        return keep

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:  # noqa: FBT001 - gunicorn's method
        """Tell whether the connection can be kept; what is left of a body is nothing that a thread waits for."""
        return keepalive and not conn.parser.mesg.body.failed and conn.unread_bytes() <= _IGNORED_LIMIT_BYTES

    def finish_request(self, conn: Connection, fs: "Future[bool]") -> None:
        """Keep the connection, or close it."""
        if conn.sock.is_stuck:
            self._drop(conn)
            return
        if fs.cancelled() or fs.exception() or not fs.result():
            self._linger(conn)
            return
        conn.sock.settimeout(0)
        conn.skipped_bytes = conn.unread_bytes()
        conn.parser.mesg = None  # or the parser would wait for the rest of its body
        received = conn.parser.unreader.take_buffered()
        if received or conn.skipped_bytes:
            self._begin(conn, received)
        else:
            super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Close connections whose time is over."""
        super().murder_pending()
        now_s = time.monotonic()
        while self._lingering and self._lingering[0].timeout <= now_s:
            conn = self._lingering.popleft()
            self.poller.unregister(conn.sock)
            self._drop(conn)

    def _linger(self, conn: Connection) -> None:
        """Say that nothing more comes, and close when the client has closed: it loses no part of the answer.

        Source: RFC 9112 section 9.6.
        """
        try:
            conn.sock.settimeout(0)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        conn.timeout = time.monotonic() + LINGER_S
        self._lingering.append(conn)
        self._watch(conn, self._ignore)

    def _ignore(self, conn: Connection, client: ClientSocket) -> None:
        data = conn.receive()
        conn.ignored_bytes += len(data or b"")
        if data is None or (data and conn.ignored_bytes <= _IGNORED_LIMIT_BYTES):
            return
        self.poller.unregister(client)
        self._lingering.remove(conn)
        self._drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """Close idle connections by a deadline, because this process ends."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def _watch(self, conn: Connection, readable: Any) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(readable, conn))

    def _drop(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    def handle_error(self, req: Any, client: ClientSocket, addr: Any, exc: Exception) -> None:
        """Refuse what is no request. Not even the log shows it: the line that is wrong may be the one with the key."""
        del req
        status = refusals.judge(exc)
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.error("A request ended in an error", exc_info=exc)
        else:
            self.log.warning("Refused what is no request: %s, from %s", type(exc).__name__, addr[0])
        with contextlib.suppress(OSError):
            client.settimeout(0)
            client.sendall(refusals.write(status))
