"""Clients that take their time, by the hundred, at a real gunicorn: others are served, and they are cut off."""

import contextlib
import errno
import http.client
import json
import os
import re
import select
import selectors
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]

from app.connection_shares import Shares
from app.slow_clients import PatientWorker
from tests.web import EXEC, Web

ROOT = Path(__file__).parents[2]
STALL_S = 2.0
MARGIN_S = 3.0
SLOW = 300
TOKENS = "/identity/v3/auth/tokens"


@dataclass
class Server:
    """A web half of one process."""

    port: int
    process: "subprocess.Popen[bytes]"

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        client = socket.socket()
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(10)
        client.connect(("127.0.0.1", self.port))
        return client

    def ask(self, sent: bytes) -> bytes:
        """Send something and read all that comes until the other end closes."""
        with self.connect() as client:
            client.sendall(sent)
            return read_all(client)

    def served_ms(self, path: str = "/healthz", status: int = 200) -> float:
        """Serve somebody who is in a hurry."""
        began_s = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        connection.close()
        assert response.status == status
        return (time.perf_counter() - began_s) * 1000


@contextlib.contextmanager
def served(redis_url: str, *, files: int | None = None, **environ: str) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {"REDIS_URL": redis_url, "PORT": str(port), "WEB_PROCESSES": "1", "CLIENT_STALL_S": str(STALL_S)}
    line = next(line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("web: "))
    limit = ["prlimit", f"--nofile={files}:{files}"] if files else []
    command = [*limit, Path(sys.executable).with_name("gunicorn"), *shlex.split(line)[2:]]
    with tempfile.TemporaryFile("w+") as log:  # a pipe that nobody reads would stop it one day
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | own | environ, stderr=log)
        server = Server(port, process)
        try:
            wait_for(server)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        log.seek(0)
        told = log.read()
    assert process.returncode == 0, told
    assert "Traceback" not in told, told
    assert "SECRET" not in told, told
    assert told.count("Booting worker") == int((own | environ)["WEB_PROCESSES"]), told


def wait_for(server: Server) -> None:
    deadline_s = time.monotonic() + 30
    while True:
        try:
            server.served_ms()
        except OSError:
            assert time.monotonic() < deadline_s, "gunicorn doesn't answer"
            assert server.process.poll() is None, "gunicorn ended"
        else:
            return


@pytest.fixture
def server(web: Web, redis_url: str) -> Iterator[Server]:
    """A server with four threads: whoever holds one is missed at once."""
    assert web.key
    with served(redis_url, WEB_THREADS="4") as running:
        yield running


def read_all(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            received += piece
    return received


def crawl(server: Server, clients: list[socket.socket], piece: bytes, during_s: float) -> list[float]:
    """Let clients send a piece each, again and again, until all of them are cut off; tell how others were served."""
    served_ms: list[float] = []
    deadline_s = time.monotonic() + during_s
    with selectors.DefaultSelector() as selector:
        for client in clients:
            client.settimeout(0)
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() < deadline_s, f"{len(selector.get_map())} were not cut off"
            served_ms.append(server.served_ms())
            gone = {key.fileobj for key, _ in selector.select(0.1) if was_cut(key.fileobj)}
            gone |= {key.fileobj for key in selector.get_map().values() if not sends(key.fileobj, piece)}
            for client in gone:
                selector.unregister(client)
    return served_ms


def was_cut(client: socket.socket) -> bool:
    try:
        return not client.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def sends(client: socket.socket, piece: bytes) -> bool:
    try:
        client.send(piece)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def tell(what: str, served_ms: list[float]) -> None:
    p95_ms = statistics.quantiles(served_ms, n=20)[-1]
    print(f"{what}: others were served {len(served_ms)} times, p95 {p95_ms:.1f} ms, worst {max(served_ms):.1f} ms")
    assert p95_ms < 500


@pytest.mark.parametrize("beginning", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_slow_heads_hold_no_thread_and_are_cut_off(server: Server, beginning: bytes):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(SLOW)]
        for client in clients:
            client.sendall(beginning)
        served_ms = crawl(server, clients, b"a" if beginning else b"", STALL_S + MARGIN_S)
    tell(f"{SLOW} heads that begin with {beginning!r} in 4 threads", served_ms)


def test_a_kept_connection_is_no_way_around(server: Server):
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(SLOW)]
        for client in clients:
            client.sendall(request + b"GET /hea")
        for client in clients:
            assert b"200 OK" in client.recv(4096)
        served_ms = crawl(server, clients, b"a", STALL_S + MARGIN_S)
    tell(f"{SLOW} second heads in 4 threads", served_ms)


def test_slow_bodies_are_cut_off_and_as_many_threads_as_there_are_slow_clients_are_enough(web: Web, redis_url: str):
    head = f"POST {TOKENS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{{"
    with served(redis_url, WEB_THREADS="1024") as server, contextlib.ExitStack() as stack:
        assert web.key
        clients = [stack.enter_context(server.connect()) for _ in range(SLOW)]
        for client in clients:
            client.sendall(head.encode())
        served_ms = crawl(server, clients, b" ", STALL_S + 2 * MARGIN_S)
    tell(f"{SLOW} bodies", served_ms)


def test_who_has_no_key_does_not_hold_a_thread_with_a_body(server: Server):
    head = f"POST {EXEC} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{{"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(SLOW)]
        for client in clients:
            client.sendall(head.encode())
        served_ms = crawl(server, clients, b" ", STALL_S + 2 * MARGIN_S)
    tell(f"{SLOW} bodies without a key in 4 threads", served_ms)


def test_answers_that_nobody_takes_are_broken_off(server: Server):
    request = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 8  # 8 MB in all
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect(receive_bytes=4096)) for _ in range(4)]
        readiness = select.poll()
        for client in clients:
            client.sendall(request)
            readiness.register(client, 0)  # errors are told anyway
        deadline_s = time.monotonic() + STALL_S + MARGIN_S
        while len(readiness.poll(100)) < len(clients):
            assert time.monotonic() < deadline_s, "not cut off"
            server.served_ms()  # by one of the four threads that wait for these clients
        assert all(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET for client in clients)


def test_clients_that_never_close_their_end_hold_up_nobody(server: Server):
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(SLOW)]
        for client in clients:
            client.sendall(request)
        served_ms = [server.served_ms() for _ in range(40)]
        for client in clients:
            assert read_all(client).startswith(b"HTTP/1.1 200 OK")
    tell(f"{SLOW} that don't close", served_ms)


def test_a_client_that_goes_on_sending_gets_all_of_its_answer(web: Web, server: Server):
    head = f"POST {EXEC} HTTP/1.1\r\nHost: x\r\nX-API-Key: {web.key}\r\nContent-Type: application/json\r\n"
    with server.connect() as client:
        client.sendall(f"{head}Content-Length: 9000000\r\n\r\n".encode() + b" " * 60_000)
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "PAYLOAD_TOO_LARGE"


def test_slow_clients_do_not_hold_up_the_end(redis_url: str):
    with contextlib.ExitStack() as stack:
        with served(redis_url, CLIENT_STALL_S="60") as server:
            for _ in range(20):
                stack.enter_context(server.connect()).sendall(b"GET /")
            server.served_ms()
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 8


def test_more_connections_than_files_can_be_opened_end_nothing(redis_url: str):
    with served(redis_url, files=160, WEB_THREADS="4") as server:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.connect()) for _ in range(300)]
            for client in clients:
                client.sendall(b"G")
            server.served_ms()  # when the first ones have been cut off
        assert server.served_ms() < 1000


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414, "REQUEST_URI_TOO_LONG"),
        (b"GET / HTTP/1.1\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n", 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\n" + b"X-A: a\r\n" * 101 + b"\r\n", 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\n" + (b"X-A: " + b"a" * 8000 + b"\r\n") * 9, 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\nX-API-Key SECRET\r\n\r\n", 400, "BAD_REQUEST"),
        (b"SECRET\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400, "BAD_REQUEST"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: SECRET\r\n\r\n", 501, "NOT_IMPLEMENTED"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "BAD_REQUEST"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET / HTTP/1.1\r\nExpect: SECRET\r\n\r\n", 417, "EXPECTATION_FAILED"),
    ],
)
def test_what_is_no_request_is_refused_in_our_own_words(server: Server, sent: bytes, status: int, code: str):
    head, _, body = server.ask(sent).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    answer = json.loads(body)
    assert set(answer) == {"error", "message", "code", "timestamp", "requestId"}
    assert (answer["code"], f"X-Request-Id: {answer['requestId']}".encode() in head) == (code, True)
    assert b"SECRET" not in body


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n", b"5\r\nabcde!!", b"5;\x01\r\n", b"f" * 9000, b"0\r\nContent-Length: 1\r\n\r\n"]
)
def test_a_chunk_that_is_none_is_the_clients_fault(web: Web, server: Server, chunk: bytes):
    head = f"POST {EXEC} HTTP/1.1\r\nHost: x\r\nX-API-Key: {web.key}\r\nContent-Type: application/json\r\n"
    answer = server.ask(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk)
    assert answer.startswith(b"HTTP/1.1 400 "), answer


def test_requests_that_come_in_pieces_or_all_at_once_are_served(server: Server):
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert server.ask(request * 5 + last).count(b"HTTP/1.1 200 OK") == 6
    with server.connect() as client:
        for number in range(len(last)):
            client.sendall(last[number : number + 1])
        assert read_all(client).count(b"HTTP/1.1 200 OK") == 1


def test_no_answer_names_a_version(server: Server):
    heads = [server.ask(sent).partition(b"\r\n\r\n")[0] for sent in (b"GET /healthz HTTP/1.0\r\n\r\n", b"x\r\n\r\n")]
    assert not [head for head in heads if re.search(rb"(?i)^(server|x-powered-by|via):.*[0-9]", head, re.MULTILINE)]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@contextlib.contextmanager
def process_of(processes: int, listener: socket.socket) -> Iterator[PatientWorker]:
    """One of so many web processes, whose loop is turned by hand."""
    worker = PatientWorker(1, os.getpid(), [listener], None, 30, Config(), None)
    worker.shares = Shares(processes)
    with selectors.DefaultSelector() as worker.poller:
        yield worker
        for conn in worker.pending_conns:
            conn.close()
        worker.tmp.close()


def turn(worker: PatientWorker) -> float:
    """Turn the loop once as gunicorn does; tell how long it took."""
    began_s = time.monotonic()
    worker.set_accept_enabled(True)
    worker.wait_for_and_dispatch_events(1.0)
    return time.monotonic() - began_s


@pytest.fixture
def comes(listener: socket.socket) -> Iterator[Callable[[], None]]:
    """Let a client connect."""
    with contextlib.ExitStack() as clients:
        yield lambda: clients.enter_context(socket.create_connection(listener.getsockname(), 5)) and None


OTHER = 1


def test_a_connection_is_left_once_to_a_process_that_has_fewer(
    listener: socket.socket, comes: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.slow_clients.LEFT_TO_OTHERS_S", 0.3)
    with process_of(2, listener) as worker:
        comes()
        turn(worker)
        assert worker.nr_conns == 1
        for expected in (2, 3):
            comes()
            turn(worker)
            assert worker.nr_conns == expected - 1
            assert turn(worker) < 0.9
            turn(worker)  # nobody else has taken it
            assert worker.nr_conns == expected


def test_one_that_another_has_taken_counts_for_none_that_comes_later(
    listener: socket.socket, comes: Callable[[], None]
) -> None:
    with process_of(2, listener) as worker:
        comes()
        turn(worker)
        comes()
        turn(worker)
        taken, _ = listener.accept()
        for _ in range(3):
            turn(worker)
        comes()
        turn(worker)
        assert worker.nr_conns == 1
        taken.close()


@pytest.mark.parametrize("others", [0, 5])
def test_who_has_the_fewest_takes_it_at_once(listener: socket.socket, comes: Callable[[], None], others: int) -> None:
    with process_of(2, listener) as worker:
        worker.shares.tell(OTHER, others)
        for expected in range(1, others + 2):
            comes()
            turn(worker)
            assert worker.nr_conns == expected


def test_nothing_is_left_to_a_process_that_has_ended(listener: socket.socket, comes: Callable[[], None]) -> None:
    with process_of(2, listener) as worker:
        worker.shares.leave(OTHER)
        for expected in (1, 2, 3):
            comes()
            turn(worker)
            assert worker.nr_conns == expected


def test_a_process_that_is_alone_leaves_nothing_to_others(listener: socket.socket, comes: Callable[[], None]) -> None:
    with process_of(1, listener) as worker:
        for expected in (1, 2, 3):
            comes()
            turn(worker)
            assert worker.nr_conns == expected


def test_kept_connections_are_shared_evenly(web: Web, redis_url: str) -> None:
    assert web.key
    with served(redis_url, WEB_PROCESSES="3") as server, contextlib.ExitStack() as clients:

        def keep_one() -> None:
            client = clients.enter_context(server.connect())
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")

        deadline_s = time.monotonic() + 30
        while not all(connections_by_process(server)):  # until the last process has begun
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
            keep_one()
        for _ in range(90 - sum(connections_by_process(server))):
            keep_one()
        counts = connections_by_process(server)
        assert sum(counts) == 90
        assert min(counts) >= 25, counts


def connections_by_process(server: Server) -> list[int]:
    """Count the clients' connections that each web process has."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = {
        f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{server.port:04X}") and line[3] == "01"
    }
    main = server.process.pid
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    files = [[str(fd.readlink()) for fd in Path(f"/proc/{child}/fd").iterdir()] for child in children]
    return [len(established.intersection(names)) for names in files]


BREAKABLE = """
import os
from pathlib import Path
from app.connection_shares import Shares
from app.slow_clients import PatientWorker

class Breakable(PatientWorker):
    def wait_for_and_dispatch_events(self, timeout):
        super().wait_for_and_dispatch_events(min(timeout, 0.1))
        if Path("broken").exists():
            Path("broken").unlink()
            raise RuntimeError("the loop is broken")

worker_class, threads, timeout, control_socket_disable = Breakable, 8, 60, True

def app(environ, start_response):
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def test_process_whose_loop_breaks_is_replaced_at_once_though_its_threads_are_idle(tmp_path: Path):
    (tmp_path / "breakable.py").write_text(BREAKABLE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        server = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [Path(sys.executable).with_name("gunicorn"), "-c", "breakable.py", "-b", server[7:], "breakable:app"]
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL)
    try:
        broken = _answer(server, "")
        (tmp_path / "broken").touch()
        assert _answer(server, broken)
    finally:
        process.terminate()
        assert process.wait(10) == 0


def _answer(server: str, unlike: str) -> str:
    """Ask until there is an answer unlike another."""
    deadline_s = time.monotonic() + 10
    while True:
        assert time.monotonic() < deadline_s
        with contextlib.suppress(OSError), urllib.request.urlopen(server, timeout=1) as response:
            told: str = response.read().decode()
            if told != unlike:
                return told
        time.sleep(0.02)
