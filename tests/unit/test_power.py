"""Each power action asks whom it should, waits as long as it may, and says truly how it ended."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from app.core.errors import AgentRefusedError, AgentUnavailableError, MonitorError, PowerError
from app.core.records import PowerAction, VmStatus
from workers.vms.definition import MachineDefinition, VmDefinition
from workers.vms.power import Patience, Power, PowerVm

PATIENCE = Patience(guest_s=0.2, agent_s=0.05, quit_s=0.2, seen_s=0.2)
MACHINE = MachineDefinition(cpus=1, memory_mb=64)


class Vm:
    """A VM whose guest, agent and QEMU do what the test says, and that remembers what was asked."""

    def __init__(self, status: VmStatus = VmStatus.RUNNING, *, qmp: bool = True) -> None:
        self.definition = VmDefinition(
            vmid=1,
            name="a",
            account="b",
            qga=Path("/none/1.qga"),
            qmp=Path("/none/1.qmp") if qmp else None,
            machine=MACHINE if qmp else None,
            source=Path("/none/1.toml"),
        )
        self.seen_status = status
        self.resets = 0
        self.asked: list[str] = []
        self.effects: dict[str, Callable[[], None]] = {}
        self.agent_stuck = False
        self.qemu_lives = False
        self.qemu_pid: int | None = None
        self.monitor: Vm | None = self if qmp else None
        self._changed = asyncio.Condition()

    @property
    def channel(self) -> "Vm":
        return self

    async def wait_until(self, reached: Callable[[PowerVm], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: reached(self))
        except TimeoutError:
            return reached(self)
        return True

    async def tell(self, rpc: str, arguments: Mapping[str, object] | None = None) -> None:
        assert arguments is not None
        await self._do(f"{rpc} {arguments['mode']}")
        if self.agent_stuck:
            await asyncio.get_running_loop().create_future()

    async def power_button(self) -> None:
        await self._do("power button")

    async def reset(self) -> None:
        await self._do("reset")

    async def quit(self) -> None:
        await self._do("quit")

    async def start(self, definition: VmDefinition, *, snapshot: str | None = None) -> bool:
        assert definition is self.definition
        was_running = self.qemu_lives
        await self._do("start" if snapshot is None else f"start at {snapshot}")
        return not was_running

    async def _do(self, what: str) -> None:
        self.asked.append(what)
        if what in self.effects:
            self.effects[what]()
        async with self._changed:
            self._changed.notify_all()

    # --- what can happen ----------------------------------------------------------------------------------------------

    def stops(self) -> None:
        self.seen_status = VmStatus.STOPPED

    def runs(self) -> None:
        self.seen_status = VmStatus.RUNNING

    def restarts(self) -> None:
        self.resets += 1

    def has_no_agent(self) -> None:
        raise AgentUnavailableError("QEMU Guest Agent does not answer")

    def refuses(self) -> None:
        raise AgentRefusedError("guest-shutdown", "CommandNotFound", "it is disabled")

    def has_no_qemu(self) -> None:
        raise MonitorError("QEMU did not answer")


async def run(vm: Vm, action: PowerAction, *, force: bool = False) -> tuple[str, list[tuple[int, str]]]:
    reports: list[tuple[int, str]] = []

    async def report(percent: int, text: str) -> None:
        reports.append((percent, text))

    message = await Power(vm, PATIENCE).run(action, vm, force=force, report=report)
    return message, reports


async def refusal(vm: Vm, action: PowerAction, *, force: bool = False) -> str:
    with pytest.raises(PowerError) as caught:
        await run(vm, action, force=force)
    return str(caught.value)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A real process that can stand for a QEMU which must be killed."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


# --- start ------------------------------------------------------------------------------------------------------------


async def test_start_ends_when_the_vm_is_seen_running() -> None:
    vm = Vm(VmStatus.STOPPED)
    vm.effects["start"] = vm.runs
    message, reports = await run(vm, PowerAction.START)
    assert message == "the VM was started"
    assert [percent for percent, _ in reports] == [10, 80]


async def test_starting_a_running_vm_asks_nobody() -> None:
    vm = Vm()
    assert (await run(vm, PowerAction.START))[0] == "the VM was already running"
    assert vm.asked == []


async def test_a_vm_that_turns_out_to_run_was_not_started() -> None:
    vm = Vm(VmStatus.UNKNOWN)
    vm.qemu_lives = True
    vm.effects["start"] = vm.runs
    assert (await run(vm, PowerAction.START))[0] == "the VM was already running"


async def test_a_qemu_that_is_still_on_its_way_out_is_waited_for(sleeper: "subprocess.Popen[bytes]") -> None:
    vm = Vm(VmStatus.STOPPED)
    vm.qemu_pid = sleeper.pid
    ended: list[bool] = []

    def starts() -> None:
        ended.append(sleeper.poll() is not None)
        vm.runs()

    vm.effects["start"] = starts
    asyncio.get_running_loop().call_later(0.05, sleeper.kill)
    assert (await run(vm, PowerAction.START))[0] == "the VM was started"
    assert ended == [True]


async def test_a_paused_vm_is_not_started() -> None:
    vm = Vm(VmStatus.PAUSED)
    assert "the VM is paused, not stopped" in await refusal(vm, PowerAction.START)
    assert vm.asked == []


async def test_a_start_that_fails_tells_why() -> None:
    vm = Vm(VmStatus.STOPPED)

    def fails() -> None:
        raise PowerError("QEMU did not start: no such disk")

    vm.effects["start"] = fails
    assert await refusal(vm, PowerAction.START) == "QEMU did not start: no such disk"


async def test_a_qemu_that_starts_and_a_vm_that_does_not_run_is_a_failure() -> None:
    assert await refusal(Vm(VmStatus.STOPPED), PowerAction.START) == "QEMU runs, but the VM does not: it is stopped"


# --- shutdown ---------------------------------------------------------------------------------------------------------


async def test_an_agent_that_obeys_makes_the_power_button_unneeded() -> None:
    vm = Vm()
    vm.effects["guest-shutdown powerdown"] = vm.stops
    message, reports = await run(vm, PowerAction.SHUTDOWN)
    assert message == "the guest shut down"
    assert vm.asked == ["guest-shutdown powerdown"]
    assert reports == [(20, "the guest agent was asked to shut the guest down")]


async def test_the_power_button_is_pressed_when_the_agent_brings_nothing_about() -> None:
    vm = Vm()
    vm.effects["power button"] = vm.stops
    message, _ = await run(vm, PowerAction.SHUTDOWN)
    assert message == "the guest shut down"
    assert vm.asked == ["guest-shutdown powerdown", "power button"]


async def test_the_power_button_is_pressed_at_once_when_there_is_no_agent() -> None:
    vm = Vm()
    vm.effects |= {"guest-shutdown powerdown": vm.has_no_agent, "power button": vm.stops}
    message, reports = await run(vm, PowerAction.SHUTDOWN)
    assert message == "the guest shut down"
    assert reports == [(40, "the ACPI power button was pressed")]


async def test_a_guest_that_takes_its_time_is_waited_for() -> None:
    vm = Vm()

    async def stop_later() -> None:
        await vm.wait_until(lambda _: vm.asked[-1:] == ["power button"], 1)
        await asyncio.sleep(0)
        vm.stops()
        await vm._do("")

    stopping = asyncio.create_task(stop_later())
    assert (await run(vm, PowerAction.SHUTDOWN))[0] == "the guest shut down"
    await stopping


async def test_a_guest_that_ignores_both_is_told_and_keeps_its_power() -> None:
    vm = Vm()
    assert await refusal(vm, PowerAction.SHUTDOWN) == (
        "the guest ignored both the guest agent and the ACPI power button within 0.2 s; force switches the VM off"
    )
    assert vm.asked == ["guest-shutdown powerdown", "power button"]


async def test_who_was_not_asked_did_not_ignore_anything() -> None:
    vm = Vm()
    vm.effects["guest-shutdown powerdown"] = vm.has_no_agent
    assert await refusal(vm, PowerAction.SHUTDOWN) == (
        "the guest ignored the ACPI power button within 0.2 s;"
        " its agent can't be asked: QEMU Guest Agent does not answer; force switches the VM off"
    )
    vm = Vm()
    vm.effects["power button"] = vm.has_no_qemu
    assert await refusal(vm, PowerAction.SHUTDOWN) == (
        "the guest ignored the guest agent within 0.2 s;"
        " the ACPI power button can't be pressed: QEMU did not answer; force switches the VM off"
    )


async def test_an_agent_that_comes_up_later_is_asked_then() -> None:
    vm = Vm()

    def answers_the_second_time() -> None:
        if vm.asked.count("guest-shutdown powerdown") == 1:
            vm.has_no_agent()
        vm.stops()

    vm.effects["guest-shutdown powerdown"] = answers_the_second_time
    message, reports = await run(vm, PowerAction.SHUTDOWN)
    assert message == "the guest shut down"
    assert vm.asked == ["guest-shutdown powerdown", "power button", "guest-shutdown powerdown"]
    assert [percent for percent, _ in reports] == [40, 50]


async def test_an_agent_that_refused_is_not_asked_again() -> None:
    vm = Vm()
    vm.effects["guest-shutdown powerdown"] = vm.refuses
    assert "its agent can't be asked: guest-shutdown: it is disabled" in await refusal(vm, PowerAction.SHUTDOWN)
    assert vm.asked == ["guest-shutdown powerdown", "power button"]


async def test_a_guest_that_nobody_can_ask_is_not_waited_for() -> None:
    vm = Vm()
    vm.effects |= {"guest-shutdown powerdown": vm.has_no_agent, "power button": vm.has_no_qemu}
    async with asyncio.timeout(0.15):
        assert await refusal(vm, PowerAction.SHUTDOWN) == (
            "the guest can't be asked: QEMU Guest Agent does not answer; QEMU did not answer; force switches the VM off"
        )


async def test_an_agent_that_takes_no_request_is_not_waited_for_for_ever() -> None:
    vm = Vm()
    vm.agent_stuck = True
    assert "its agent can't be asked: the guest agent took no request within 0.05 s" in await refusal(
        vm, PowerAction.SHUTDOWN
    )


async def test_force_pulls_the_plug_of_a_guest_that_ignored_both() -> None:
    vm = Vm()
    vm.effects["quit"] = vm.stops
    message, reports = await run(vm, PowerAction.SHUTDOWN, force=True)
    assert message.startswith("the VM was switched off, because the guest ignored both")
    assert vm.asked == ["guest-shutdown powerdown", "power button", "quit"]
    assert [percent for percent, _ in reports] == [20, 40, 90]


async def test_force_does_not_pull_the_plug_of_a_guest_that_obeys() -> None:
    vm = Vm()
    vm.effects["guest-shutdown powerdown"] = vm.stops
    assert (await run(vm, PowerAction.SHUTDOWN, force=True))[0] == "the guest shut down"


async def test_a_paused_guest_is_not_asked_but_can_be_switched_off() -> None:
    vm = Vm(VmStatus.PAUSED)
    vm.effects["quit"] = vm.stops
    assert "the VM is paused, so its guest can't shut down" in await refusal(vm, PowerAction.SHUTDOWN)
    assert vm.asked == []
    assert "was switched off" in (await run(vm, PowerAction.SHUTDOWN, force=True))[0]


async def test_without_a_monitor_socket_the_agent_alone_is_asked() -> None:
    vm = Vm(qmp=False)
    vm.effects["guest-shutdown powerdown"] = vm.stops
    assert (await run(vm, PowerAction.SHUTDOWN))[0] == "the guest shut down"
    found = await refusal(Vm(qmp=False), PowerAction.SHUTDOWN, force=True)
    assert found.startswith("the guest ignored the guest agent within 0.2 s; the ACPI power button can't be pressed")
    assert "no qmp socket" in found


# --- stop -------------------------------------------------------------------------------------------------------------


async def test_stop_asks_qemu_and_not_the_guest() -> None:
    vm = Vm()
    vm.effects["quit"] = vm.stops
    assert (await run(vm, PowerAction.STOP))[0] == "the VM was switched off"
    assert vm.asked == ["quit"]


@pytest.mark.parametrize("action", [PowerAction.STOP, PowerAction.SHUTDOWN])
async def test_a_stopped_vm_is_left_so(action: PowerAction) -> None:
    vm = Vm(VmStatus.STOPPED)
    assert (await run(vm, action, force=True))[0] == "the VM was already stopped"
    assert vm.asked == []


@pytest.mark.parametrize("quits", [True, False])
async def test_a_qemu_that_does_not_end_by_itself_is_killed(sleeper: "subprocess.Popen[bytes]", *, quits: bool) -> None:
    vm = Vm()
    vm.qemu_pid = sleeper.pid
    vm.effects["quit"] = vm.stops if quits else vm.has_no_qemu  # a lost monitor looks like a stopped VM
    stopping = asyncio.create_task(run(vm, PowerAction.STOP))
    assert await asyncio.to_thread(sleeper.wait, 5) == -signal.SIGKILL
    vm.stops()
    assert (await stopping)[0] == "the VM was switched off"


async def test_a_qemu_that_ends_by_itself_is_not_killed(sleeper: "subprocess.Popen[bytes]") -> None:
    vm = Vm()
    vm.qemu_pid = sleeper.pid

    def ends() -> None:
        os.kill(sleeper.pid, signal.SIGTERM)
        vm.stops()

    vm.effects["quit"] = ends
    await run(vm, PowerAction.STOP)
    assert await asyncio.to_thread(sleeper.wait, 5) == -signal.SIGTERM


async def test_a_qemu_that_cannot_be_found_to_kill_is_told() -> None:
    vm = Vm()
    assert "QEMU did not end, and its process is not known: it ignored quit" in await refusal(vm, PowerAction.STOP)
    vm.effects["quit"] = vm.has_no_qemu
    assert "its process is not known: QEMU did not answer" in await refusal(vm, PowerAction.STOP)
    vm.monitor = None
    assert "its process is not known: QEMU's monitor is not connected" in await refusal(vm, PowerAction.STOP)


async def test_a_qemu_whose_end_is_not_seen_is_told(sleeper: "subprocess.Popen[bytes]") -> None:
    vm = Vm()
    vm.qemu_pid = sleeper.pid
    vm.effects["quit"] = sleeper.kill
    assert "QEMU has ended, but" in await refusal(vm, PowerAction.STOP)


# --- restart ----------------------------------------------------------------------------------------------------------


async def test_restart_ends_when_qemu_tells_the_reset() -> None:
    vm = Vm()
    vm.effects["guest-shutdown reboot"] = vm.restarts
    assert (await run(vm, PowerAction.RESTART))[0] == "the guest rebooted"
    assert vm.asked == ["guest-shutdown reboot"]


async def test_an_earlier_reset_is_not_taken_for_this_one() -> None:
    vm = Vm()
    vm.resets = 3
    assert await refusal(vm, PowerAction.RESTART) == (
        "the guest did not reboot within 0.2 s, though its agent was asked; force resets it"
    )


async def test_restart_without_an_agent_points_to_force() -> None:
    vm = Vm()
    vm.effects["guest-shutdown reboot"] = vm.has_no_agent
    assert await refusal(vm, PowerAction.RESTART) == (
        "the guest can't be asked to reboot, only its agent can do that: QEMU Guest Agent does not answer;"
        " force resets it"
    )


async def test_a_guest_that_shuts_down_instead_is_told() -> None:
    vm = Vm()
    vm.effects["guest-shutdown reboot"] = vm.stops
    assert await refusal(vm, PowerAction.RESTART) == "the guest shut down instead of rebooting"


async def test_a_forced_restart_does_not_ask_the_guest() -> None:
    vm = Vm()
    vm.effects["reset"] = vm.restarts
    assert (await run(vm, PowerAction.RESTART, force=True))[0] == "the VM was reset"
    assert vm.asked == ["reset"]


async def test_a_paused_vm_can_be_reset_and_stays_paused() -> None:
    vm = Vm(VmStatus.PAUSED)
    vm.effects["reset"] = vm.restarts
    assert await refusal(vm, PowerAction.RESTART) == "the VM is paused, so its guest can't reboot; force resets it"
    assert (await run(vm, PowerAction.RESTART, force=True))[0] == "the VM was reset; it is still paused"


async def test_a_reset_that_fails_is_told() -> None:
    vm = Vm()
    assert "QEMU took the reset, but did not do it" in await refusal(vm, PowerAction.RESTART, force=True)
    vm.effects["reset"] = vm.has_no_qemu
    assert await refusal(vm, PowerAction.RESTART, force=True) == "QEMU did not answer"
    vm.monitor = None
    assert await refusal(vm, PowerAction.RESTART, force=True) == "QEMU's monitor is not connected"


@pytest.mark.parametrize("force", [True, False])
async def test_a_stopped_vm_is_not_restarted(*, force: bool) -> None:
    vm = Vm(VmStatus.STOPPED)
    assert await refusal(vm, PowerAction.RESTART, force=force) == "the VM is stopped: start it instead"
    assert vm.asked == []


@pytest.mark.parametrize(
    ("action", "force"), [(PowerAction.STOP, False), (PowerAction.RESTART, True), (PowerAction.RESTART, False)]
)
async def test_what_needs_a_monitor_socket_says_so(action: PowerAction, *, force: bool) -> None:
    vm = Vm(qmp=False)
    assert "the VM's definition has no qmp socket" in await refusal(vm, action, force=force)
    assert vm.asked == []


# --- reset, and snapshots ---------------------------------------------------------------------------------------------


async def test_a_reset_is_always_hard() -> None:
    vm = Vm()
    vm.effects["reset"] = vm.restarts
    assert (await run(vm, PowerAction.RESET))[0] == "the VM was reset"
    assert vm.asked == ["reset"]
    assert await refusal(Vm(VmStatus.STOPPED), PowerAction.RESET) == "the VM is stopped: start it instead"


async def start_at(vm: Vm, snapshot: str) -> str:
    async def report(_percent: int, _text: str) -> None:
        """Nobody waits for it."""

    return await Power(vm, PATIENCE).start_at(vm, snapshot, report)


async def test_a_vm_is_started_where_a_snapshot_was_taken() -> None:
    vm = Vm(VmStatus.STOPPED)
    vm.effects["start at s"] = vm.runs
    assert await start_at(vm, "s") == "the VM was started where the snapshot s was taken"
    assert vm.asked == ["start at s"]


async def test_a_vm_that_somebody_else_started_meanwhile_is_not_where_the_snapshot_was_taken() -> None:
    vm = Vm(VmStatus.STOPPED)
    vm.effects["start at s"] = vm.runs
    vm.qemu_lives = True
    with pytest.raises(PowerError, match="somebody else has started the VM meanwhile"):
        await start_at(vm, "s")
