"""The monitor's client against a real QEMU that runs no guest, and against sockets that are no QEMU's."""

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import MonitorAbsentError, MonitorError, SocketTakenError
from workers.qmp.monitor import Monitor
from workers.socket_lock import SocketLock

TIMEOUT_S = 10


class Qemu:
    """A real QEMU whose CPUs never start."""

    def __init__(self, folder: Path) -> None:
        self.qmp, self.qga = folder / "1.qmp", folder / "1.qga"
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-smp", "2", "-nodefaults", "-no-user-config", "-S"]
        argv += ["-display", "none", "-qmp", f"unix:{self.qmp},server=on,wait=off", "-device", "virtio-serial"]
        argv += ["-chardev", f"socket,id=other,path={self.qga}2,server=on,wait=off"]
        argv += ["-chardev", f"socket,id=qga,path={self.qga},server=on,wait=off"]
        argv += ["-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0"]
        argv += ["-blockdev", "driver=null-co,node-name=disk,size=1048576", "-device", "virtio-blk,drive=disk"]
        self.process = subprocess.Popen(argv)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Events(list[tuple[str, Mapping[str, Any]]]):
    """What a monitor told."""

    def add(self, name: str, data: Mapping[str, Any]) -> None:
        self.append((name, data))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self]


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Qemu]:
    found = Qemu(tmp_path)
    yield found
    found.end()


@pytest.fixture
def events() -> Events:
    return Events()


async def until(reached: Callable[[], bool]) -> None:
    deadline_s = asyncio.get_running_loop().time() + TIMEOUT_S
    while not reached():
        assert asyncio.get_running_loop().time() < deadline_s
        await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(path: Path, events: Events) -> AsyncIterator[Monitor]:
    monitor = Monitor(path, on_event=events.add)
    deadline_s = asyncio.get_running_loop().time() + TIMEOUT_S
    while not monitor.connected:
        try:
            await monitor.connect(TIMEOUT_S)
        except MonitorAbsentError:
            assert asyncio.get_running_loop().time() < deadline_s
            await asyncio.sleep(0.01)
    try:
        yield monitor
    finally:
        await monitor.close()


@asynccontextmanager
async def peer(path: Path, *lines: bytes) -> AsyncIterator[None]:
    """A socket that says some lines to whoever comes, and never anything else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            writer.write(line)
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


# --- a real QEMU ------------------------------------------------------------------------------------------------------


async def test_qemu_tells_its_state_and_its_figures(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        assert monitor.qemu_pid == qemu.process.pid
        assert await monitor.run_state() == "prelaunch"
        assert await monitor.cpu_count() == 2
        assert await monitor.memory_bytes() == 32 * 1024 * 1024
        assert await monitor.block_bytes() == (0, 0)


async def test_the_agents_port_is_closed_without_a_guest_and_unknown_for_another_socket(
    qemu: Qemu, events: Events
) -> None:
    async with connected(qemu.qmp, events) as monitor:
        assert await monitor.agent_port_open(qemu.qga) is False
        assert await monitor.agent_port_open(Path("/none.qga")) is None
        with socket.socket(socket.AF_UNIX) as agent_client:
            agent_client.connect(str(qemu.qga))
            assert await monitor.agent_port_open(qemu.qga) is False
        # This one tells that somebody listens by the suffix, not by the guest: QMP's own chardev is always open.
        assert await monitor.agent_port_open(qemu.qmp) is True


async def test_events_come_in_order_with_their_data(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        await monitor.execute("cont")
        await monitor.execute("stop")
        await monitor.reset()
        await monitor.power_button()
        await until(lambda: len(events) == 4)
    assert events.names == ["RESUME", "STOP", "RESET", "POWERDOWN"]
    assert dict(events)["RESET"] == {"guest": False, "reason": "host-qmp-system-reset"}


async def test_qemus_words_are_told_and_the_connection_stays(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        with pytest.raises(MonitorError, match=r"^nope: The command nope has not been found$"):
            await monitor.execute("nope")
        with pytest.raises(MonitorError, match=r"^set_link: Parameter 'up' is missing$"):
            await monitor.execute("set_link", {"name": "x", "device": 1})
        assert await monitor.run_state() == "prelaunch"


async def test_quit_ends_qemu_and_the_connection(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        await monitor.quit()
        await asyncio.wait_for(monitor.wait_closed(), TIMEOUT_S)
        assert not monitor.connected
        assert monitor.qemu_pid is None
    assert await asyncio.to_thread(qemu.process.wait, TIMEOUT_S) == 0
    assert events.names == ["SHUTDOWN"]


async def test_a_killed_qemu_ends_the_connection_and_what_was_asked(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        qemu.process.send_signal(signal.SIGSTOP)
        asked = [asyncio.create_task(monitor.execute("query-status")) for _ in range(20)]
        await until(lambda: len(asyncio.all_tasks()) > len(asked))
        qemu.end()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {str(answer) for answer in answers} == {"query-status: the connection to QEMU's monitor has ended"}
        await asyncio.wait_for(monitor.wait_closed(), TIMEOUT_S)
        with pytest.raises(MonitorError, match="query-status: QEMU's monitor is not connected"):
            await monitor.run_state()
        with pytest.raises(MonitorError, match="quit: QEMU's monitor is not connected"):
            await monitor.quit()
        with pytest.raises(MonitorAbsentError, match="nobody listens"):
            await monitor.connect(TIMEOUT_S)


async def test_a_qemu_that_hangs_costs_one_timeout_and_the_connection(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        qemu.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(MonitorError, match=r"query-status: QEMU did not answer within 0\.2 s"):
                await monitor.execute("query-status", timeout_s=0.2)
            assert not monitor.connected
        finally:
            qemu.process.send_signal(signal.SIGCONT)
        await monitor.connect(TIMEOUT_S)
        assert await monitor.run_state() == "prelaunch"


async def test_a_qemu_that_reads_nothing_cannot_keep_close_waiting(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        qemu.process.send_signal(signal.SIGSTOP)
        asked = asyncio.create_task(monitor.execute("query-status", {"x": "x" * 4_000_000}))
        await asyncio.sleep(0)
        async with asyncio.timeout(2):
            await monitor.close()
        with pytest.raises(MonitorError):
            await asked


async def test_a_cancelled_request_spoils_nothing(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        asked = asyncio.create_task(monitor.run_state())
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert await monitor.run_state() == "prelaunch"


async def test_closing_twice_and_waiting_for_it_is_no_error(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        waiting = [asyncio.create_task(monitor.wait_closed()) for _ in range(3)]
        await asyncio.gather(monitor.close(), monitor.close())
        await asyncio.gather(*waiting)
        await monitor.wait_closed()
    await monitor.connect(TIMEOUT_S)
    await monitor.close()


async def test_a_connected_monitor_is_not_connected_again(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as monitor:
        with pytest.raises(MonitorError, match=r"1\.qmp is already connected"):
            await monitor.connect(TIMEOUT_S)
        assert await monitor.run_state() == "prelaunch"


async def test_a_broken_listener_is_not_the_connections_fault(qemu: Qemu) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))

    class Broken(Events):
        def add(self, name: str, data: Mapping[str, Any]) -> None:
            raise KeyError(name, data)

    async with connected(qemu.qmp, Broken()) as monitor:
        await monitor.reset()
        await until(lambda: bool(problems))
        assert await monitor.run_state() == "prelaunch"
    assert isinstance(problems[0]["exception"], KeyError)


async def test_raw_messages_are_not_logged(qemu: Qemu, events: Events, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with connected(qemu.qmp, events) as monitor:
        await monitor.run_state()
        with pytest.raises(MonitorError):
            await monitor.execute("nope")
        qemu.end()
        await monitor.wait_closed()
    assert "query-status" not in caplog.text
    assert "nope" not in caplog.text


# --- one client at a time ---------------------------------------------------------------------------------------------


async def test_a_second_monitor_is_told_who_has_the_socket_and_the_first_goes_on(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events) as first:
        second = Monitor(qemu.qmp, on_event=events.add)
        with pytest.raises(MonitorError, match=r"1\.qmp is already used by another connection of this same process"):
            await second.connect(TIMEOUT_S)
        assert await first.run_state() == "prelaunch"
        await first.close()
        await second.connect(TIMEOUT_S)
        await second.close()


async def test_another_process_with_the_lock_is_named(tmp_path: Path, events: Events) -> None:
    code = (
        "import pathlib, sys; from workers.socket_lock import SocketLock;"
        f"lock = SocketLock.take(pathlib.Path({str(tmp_path / '1.qmp')!r})); print(flush=True); sys.stdin.read()"
    )
    (tmp_path / "1.qmp.lock").write_text("4194304 4194304")  # an earlier one's, longer than what is written now
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=PIPE, stdout=PIPE)
    assert other.stdout is not None
    await other.stdout.readline()
    with pytest.raises(MonitorError, match=rf"another OwnUp process with pid {other.pid}$"):
        await Monitor(tmp_path / "1.qmp", on_event=events.add).connect(TIMEOUT_S)
    await other.communicate(b"")
    with pytest.raises(MonitorAbsentError):
        await Monitor(tmp_path / "1.qmp", on_event=events.add).connect(TIMEOUT_S)


async def test_a_lock_that_the_caller_has_stays_the_callers(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events):
        pass
    lock = SocketLock.take(qemu.qmp)
    monitor = Monitor(qemu.qmp, on_event=events.add)
    await monitor.connect(TIMEOUT_S, lock=lock)
    await monitor.close()
    with pytest.raises(SocketTakenError, match="already used"):
        SocketLock.take(qemu.qmp)
    lock.release()
    lock.release()
    SocketLock.take(qemu.qmp).release()


async def test_a_stranger_on_the_monitor_is_told_after_a_bounded_wait(qemu: Qemu, events: Events) -> None:
    async with connected(qemu.qmp, events):
        pass
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(qemu.qmp))
        assert b"QMP" in stranger.recv(100)
        monitor = Monitor(qemu.qmp, on_event=events.add)
        with pytest.raises(MonitorError, match=r"did not greet within 0\.2 s: another client \(libvirt, Proxmox"):
            await monitor.connect(0.2)
    await monitor.connect(TIMEOUT_S)
    await monitor.close()


async def test_a_full_backlog_is_told_at_once(tmp_path: Path, events: Events) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(tmp_path / "1.qmp"))
        listener.listen(0)
        waiting.connect(str(tmp_path / "1.qmp"))
        with pytest.raises(MonitorError, match="other clients already wait"):
            await Monitor(tmp_path / "1.qmp", on_event=events.add).connect(TIMEOUT_S)


# --- no QEMU at all ---------------------------------------------------------------------------------------------------


async def test_nobody_listening_is_told_apart(tmp_path: Path, events: Events) -> None:
    monitor = Monitor(tmp_path / "1.qmp", on_event=events.add)
    with pytest.raises(MonitorAbsentError, match=r"nobody listens on .*1\.qmp: the VM is off"):
        await monitor.connect(TIMEOUT_S)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "1.qmp"))
    with pytest.raises(MonitorAbsentError):
        await monitor.connect(TIMEOUT_S)
    assert not monitor.connected


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path, events: Events) -> None:
    with pytest.raises(MonitorError, match=r"1\.qmp\.lock can't be opened: No such file or directory"):
        await Monitor(tmp_path / "none/1.qmp", on_event=events.add).connect(TIMEOUT_S)


async def test_a_path_that_no_socket_can_have_is_told(tmp_path: Path, events: Events) -> None:
    with pytest.raises(MonitorError, match="can't be used: AF_UNIX path too long"):
        await Monitor(tmp_path / ("x" * 120), on_event=events.add).connect(TIMEOUT_S)


@pytest.mark.parametrize(
    "line", [b"SSH-2.0\n", b'{"no": "greeting"}\n', b"[]\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"]
)
async def test_what_is_no_qemu_is_refused_without_repeating_what_it_said(
    tmp_path: Path, events: Events, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with peer(tmp_path / "1.qmp", line):
        monitor = Monitor(tmp_path / "1.qmp", on_event=events.add)
        with pytest.raises(MonitorError, match=r"1\.qmp is not QEMU's monitor$"):
            await monitor.connect(TIMEOUT_S)
    assert not monitor.connected
    assert not [record for record in caplog.records if record.name.startswith(("qemu", "workers"))]


async def test_an_endless_line_ends_the_connection(tmp_path: Path, events: Events) -> None:
    async with peer(tmp_path / "1.qmp", b"x" * (17 * 1024 * 1024)):
        with pytest.raises(MonitorError, match="is not QEMU's monitor"):
            await Monitor(tmp_path / "1.qmp", on_event=events.add).connect(TIMEOUT_S)


GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n{"return": {}}\n'


@pytest.mark.parametrize("last_words", [b"", b"no answer\n"])
async def test_a_qemu_that_leaves_as_soon_as_it_is_connected_leaves_nothing_behind(
    tmp_path: Path, events: Events, last_words: bytes
) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING + last_words)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(serve, tmp_path / "1.qmp"):
        for _ in range(5):
            monitor = Monitor(tmp_path / "1.qmp", on_event=events.add)
            with pytest.raises(MonitorError, match=r"closed the connection|is not QEMU's monitor"):
                await monitor.connect(TIMEOUT_S)
            assert not monitor.connected


@pytest.mark.parametrize("reply", [{}, {"error": 1}, {"error": {"class": 1, "desc": "secret"}}])
async def test_a_malformed_answer_is_told_without_repeating_it(
    tmp_path: Path, events: Events, reply: dict[str, Any]
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.readuntil(b"}}")  # qmp_capabilities, with its empty arguments
        request = json.loads(await reader.readuntil(b"}"))
        writer.write(b'{"event": 1}\n{"event": "X", "data": 1}\n')
        writer.write(json.dumps(reply | {"id": request["id"]}).encode() + b"\n")
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_unix_server(serve, tmp_path / "1.qmp"),
        connected(tmp_path / "1.qmp", events) as monitor,
    ):
        assert monitor.qemu_pid is None
        with pytest.raises(MonitorError, match=r"^query-status: QEMU's answer is malformed$"):
            await monitor.run_state()
    assert not events
