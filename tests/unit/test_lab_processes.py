"""Processes of `make run`: real ones, small ones."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import LabError
from lab.processes import ProcfileError, find_ended, find_vms, parse_procfile, start, stop, stop_vms
from lab.watch import StopAskedError, Watch, hold, require_free


def until(probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """A zombie nobody has waited for is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def vm_like(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A detached process that looks like a VM of `tmp_path`: that is all one can see of a QEMU from outside."""
    argv = [sys.executable, "-c", "input()", "-name", "x", "-pidfile", str(tmp_path / "10000.pid")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True) as process:
        yield process
        process.kill()


def test_a_procfile_is_names_and_shell_lines() -> None:
    text = "# comment\nweb: gunicorn --bind 127.0.0.1:$PORT app.wsgi:app\n\nworker:  python -m workers\n"
    assert parse_procfile(text) == {
        "web": "gunicorn --bind 127.0.0.1:$PORT app.wsgi:app",
        "worker": "python -m workers",
    }


@pytest.mark.parametrize("line", ["web", "web:", ": command", "worker: twice"])
def test_a_line_that_starts_nothing_is_refused(line: str) -> None:
    with pytest.raises(ProcfileError):
        parse_procfile(f"worker: once\n{line}\n")


def test_a_shell_line_sees_its_environment_and_becomes_the_program(tmp_path: Path) -> None:
    child = start("x", 'sh -c \'echo "$0 $$ $WORD" > "$OUT"; exit 3\' hello', {"WORD": "a b", "OUT": f"{tmp_path}/out"})
    assert child.process.wait(10) == 3
    assert (tmp_path / "out").read_text() == f"hello {child.process.pid} a b\n"


def test_stopping_ends_a_program_and_all_it_left_behind(tmp_path: Path) -> None:
    line = f"sh -c 'trap \"\" TERM; sleep 60 & echo $! >{tmp_path}/pid; trap - TERM; wait'"
    child = start("x", line, os.environ)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    stop([child], grace_s=10)
    assert child.process.returncode == -15
    until(lambda: not is_alive(int((tmp_path / "pid").read_text())))


def test_a_program_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    child = start("x", f"sh -c 'trap \"\" TERM; touch {tmp_path}/deaf; while true; do sleep 1; done'", os.environ)
    until((tmp_path / "deaf").exists)
    stop([child], grace_s=0.1)
    assert child.process.returncode == -9


def test_a_program_dies_with_the_one_that_started_it(tmp_path: Path) -> None:
    line = f"sh -c 'echo $$ >{tmp_path}/pid; exec sleep 60'"
    script = f"import os; from lab.processes import start; start('x', {line!r}, os.environ); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as starter:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        pid = int((tmp_path / "pid").read_text())
        assert is_alive(pid)
        starter.kill()
    until(lambda: not is_alive(pid))


def test_vms_are_found_by_their_pidfile_and_ended(tmp_path: Path, vm_like: "subprocess.Popen[bytes]") -> None:
    until(lambda: list(find_vms(tmp_path)) == [vm_like.pid])
    assert list(find_vms(tmp_path / "elsewhere")) == []
    assert stop_vms(tmp_path) == 1
    assert vm_like.wait(10) == -15
    assert stop_vms(tmp_path) == 0


def test_a_watch_notices_a_program_that_ends_by_itself() -> None:
    watch = Watch()
    watch.start("worker", "sh -c 'exit 3'", os.environ)
    with pytest.raises(LabError, match="worker has ended unexpectedly, with status 3"):
        watch.wait_for("the sky falls", 10, lambda: None)
    assert find_ended(watch.children) is watch.children[0]


def test_a_watch_gives_up_in_time_and_says_on_what() -> None:
    with pytest.raises(LabError, match=r"waited 0\.01 s in vain until the sky falls"):
        Watch().wait_for("the sky falls", 0.01, lambda: None)


def test_a_watch_ends_every_wait_when_asked_to() -> None:
    watch = Watch()
    watch.stop_asked.set()
    with pytest.raises(StopAskedError):
        watch.wait_for("the sky falls", 10, lambda: None)


def test_a_var_dir_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(LabError, match="another `make run` is using"), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(LabError, match="set PORT"):
        require_free(server.getsockname()[1])
