"""`make run` does to the end what it says, leaves nothing behind, and finds its feet again after a crash."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import accel, guest

START_TIMEOUT_S = 100
STOP_TIMEOUT_S = 25
READY = "Ctrl-C stops everything."


def until(timeout_s: float, what: str, probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + timeout_s
    while not probe():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Run:
    """One `lab.run`, what it prints, and whatever processes belong to its VAR_DIR."""

    def __init__(self, var_dir: Path) -> None:
        self.var_dir = var_dir
        self.printed = var_dir / "printed"
        self.environ = {**os.environ, "VAR_DIR": str(var_dir), "PORT": str(free_port()), "VMS": "2", "REDIS_URL": ""}
        with self.printed.open("wb") as output:
            argv = [sys.executable, "-m", "lab.run"]
            self.process = subprocess.Popen(argv, env=self.environ, stdout=output, stderr=output)

    def text(self) -> str:
        return self.printed.read_text()

    def wait_until_ready(self) -> None:
        until(START_TIMEOUT_S, "it is ready or has ended", lambda: READY in self.text() or self.has_ended())
        assert READY in self.text(), self.text()

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def relatives(self) -> set[str]:
        """Name the living processes that were told of this VAR_DIR, the run itself included."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                told = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                if os.fsencode(self.var_dir) in told and folder.name != str(os.getpid()):
                    found.add((folder / "comm").read_text().strip())
            except OSError:  # it has ended meanwhile
                continue
        return found

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_TIMEOUT_S)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Run]]:
    """Start runs in a VAR_DIR of our own; the guest is the one that all tests boot."""
    shared = Path(os.environ.get("VAR_DIR") or "var").resolve()
    accelerator = accel.choose(shared, guest.build(shared))
    var_dir = tmp_path_factory.mktemp("var")
    (var_dir / "lab").symlink_to(shared / "lab")
    (var_dir / "accel").write_text(accelerator)
    runs: list[Run] = []

    def start() -> Run:
        runs.append(Run(var_dir))
        return runs[-1]

    yield start
    for run in runs:
        if not run.has_ended():
            run.interrupt()


@pytest.fixture(scope="module")
def run(make_run: Callable[[], Run]) -> Run:
    run = make_run()
    run.wait_until_ready()
    return run


def test_it_has_run_a_command_in_the_guest(run: Run) -> None:
    assert re.search(r"VM 10000 \(demo-1\): `uname -a` says Linux demo-1 6\.\S+-cloud-amd64 ", run.text())


def test_each_curl_line_works_as_printed(run: Run) -> None:
    lines = [line for line in run.text().splitlines() if line.startswith("curl ")]
    assert len(lines) == 4
    answers = [json.loads(subprocess.check_output(["sh", "-c", line])) for line in lines]
    started, result, status, listed = (answer["data"] for answer in answers if answer["success"])
    assert started["command"] == "uname -a"
    assert result["exited"]
    assert result["stdout"].startswith("Linux demo-1 ")
    assert status["vmRunning"]
    assert [vm["vmid"] for vm in listed] == [10000, 10001]


def test_the_key_is_for_its_owner_only(run: Run) -> None:
    file = run.var_dir / "demo.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().strip() in run.text()


def test_a_second_run_in_the_same_place_is_refused(run: Run) -> None:
    argv = [sys.executable, "-m", "lab.run"]
    second = subprocess.run(argv, env=run.environ, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert second.stdout == f"make run: another `make run` is using {run.var_dir}: stop it, or set VAR_DIR and PORT\n"
    assert not run.has_ended()


def test_after_a_crash_the_next_run_takes_the_vms_over_and_ctrl_c_leaves_nothing(
    run: Run, make_run: Callable[[], Run]
) -> None:
    key = (run.var_dir / "demo.key").read_text()
    run.process.kill()
    run.process.wait()
    until(STOP_TIMEOUT_S, "only the VMs are left", lambda: run.relatives() == {"qemu-10000", "qemu-10001"})
    again = make_run()
    again.wait_until_ready()
    assert "VM 10001 (demo-2): running already" in again.text()
    assert (run.var_dir / "demo.key").read_text() == key
    assert again.interrupt() == 0
    assert again.relatives() == set()


def test_when_a_program_dies_the_rest_is_ended_too(make_run: Callable[[], Run]) -> None:
    run = make_run()
    run.wait_until_ready()
    [worker] = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"workers\0" in path.read_bytes() and os.fsencode(run.var_dir) in (path.parent / "environ").read_bytes()
    ]
    os.kill(worker, signal.SIGKILL)
    assert run.process.wait(STOP_TIMEOUT_S) == 1
    assert "make run: worker has ended unexpectedly, with status -9" in run.text()
    assert run.relatives() == set()
