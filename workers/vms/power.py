"""The power actions: what is asked of whom, how long each is waited for, and what a person is told.

Works on a VM that somebody else follows and on whatever starts QEMU. Doesn't know jobs, Redis or sockets.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from app.core.errors import AgentError, Effect, MonitorError, PowerError
from app.core.records import PowerAction, VmStatus
from workers.vms import machine
from workers.vms.definition import VmDefinition

Report = Callable[[int, str], Awaitable[None]]
"""Takes progress, 0 to 100, and what is being done, for people."""


class PowerAgent(Protocol):
    """What is asked of a guest agent."""

    async def tell(self, rpc: str, arguments: Mapping[str, object] | None = None) -> None:
        """Send an RPC that has no success reply; raises ``AgentError`` if it wasn't sent or was refused."""


class PowerMonitor(Protocol):
    """What is asked of QEMU's monitor; each request raises ``MonitorError``."""

    @property
    def qemu_pid(self) -> int | None:
        """The pid of the QEMU at the other end."""

    async def power_button(self) -> None:
        """Press the ACPI power button."""

    async def reset(self) -> None:
        """Press the reset button."""

    async def quit(self) -> None:
        """End QEMU."""


class PowerVm(Protocol):
    """A VM that somebody follows."""

    @property
    def definition(self) -> VmDefinition:
        """What its file says."""

    @property
    def seen_status(self) -> VmStatus:
        """What was last seen of it: never a state that is only on its way."""

    @property
    def resets(self) -> int:
        """How often QEMU told that it was reset, since somebody follows it."""

    @property
    def monitor(self) -> PowerMonitor | None:
        """Its monitor, while that is connected."""

    @property
    def channel(self) -> PowerAgent:
        """Its guest agent."""

    async def wait_until(self, reached: Callable[["PowerVm"], bool], timeout_s: float) -> bool:
        """Wait until something holds for it, but not for longer; tells whether it holds."""


class PowerLauncher(Protocol):
    """Whatever starts QEMU."""

    async def start(self, definition: VmDefinition, *, snapshot: str | None = None) -> bool:
        """Start it, perhaps in the state of a snapshot; ``False`` if it runs already. Raises ``PowerError``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long what is waited for.

    Attributes:
        guest_s: For a guest to shut down or to reboot, from the moment it is first asked.
        agent_s: For the agent to take a request, and for its effect, before the power button is pressed too.
        quit_s: For QEMU to end by itself, and once more after it was killed.
        seen_s: Until a change that has happened is seen by whoever follows the VM.
    """

    guest_s: float = 60.0
    agent_s: float = 5.0
    quit_s: float = 5.0
    seen_s: float = 10.0


class Power:
    """Does power actions, one after another or many VMs at once; every wait has its end."""

    def __init__(self, launcher: PowerLauncher, patience: Patience) -> None:
        self._launcher = launcher
        self._patience = patience

    async def run(self, action: PowerAction, vm: PowerVm, *, force: bool, report: Report) -> str:
        """Do one action.

        Effect: the guest boots, shuts down, reboots or loses its power. What already is so is left so.

        Args:
            action: What to do.
            vm: The VM.
            force: Don't ask the guest; for a shutdown: pull the plug if the guest doesn't obey.
            report: Told what is being done.

        Returns:
            How it ended, for people.

        Raises:
            PowerError: It could not be done; the text says why and what else to try.
        """
        match action:
            case PowerAction.START:
                return await self._start(vm, report)
            case PowerAction.STOP:
                return await self._stop(vm, report)
            case PowerAction.SHUTDOWN:
                return await self._shutdown(vm, report, force=force)
            case PowerAction.RESTART:
                return await (self._reset(vm, report) if force else self._reboot(vm, report))
            case PowerAction.RESET:
                return await self._reset(vm, report)

    async def start_at(self, vm: PowerVm, snapshot: str, report: Report) -> str:
        """Switch a VM on that goes on where a snapshot of it was taken.

        Effect: what has been written to its disks since then is gone.

        Returns:
            How it ended, for people.

        Raises:
            PowerError: It could not be done.
        """
        await report(10, "starting QEMU with the snapshot")
        if not await self._launch(vm, report, snapshot=snapshot):
            raise PowerError("somebody else has started the VM meanwhile")
        return f"the VM was started where the snapshot {snapshot} was taken"

    async def _start(self, vm: PowerVm, report: Report) -> str:
        if vm.seen_status is VmStatus.PAUSED:
            raise PowerError("the VM is paused, not stopped: whoever paused it must let it go on")
        if vm.seen_status is VmStatus.RUNNING:
            return "the VM was already running"
        await report(10, "starting QEMU")
        started = await self._launch(vm, report)
        return "the VM was started" if started else "the VM was already running"

    async def _launch(self, vm: PowerVm, report: Report, *, snapshot: str | None = None) -> bool:
        await self._let_exit(vm)
        started = await self._launcher.start(vm.definition, snapshot=snapshot)
        await report(80, "QEMU runs")
        if not await vm.wait_until(_is_running, self._patience.seen_s):
            raise PowerError(f"QEMU runs, but the VM does not: it is {vm.seen_status}")
        return started

    async def _let_exit(self, vm: PowerVm) -> None:
        """Wait for a QEMU whose guest has just powered off: it tells so before it exits, and isn't the one to start."""
        if _is_stopped(vm):
            with _hold(_find_pid(vm)) as qemu:
                if qemu is not None:
                    await qemu.wait_ended(self._patience.quit_s)

    async def _stop(self, vm: PowerVm, report: Report) -> str:
        if _is_stopped(vm):
            return "the VM was already stopped"
        _check_monitor(vm)
        await report(10, "switching the VM off")
        await self._pull_plug(vm)
        return "the VM was switched off"

    async def _shutdown(self, vm: PowerVm, report: Report, *, force: bool) -> str:
        if _is_stopped(vm):
            return "the VM was already stopped"
        try:
            return await self._ask_to_shut_down(vm, report)
        except PowerError as exc:
            if vm.definition.qmp is None:
                raise
            if not force:
                raise PowerError(f"{exc}; force switches the VM off") from exc
            await report(90, f"{exc}; switching it off")
            await self._pull_plug(vm)
            return f"the VM was switched off, because {exc}"

    async def _ask_to_shut_down(self, vm: PowerVm, report: Report) -> str:
        """Ask the agent, then press the power button; a guest that is already on its way ignores the second one.

        The button is pressed once. An agent that wasn't there, because the guest is still booting, is asked when it is.

        Raises:
            PowerError: It can't be asked, or didn't shut down in time.
        """
        if vm.seen_status is VmStatus.PAUSED:
            raise PowerError("the VM is paused, so its guest can't shut down")
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._patience.guest_s
        agent = await self._tell_powerdown(vm, report, percent=20)
        if agent.refusal is None and await self._stops_soon(vm, deadline_s):
            return "the guest shut down"
        button_refusal = await _press(vm)
        if button_refusal is None:
            await report(40, "the ACPI power button was pressed")
        elif agent.refusal is not None:
            raise PowerError(f"the guest can't be asked: {agent.refusal}; {button_refusal}")
        while not await self._stops_soon(vm, deadline_s):
            if loop.time() >= deadline_s:
                raise PowerError(_ignored(agent.refusal, button_refusal, self._patience.guest_s))
            if agent.unsent:
                agent = await self._tell_powerdown(vm, report, percent=50)
        return "the guest shut down"

    async def _tell_powerdown(self, vm: PowerVm, report: Report, *, percent: int) -> "_Told":
        told = await self._tell(vm, "powerdown")
        if told.refusal is None:
            await report(percent, "the guest agent was asked to shut the guest down")
        return told

    async def _stops_soon(self, vm: PowerVm, deadline_s: float) -> bool:
        left_s = deadline_s - asyncio.get_running_loop().time()
        return await vm.wait_until(_is_stopped, min(self._patience.agent_s, max(left_s, 0.0)))

    async def _reboot(self, vm: PowerVm, report: Report) -> str:
        _check_monitor(vm)
        if _is_stopped(vm):
            raise PowerError("the VM is stopped: start it instead")
        if vm.seen_status is VmStatus.PAUSED:
            raise PowerError("the VM is paused, so its guest can't reboot; force resets it")
        resets = vm.resets
        told = await self._tell(vm, "reboot")
        if told.refusal is not None:
            raise PowerError(
                f"the guest can't be asked to reboot, only its agent can do that: {told.refusal}; force resets it"
            )
        await report(20, "the guest agent was asked to reboot the guest")
        if await vm.wait_until(lambda vm: vm.resets > resets, self._patience.guest_s):
            return "the guest rebooted"
        if _is_stopped(vm):
            raise PowerError("the guest shut down instead of rebooting")
        raise PowerError(
            f"the guest did not reboot within {self._patience.guest_s:g} s, though its agent was asked; force resets it"
        )

    async def _reset(self, vm: PowerVm, report: Report) -> str:
        _check_monitor(vm)
        if _is_stopped(vm):
            raise PowerError("the VM is stopped: start it instead")
        monitor, resets = _get_monitor(vm), vm.resets
        await report(20, "resetting the VM")
        try:
            await monitor.reset()
        except MonitorError as exc:
            raise PowerError(str(exc)) from exc
        if not await vm.wait_until(lambda vm: vm.resets > resets, self._patience.seen_s):
            raise PowerError(f"QEMU took the reset, but did not do it within {self._patience.seen_s:g} s")
        return "the VM was reset" + ("; it is still paused" if vm.seen_status is VmStatus.PAUSED else "")

    async def _tell(self, vm: PowerVm, mode: str) -> "_Told":
        try:
            async with asyncio.timeout(self._patience.agent_s):
                await vm.channel.tell("guest-shutdown", {"mode": mode})
        except AgentError as exc:
            return _Told(str(exc), unsent=exc.effect is Effect.NONE)
        except TimeoutError:
            return _Told(f"the guest agent took no request within {self._patience.agent_s:g} s")
        return _Told()

    async def _pull_plug(self, vm: PowerVm) -> None:
        """End QEMU by its monitor, or kill it where that doesn't help.

        Raises:
            PowerError: It still runs.
        """
        with _hold(_find_pid(vm)) as qemu:
            refusal = await _quit(vm)
            if refusal is None and await self._has_ended(vm, qemu):
                return
            if qemu is None:
                raise PowerError(f"QEMU did not end, and its process is not known: {refusal or 'it ignored quit'}")
            qemu.kill()
            if not await self._has_ended(vm, qemu):
                raise PowerError("QEMU did not end, though it was killed: this host can't let go of it")

    async def _has_ended(self, vm: PowerVm, qemu: "_Process | None") -> bool:
        """Wait for the process itself where it is known: a lost monitor says nothing.

        Raises:
            PowerError: It has ended, and the VM isn't stopped.
        """
        if qemu is None:
            return await vm.wait_until(_is_stopped, self._patience.quit_s)
        if not await qemu.wait_ended(self._patience.quit_s):
            return False
        if not await vm.wait_until(_is_stopped, self._patience.seen_s):
            raise PowerError("QEMU has ended, but somebody started it again, or still uses its sockets")
        return True


@dataclass(frozen=True, slots=True)
class _Told:
    """What came of asking the agent.

    Attributes:
        refusal: Why the guest will do nothing; ``None`` if it was asked.
        unsent: The agent never saw the request, so asking again repeats nothing.
    """

    refusal: str | None = None
    unsent: bool = False


class _Process:
    """A process held by a pidfd, so that its pid can't become another's."""

    def __init__(self, pid_fd: int) -> None:
        self._pid_fd = pid_fd

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self._pid_fd, signal.SIGKILL)
        except ProcessLookupError:
            return
        except OSError as exc:
            raise PowerError(f"QEMU did not end, and can't be killed: {exc.strerror}") from exc

    async def wait_ended(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pid_fd, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._pid_fd)
        return True


@contextlib.contextmanager
def _hold(pid: int | None) -> Iterator[_Process | None]:
    try:
        pid_fd = os.pidfd_open(pid) if pid is not None else None
    except ProcessLookupError:
        pid_fd = None
    if pid_fd is None:
        yield None
        return
    try:
        yield _Process(pid_fd)
    finally:
        os.close(pid_fd)


def _find_pid(vm: PowerVm) -> int | None:
    pid = vm.monitor.qemu_pid if vm.monitor is not None else None
    return pid if pid is not None else machine.running_pid(vm.definition)


async def _quit(vm: PowerVm) -> str | None:
    try:
        await _get_monitor(vm).quit()
    except (MonitorError, PowerError) as exc:
        return str(exc)
    return None


async def _press(vm: PowerVm) -> str | None:
    try:
        await _get_monitor(vm).power_button()
    except (MonitorError, PowerError) as exc:
        return str(exc)
    return None


def _get_monitor(vm: PowerVm) -> PowerMonitor:
    _check_monitor(vm)
    if vm.monitor is None:
        raise PowerError("QEMU's monitor is not connected")
    return vm.monitor


def _check_monitor(vm: PowerVm) -> None:
    if vm.definition.qmp is None:
        raise PowerError("the VM's definition has no qmp socket, so only its guest agent can be asked to shut it down")


def _ignored(agent_refusal: str | None, button_refusal: str | None, timeout_s: float) -> str:
    if agent_refusal is not None:
        asked, rest = "the ACPI power button", f"; its agent can't be asked: {agent_refusal}"
    elif button_refusal is not None:
        asked, rest = "the guest agent", f"; the ACPI power button can't be pressed: {button_refusal}"
    else:
        asked, rest = "both the guest agent and the ACPI power button", ""
    return f"the guest ignored {asked} within {timeout_s:g} s{rest}"


def _is_stopped(vm: PowerVm) -> bool:
    return vm.seen_status is VmStatus.STOPPED


def _is_running(vm: PowerVm) -> bool:
    return vm.seen_status is VmStatus.RUNNING
