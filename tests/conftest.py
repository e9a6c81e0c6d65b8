"""Peers that several tests need: a private, real redis-server, and the web half on it."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.net import NET
from tests.web import Web

START_TIMEOUT_S = 10


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Search what a test has printed for secrets."""
    for title, text in report.sections:
        NET.search(f"{title} of {report.nodeid}", text.encode(errors="replace"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Let the run fail if a secret was found, whatever its tests say."""
    if NET.findings and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was searched."""
    terminalreporter.section("secrets", red=bool(NET.findings), green=not NET.findings)
    terminalreporter.line(NET.summary())


class RedisServer:
    """A real redis-server of our own on a unix socket; it can be stopped and started again with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/redis.sock"

    def start(self) -> None:
        socket = self._folder / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server doesn't answer"
            assert self._process.poll() is None, "redis-server ended"

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis that tests share, one after the other."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may stop and start."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def web(redis_url: str) -> Iterator[Web]:
    """The web application, a key with all scopes, and a running VM 10000 on a node that is alive."""
    application = Web(redis_url, EXEC_START_TIMEOUT_S="5")
    application.key = application.make_key()
    application.publish()
    yield application
    application.close()
