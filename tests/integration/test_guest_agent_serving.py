"""Files and programs through real gunicorn, a real worker and a real qemu-ga: what only real sockets show.

The agent acts on this very machine: every path is in the test's own folder.
"""

import http.client
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from app.core import clock, ids
from app.core.queues import START_COMMAND
from app.core.records import Command, CommandRequest, CommandState
from app.core.store import Sight, commands
from app.core.store.files import CHUNK_BYTES
from tests.conftest import RedisServer
from tests.guest_agents import VMID, agent, until, worker
from tests.web import ACCOUNT, NODE, Web

ROOT = Path(__file__).parents[2]
AGENT = f"/v2.1/servers/{ids.openstack_id(VMID)}/guest-agent"
LIMIT_BYTES = 4_000_000
STALL_S = 1


@dataclass
class Served:
    """The product without VMs, on a port."""

    web: Web
    host: str
    folder: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Auth-Token": self.web.key}

    def call(self, method: str, route: str, **kwargs: Any) -> requests.Response:
        return requests.request(
            method, f"http://{self.host}{AGENT}/{route}", headers=self.headers, timeout=20, **kwargs
        )

    def latest(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "commands").json()["commands"][-1]
        return found

    def ended(self) -> dict[str, Any]:
        until("the record has ended", lambda: self.latest()["status"] in {"SUCCESS", "ERROR"})
        return self.latest()

    def begin_upload(self, path: Path, length: int) -> http.client.HTTPConnection:
        """Send the head of an upload, and no body yet."""
        connection = http.client.HTTPConnection(self.host, timeout=20)
        connection.putrequest("POST", f"{AGENT}/file-write?{urlencode({'path': path})}")
        for name, value in (self.headers | {"Content-Length": str(length)}).items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="ga") as name:
        home = Path(name)
        server = RedisServer(home)
        server.start()
        web = Web(server.url)
        web.key = web.make_key()
        files = {"FILE_STALL_S": str(STALL_S), "FILE_LIMIT_BYTES": str(LIMIT_BYTES)}
        with agent(home), worker(home, server.url, **files), gunicorn(server.url, files) as host:
            found = Served(web, host, home)
            until("the VM is there", lambda: found.call("POST", "commands", json=body("true")).status_code == 200)
            yield found
        web.close()
        server.stop()


class gunicorn:  # noqa: N801 - used like the functions beside it
    """The web half as the Procfile starts it; no defect may show in what it logs."""

    def __init__(self, redis_url: str, environ: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._host = f"127.0.0.1:{free.getsockname()[1]}"
        line = next(line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("web: "))
        own = {"REDIS_URL": redis_url, "PORT": self._host.rpartition(":")[2], "WEB_PROCESSES": "1"} | environ
        argv = [Path(sys.executable).with_name("gunicorn"), *shlex.split(line)[2:]]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(argv, cwd=ROOT, env=os.environ | own, stderr=self._log)

    def __enter__(self) -> str:
        def answers() -> bool:
            try:
                return requests.get(f"http://{self._host}/healthz", timeout=5).ok
            except requests.ConnectionError:
                return False

        until("gunicorn answers", answers, 30)
        return self._host

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.seek(0)
        log = self._log.read()
        self._log.close()
        assert "Traceback" not in log, log


def body(*argv: str) -> dict[str, Any]:
    return {"command": {"type": "exec", "arguments": {"command": list(argv)}}}


def query(path: Path) -> dict[str, str]:
    return {"path": str(path)}


class TestUpload:
    def test_body_without_a_length(self, served: Served, tmp_path: Path):
        parts = [secrets.token_bytes(size) for size in (1, 300_000, 7, 128 * 1024)]
        response = served.call("POST", "file-write", params=query(tmp_path / "f"), data=iter(parts))
        assert response.status_code == 204, response.text
        assert (tmp_path / "f").read_bytes() == b"".join(parts)

    def test_more_than_other_routes_take(self, served: Served, tmp_path: Path):
        data = secrets.token_bytes(LIMIT_BYTES)
        assert served.call("POST", "file-write", params=query(tmp_path / "f"), data=data).status_code == 204
        assert (tmp_path / "f").read_bytes() == data

    def test_too_much_is_413_with_a_length_and_without(self, served: Served, tmp_path: Path):
        connection = served.begin_upload(tmp_path / "f", LIMIT_BYTES + 1)
        response = connection.getresponse()
        assert (response.status, b"overLimit" in response.read()) == (413, True)
        connection.close()
        parts = (b"x" * 100_000 for _ in range(LIMIT_BYTES // 100_000 + 1))
        without = served.call("POST", "file-write", params=query(tmp_path / "f"), data=parts)
        assert (without.status_code, list(without.json())) == (413, ["overLimit"])
        assert "the file is as it was" in served.ended()["error"]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("drips", [False, True])
    def test_client_that_is_too_slow_gets_a_400_and_changes_nothing(
        self, served: Served, tmp_path: Path, *, drips: bool
    ):
        connection = served.begin_upload(tmp_path / "f", CHUNK_BYTES * 3)
        connection.send(b"x" * (CHUNK_BYTES + 5))
        over = threading.Event()

        def drip() -> None:
            while drips and not over.wait(0.05):
                try:
                    connection.send(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        began_s = time.monotonic()
        response = connection.getresponse()
        took_s = time.monotonic() - began_s
        over.set()
        thread.join()
        assert (response.status, b"too slowly" in response.read()) == (400, True)
        assert STALL_S * 0.8 < took_s < STALL_S * 4
        connection.close()
        record = served.ended()
        assert (record["type"], record["status"]) == ("file-write", "ERROR")
        until("nothing is left", lambda: list(tmp_path.iterdir()) == [])

    def test_client_that_hangs_up_changes_nothing(self, served: Served, tmp_path: Path):
        connection = served.begin_upload(tmp_path / "f", CHUNK_BYTES * 3)
        connection.send(b"x" * (CHUNK_BYTES * 2))
        until("it is under way", lambda: served.latest()["status"] == "RUNNING")
        connection.close()
        assert "the file is as it was" in served.ended()["error"]
        until("nothing is left", lambda: list(tmp_path.iterdir()) == [])

    def test_refusal_reaches_a_client_that_is_still_sending(self, served: Served, tmp_path: Path):
        response = served.call("POST", "file-write", params=query(tmp_path / "no" / "f"), data=b"x" * LIMIT_BYTES)
        assert response.status_code == 409, response.text


def test_many_at_once_all_arrive(served: Served, tmp_path: Path):
    contents = {tmp_path / str(number): secrets.token_bytes(500_000) for number in range(12)}

    def there_and_back(item: tuple[Path, bytes]) -> bytes:
        path, data = item
        assert served.call("POST", "file-write", params=query(path), data=data).status_code == 204
        return served.call("GET", "file-read", params=query(path)).content

    with ThreadPoolExecutor(len(contents)) as pool:
        assert list(pool.map(there_and_back, contents.items())) == list(contents.values())


class TestDownload:
    def test_client_that_hangs_up_ends_it(self, served: Served, tmp_path: Path):
        (tmp_path / "f").write_bytes(secrets.token_bytes(LIMIT_BYTES))
        response = served.call("GET", "file-read", params=query(tmp_path / "f"), stream=True)
        next(response.iter_content(10))
        response.close()
        assert served.ended()["status"] == "ERROR"

    def test_client_that_reads_no_further_is_given_up(self, served: Served, tmp_path: Path):
        (tmp_path / "f").write_bytes(b"x" * LIMIT_BYTES)
        with socket.create_connection(served.host.split(":")) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"GET {AGENT}/file-read?{urlencode(query(tmp_path / 'f'))} HTTP/1.1\r\nHost: a\r\n"
            connection.sendall(f"{head}X-Auth-Token: {served.web.key}\r\n\r\n".encode())
            assert connection.recv(10)
            record = served.ended()
        assert (record["type"], record["status"]) == ("file-read", "ERROR")

    def test_cancelled_one_breaks_off_so_that_the_client_sees_it(self, served: Served, tmp_path: Path):
        (tmp_path / "f").write_bytes(b"x" * LIMIT_BYTES)
        response = served.call("GET", "file-read", params=query(tmp_path / "f"), stream=True)
        parts = response.iter_content(10)
        next(parts)
        cancelled = served.call("DELETE", f"commands/{response.headers['X-Guest-Agent-Command-UUID']}")
        assert cancelled.json()["command"]["status"] == "ERROR"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(parts)


class TestPrograms:
    def test_program_gets_its_arguments_as_they_are(self, served: Served):
        started = served.call("POST", "commands", json=body("printf", "<%s>", "$HOME", "a b", ""))
        assert started.status_code == 200, started.text
        uuid = started.json()["command"]["uuid"]

        def shown() -> dict[str, Any]:
            found: dict[str, Any] = served.call("GET", f"commands/{uuid}").json()["command"]
            return found

        until("it has ended", lambda: shown()["status"] == "SUCCESS")
        assert shown()["result"]["stdout"] == "<$HOME><a b><>"

    def test_one_that_is_cancelled_before_it_is_sent_never_runs(self, served: Served, tmp_path: Path):
        moment = clock.now()
        uuid = ids.command_id()
        command = Command(
            id=uuid,
            vmid=VMID,
            account=ACCOUNT,
            node=NODE,
            state=CommandState.QUEUED,
            created_at=moment,
            deliver_by=moment,
        )
        request = CommandRequest(argv=("touch", str(tmp_path / "ran")))
        served.web.store.run(commands.create(command, request, deliver_within_s=9))
        served.web.store.run(commands.request_cancel(VMID, uuid, Sight(ACCOUNT)))
        served.web.services().commands.dispatch.put(NODE, START_COMMAND, (uuid, VMID), timeout_s=60)
        record = served.ended()
        assert (record["uuid"], record["status"], record["result"]) == (uuid, "ERROR", None)
        assert record["error"] == "Command was cancelled before it was sent; it has not run"
        assert list(tmp_path.iterdir()) == []
