"""A start with a real QEMU: it succeeds, or says why not in QEMU's words."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.errors import PowerError
from workers.qmp.monitor import Monitor
from workers.socket_lock import SocketLock
from workers.vms.definition import MachineDefinition, VmDefinition
from workers.vms.machine import Launcher, accepts, is_running, running_pid

BINARY = "qemu-system-x86_64"
MACHINE = MachineDefinition(cpus=1, memory_mb=32, disks=(), nics=(), extra_args=("-S",))


def define(folder: Path, machine: MachineDefinition | None = MACHINE) -> VmDefinition:
    return VmDefinition(
        vmid=10001,
        name="web-1",
        account="acme",
        qga=folder / "1.qga",
        qmp=folder / "1.qmp",
        machine=machine,
        source=folder / "1.toml",
    )


def launcher(binary: str = BINARY, accel: str = "tcg", start_timeout_s: float = 30) -> Launcher:
    return Launcher(binary=binary, accel=accel, start_timeout_s=start_timeout_s)


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener


@asynccontextmanager
async def started(definition: VmDefinition) -> AsyncIterator[int]:
    """Start a real QEMU, and leave it only when it has been reaped."""
    assert await launcher().start(definition)
    pid = running_pid(definition)
    assert pid is not None
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{pid}").exists())


async def until(reached: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while not reached():
        assert asyncio.get_running_loop().time() < deadline_s
        await asyncio.sleep(0.01)


def program_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def open_files(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # QEMU may close one meanwhile
            yield str(path.readlink())


async def test_a_started_qemu_lives_in_a_session_of_its_own_and_is_found_by_its_pid_file(tmp_path: Path) -> None:
    definition = define(tmp_path)
    async with started(definition) as pid:
        assert os.getsid(pid) == pid
        assert program_of(pid) == "qemu-10001"
        assert "/dev/null" in open_files(pid)
        assert is_running(definition)
        assert accepts(definition.qga)
    assert not is_running(definition)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_a_started_qemu_is_under_its_own_filter_of_system_calls(tmp_path: Path) -> None:
    async with started(define(tmp_path)) as pid:
        status = status_of(pid)
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")


async def test_a_qemu_that_was_built_without_the_filter_is_started_without_it(tmp_path: Path) -> None:
    program = tmp_path / "qemu-without"
    program.write_text(f'#!/bin/sh\ncase "$*" in *-sandbox*) exit 1 ;; esac\nexec {BINARY} "$@"\n')
    program.chmod(0o755)
    definition = define(tmp_path)
    assert await launcher(binary=str(program)).start(definition)
    pid = running_pid(definition)
    assert pid is not None
    assert status_of(pid)["Seccomp"] == "0"
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_the_monitors_lock_is_free_after_a_start(tmp_path: Path) -> None:
    definition = define(tmp_path)
    async with started(definition):
        monitor = Monitor(tmp_path / "1.qmp", on_event=lambda _name, _data: None)
        await monitor.connect(10)
        assert await monitor.run_state() == "prelaunch"
        await monitor.close()


async def test_a_vm_that_runs_is_not_started_again(tmp_path: Path) -> None:
    definition = define(tmp_path)
    async with started(definition) as pid:
        assert not await launcher().start(definition)
        assert running_pid(definition) == pid


async def test_a_qemu_that_ends_leaves_no_zombie_and_can_be_started_again_over_its_stale_files(tmp_path: Path) -> None:
    definition = define(tmp_path)
    async with started(definition) as first:
        pass
    assert (tmp_path / "1.qmp").exists()
    async with started(definition) as second:
        assert second != first


async def test_an_open_file_of_ours_is_not_handed_on(tmp_path: Path) -> None:
    with (tmp_path / "ours").open("w"):
        async with started(define(tmp_path)) as pid:
            names = list(open_files(pid))
    assert str(tmp_path / "ours") not in names
    assert not [name for name in names if name.endswith(".lock")]


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (
            replace(MACHINE, disks=(Path("/none.qcow2"),)),
            "-drive file=/none.qcow2,if=virtio,format=qcow2: Could not open '/none.qcow2': No such file or directory",
        ),
        (replace(MACHINE, extra_args=("-foo",)), "-foo: invalid option"),
        (
            replace(MACHINE, extra_args=("-device", "nosuch")),
            "-device nosuch: 'nosuch' is not a valid device model name",
        ),
        (
            replace(MACHINE, extra_args=("-kernel", "/none")),
            "could not open kernel file '/none': No such file or directory",
        ),
    ],
)
async def test_a_start_that_fails_tells_qemus_own_words(tmp_path: Path, machine: MachineDefinition, words: str) -> None:
    definition = define(tmp_path, machine)
    with pytest.raises(PowerError) as caught:
        await launcher().start(definition)
    assert str(caught.value) == f"QEMU did not start: {words}"
    assert not is_running(definition)
    SocketLock.take(tmp_path / "1.qmp").release()


async def test_a_qemu_that_ends_in_silence_is_told_by_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(PowerError, match="QEMU did not start: it ended with 1"):
        await launcher(binary="false").start(define(tmp_path))


async def test_a_qemu_that_does_not_get_ready_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "hangs"
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/hangs.pid\necho 'qemu-x: still busy' >&2\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(PowerError, match=r"did not answer within 0\.5 s; still busy"):
        await launcher(binary=str(program), start_timeout_s=0.5).start(define(tmp_path))
    pid = int((tmp_path / "hangs.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_missing_qemu_is_named(tmp_path: Path) -> None:
    with pytest.raises(PowerError, match="QEMU_BINARY /no/qemu can't be started: No such file or directory"):
        await launcher(binary="/no/qemu").start(define(tmp_path))


async def test_a_vm_without_a_machine_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(PowerError, match=r"VM 10001 can't be started here: its definition has no \[machine\]"):
        await launcher().start(define(tmp_path, None))


async def test_an_agent_socket_that_somebody_else_serves_is_not_taken_away(tmp_path: Path) -> None:
    with listen(tmp_path / "1.qga"):
        with pytest.raises(PowerError, match=r"1\.qga is in use by another process"):
            await launcher().start(define(tmp_path))
        assert accepts(tmp_path / "1.qga")


async def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "1.qga").write_text("precious")
    with pytest.raises(PowerError, match="it is no socket"):
        await launcher().start(define(tmp_path))
    assert (tmp_path / "1.qga").read_text() == "precious"


async def test_a_start_is_refused_while_another_one_is_under_way(tmp_path: Path) -> None:
    lock = SocketLock.take(tmp_path / "1.qmp")
    try:
        with pytest.raises(PowerError, match="already used by another connection of this same process"):
            await launcher().start(define(tmp_path))
    finally:
        lock.release()
