"""The whole product for all end-to-end tests: web, worker, a private Redis and real VMs, as `make run` starts them.

Tests are clients of its API like any other; what a person at the keyboard of the node could touch (definition files,
Redis, processes) is named by `Stack` too.
"""

import os
import shlex
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests
from requests.adapters import HTTPAdapter

from lab import accel, definitions, guest, processes
from lab.limits import HIGH_LIMITS
from tests.net import NET

START_TIMEOUT_S = 110
STOP_TIMEOUT_S = 30
BOOT_TIMEOUT_S = 60
REQUEST_TIMEOUT_S = 40
SHUTDOWN_TIMEOUT_S = 8
CLIENTS = 100
USAGE = b"OwnUp is running"
READY = "Ctrl-C stops everything."

T = TypeVar("T")


def until(timeout_s: float, what: str, probe: Callable[[], T | None], pause_s: float = 0.02) -> T:
    """Probe until there is an answer that counts."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(pause_s)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Client:
    """A client of the API, with a key."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._http = requests.Session()
        self._http.headers["X-API-Key"] = key
        self._http.mount("http://", HTTPAdapter(pool_maxsize=CLIENTS))

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: str | int) -> requests.Response:
        return self._http.get(f"{self._url}{path}", params=query, timeout=REQUEST_TIMEOUT_S)

    def post(self, path: str, **body: object) -> requests.Response:
        return self._http.post(f"{self._url}{path}", json=body, timeout=REQUEST_TIMEOUT_S)

    def kill(self, vmid: int, pid: int) -> dict[str, Any]:
        """Have a command killed; answer what is known of it then."""
        path = f"{self._url}/api/vm/{vmid}/agent/exec"
        response = self._http.delete(path, params={"pid": pid}, timeout=REQUEST_TIMEOUT_S)
        assert response.status_code == 200, response.text
        killed: dict[str, Any] = response.json()["data"]
        return killed

    def read(self, path: str, **query: str | int) -> Any:
        """Read `data` of an answer that must be a success."""
        response = self.get(path, **query)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def start(self, vmid: int, line: str) -> int:
        """Start a command; answer its pid."""
        response = self.post(f"/api/vm/{vmid}/agent/exec", command=line)
        assert response.status_code == 200, response.text
        pid: int = response.json()["data"]["pid"]
        return pid

    def result(self, vmid: int, pid: int, **query: str) -> dict[str, Any]:
        found: dict[str, Any] = self.read(f"/api/vm/{vmid}/agent/exec", pid=pid, **query)
        return found

    def wait(self, vmid: int, pid: int, timeout_s: float = 30, **query: str) -> dict[str, Any]:
        """Poll a command until it has ended."""

        def ended() -> dict[str, Any] | None:
            result = self.result(vmid, pid, **query)
            return result if result["exited"] else None

        return until(timeout_s, f"command {pid} in VM {vmid} ends", ended)

    def run(self, vmid: int, line: str, timeout_s: float = 30, **query: str) -> dict[str, Any]:
        """Run a command to its end; answer its result."""
        return self.wait(vmid, self.start(vmid, line), timeout_s, **query)

    def output(self, vmid: int, line: str) -> str:
        """Run a command that must succeed; answer what it wrote."""
        result = self.run(vmid, line)
        assert (result["exitcode"], result["stderr"]) == (0, ""), result
        text: str = result["stdout"]
        return text

    def status(self, vmid: int) -> dict[str, Any]:
        found: dict[str, Any] = self.read(f"/api/vm/{vmid}/status")
        return found

    def probe(self, vmid: int) -> dict[str, Any]:
        found: dict[str, Any] = self.read(f"/api/vm/{vmid}/agent/exec")
        return found

    def ask_power(self, vmid: int, action: str, *, force: bool = False) -> str:
        """Queue a power action; answer the id of its job."""
        response = self.post(f"/api/vm/{vmid}/status", action=action, force=force)
        assert response.status_code == 200, response.text
        queued = response.json()["data"]
        assert (queued["action"], queued["message"]) == (action, f"{action} operation queued")
        job_id: str = queued["jobId"]
        return job_id

    def follow(self, job_id: str, timeout_s: float = 60) -> list[dict[str, Any]]:
        """Poll a job to its end; answer it as it was in each state that was seen."""
        seen: list[dict[str, Any]] = []

        def ended() -> bool:
            job = self.read(f"/api/jobs/{job_id}")
            if not seen or seen[-1]["state"] != job["state"]:
                seen.append(job)
            return bool(job["isCompleted"] or job["isFailed"])

        until(timeout_s, f"job {job_id} ends", ended)
        return seen

    def power(self, vmid: int, action: str, *, force: bool = False) -> dict[str, Any]:
        """Carry out a power action; answer its job as it ended."""
        return self.follow(self.ask_power(vmid, action, force=force))[-1]

    def wait_available(self, vmid: int) -> None:
        """Wait until commands can be run in a VM: it is said, and it is so."""

        def answers() -> bool:
            if not self.probe(vmid)["available"]:
                return False
            status: int = self.post(f"/api/vm/{vmid}/agent/exec", command="true").status_code
            return status == HTTPStatus.OK

        until(BOOT_TIMEOUT_S, f"the agent of VM {vmid} is available", answers, pause_s=0.1)


@dataclass(frozen=True)
class Stack:
    """One run of the product."""

    url: str
    key: str
    client: Client
    vmids: tuple[int, ...]
    var_dir: Path
    redis_url: str
    process: processes.Child

    def printed(self) -> str:
        """Everything that all its programs have printed."""
        return (self.var_dir / "printed").read_text()

    def console(self, vmid: int) -> str:
        """Everything that a guest has written to its console."""
        sockets = definitions.socket_dir(self.var_dir, os.environ)
        return (sockets / f"{vmid}.qmp.console").read_text(errors="replace")

    def freeze(self, vmid: int, programs: str, *, thaw_after_s: float | None = None) -> None:
        """Stop programs in a guest in their tracks, and wait until they stand still. As they are not dead, nobody in
        the guest starts them again.
        """
        mark = f"frozen {uuid.uuid4()}"
        pids = f"$(pidof {programs})"
        thaw = f"sleep {thaw_after_s:g}; kill -CONT {pids}" if thaw_after_s else ":"
        line = f"(sleep 0.2; kill -STOP {pids}; echo {mark} >/dev/console; {thaw}) >/dev/null 2>&1 &"
        assert self.client.run(vmid, line)["exitcode"] == 0
        until(10, f"{programs} stand still in VM {vmid}", lambda: mark in self.console(vmid))

    def relatives(self) -> set[str]:
        """Name the living processes that were told of this VAR_DIR."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                told = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                if os.fsencode(self.var_dir) in told and folder.name != str(os.getpid()):
                    found.add((folder / "comm").read_text().strip())
            except OSError:  # it has ended meanwhile
                continue
        return found

    def end(self, number: signal.Signals) -> int:
        """Ask it to end; answer its exit status."""
        self.process.process.send_signal(number)
        return self.process.process.wait(STOP_TIMEOUT_S)


@contextmanager
def started(var_dir: Path, vms: int, **environ: str) -> Iterator[Stack]:
    """Start the product with demo VMs in a VAR_DIR of its own; the lab guest is the one that all tests boot."""
    shared = Path(os.environ.get("VAR_DIR") or "var").resolve()
    (var_dir / "accel").write_text(accel.choose(shared, guest.build(shared)))
    (var_dir / "lab").symlink_to(shared / "lab")
    port = free_port()
    own = {"VAR_DIR": str(var_dir), "PORT": str(port), "VMS": str(vms), "REDIS_URL": ""}
    line = f"{shlex.quote(sys.executable)} -m lab.run >{shlex.quote(str(var_dir / 'printed'))} 2>&1"
    run = processes.start("lab.run", line, {**os.environ, **HIGH_LIMITS, **own, **environ})
    client = None
    try:
        text = _wait_until_ready(run, var_dir / "printed")
        url, key = f"http://127.0.0.1:{port}", (var_dir / "demo.key").read_text().strip()
        assert url in text
        client = Client(url, NET.watch_key(key))
        vmids = tuple(vm.vmid for vm in definitions.demo_fleet(vms))
        redis_url = environ.get("REDIS_URL") or f"unix://{definitions.socket_dir(var_dir, os.environ)}/redis.sock"
        yield Stack(url, key, client, vmids, var_dir, redis_url, run)
    finally:
        if client is not None:
            client.close()
        processes.stop([run], STOP_TIMEOUT_S)
        _search(var_dir)


def _search(var_dir: Path) -> None:
    """Search what a run of the product has printed for secrets; what it shows the person who started it is left out."""
    before, _, shown = (var_dir / "printed").read_bytes().partition(USAGE)
    NET.search(f"what {var_dir.name} has printed", before + shown.partition(READY.encode())[2])
    NET.search_file(var_dir / "redis" / "redis.log")


def _wait_until_ready(run: processes.Child, printed: Path) -> str:
    def ready_or_ended() -> bool:
        return run.process.poll() is not None or (printed.exists() and READY in printed.read_text())

    until(START_TIMEOUT_S, "the product is ready, or has ended", ready_or_ended)
    text = printed.read_text()
    assert READY in text, text
    return text


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The product with VMs 10000, 10001 and 10002. Whatever the tests do to it, no part of it may trip over it."""
    quick = {"VM_SCAN_S": "0.3", "FIGURES_INTERVAL_S": "0.5", "SHUTDOWN_TIMEOUT_S": str(SHUTDOWN_TIMEOUT_S)}
    with started(tmp_path_factory.mktemp("stack"), 3, **quick) as running:
        yield running
        assert "Traceback" not in running.printed(), running.printed()


@pytest.fixture(scope="session")
def client(stack: Stack) -> Client:
    return stack.client


@pytest.fixture
def vmids(stack: Stack) -> tuple[int, ...]:
    """The three VMs, all of them running with their agents there, whatever an earlier test has done to them."""
    for vmid in stack.vmids:
        if stack.client.status(vmid)["status"] == "stopped":
            stack.client.power(vmid, "start")
    for vmid in stack.vmids:
        stack.client.wait_available(vmid)
    return stack.vmids


@pytest.fixture
def vmid(vmids: tuple[int, ...]) -> int:
    """The first of them."""
    return vmids[0]
