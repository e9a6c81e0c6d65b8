"""One VM of this node, as the worker knows it at this moment: its power state, its agent, its figures.

Presence comes from QMP: events say within milliseconds that the guest opened or closed the agent's port, stopped, reset
or paused. A VM without a monitor socket is asked through its agent, now and then.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from app.core.clock import now
from app.core.errors import AgentAbsentError, AgentError, MonitorAbsentError, MonitorError
from app.core.records import Vm as VmRecord
from app.core.records import VmStatus
from app.core.store.disks import Disk
from app.core.store.metrics import Usage
from app.core.store.snapshots import VmSnapshots
from workers.qga.channel import Channel
from workers.qmp.monitor import Monitor
from workers.settings import WorkerSettings
from workers.socket_lock import is_listening
from workers.vms.definition import VmDefinition
from workers.vms.figures import Figures, Sampler
from workers.vms.usage import Meter

_log = logging.getLogger(__name__)

AVAILABLE = "QEMU Guest Agent is available"
_NOT_CONNECTED = "QEMU Guest Agent is not connected: it is not running in the guest, or not installed"
_NOT_RUNNING = "VM is not running"

_MONITOR_TIMEOUT_S = 5.0
_FIRST_RETRY_S = 0.2
_EXIT_GRACE_S = 5.0
"""How long QEMU may take to exit after its SHUTDOWN event; one told not to exit is asked again after that."""
_LONGEST_RETRY_S = 2.0
_READINGS = 6
"""Of so many samples the average is kept: half a minute of the default interval."""
_DISKS_S = 60.0
"""How often a VM's disks are looked at."""
_LAST_CALLS_S = 2.0
_ORPHAN_CLOSE_S = 5.0
"""How long the channel stays open without a call once nobody follows the VM: a command is polled every second."""
_MIB = 1024 * 1024
_MOST_EVENTS = 1000
"""So many events wait to be looked at; QEMU sends a few for each thing that happens to a VM."""

_RUN_STATES: Mapping[str, VmStatus] = {
    "running": VmStatus.RUNNING,
    "prelaunch": VmStatus.STARTING,
    "inmigrate": VmStatus.STARTING,
    "internal-error": VmStatus.ERROR,
    "io-error": VmStatus.ERROR,
    "guest-panicked": VmStatus.ERROR,
    "restore-vm": VmStatus.ERROR,
    "watchdog": VmStatus.ERROR,
    "shutdown": VmStatus.STOPPED,
}
"""QEMU's run states (Source: QMP reference, RunState); each other one has its CPUs stopped: paused."""


class History(Protocol):
    """Whatever keeps what is told of a VM less often than its state."""

    async def add_usage(self, account: str, vmid: int, usage: Usage, covered_s: float) -> None:
        """Take what the VM used on average over so many seconds."""

    async def set_disks(self, account: str, vmid: int, disks: tuple[Disk, ...]) -> None:
        """Take what its disks are now."""


class Vm:
    """Follows one VM and publishes each change of what is known of it.

    Attributes:
        snapshots: What was last known of its snapshots; whoever looks at them writes it down.
    """

    snapshots: VmSnapshots | None

    def __init__(
        self,
        definition: VmDefinition,
        settings: WorkerSettings,
        *,
        publish: Callable[[VmRecord], Awaitable[None]],
        guest_gone: Callable[[int, str], None],
        long_replies: asyncio.Semaphore | None = None,
        channel: Channel | None = None,
        history: History | None = None,
        look_at_snapshots: "Callable[[Vm], Awaitable[None]] | None" = None,
    ) -> None:
        """Describe the VM; nothing is opened before ``follow``.

        Args:
            definition: What its file says.
            settings: The worker's.
            publish: Takes every new state.
            long_replies: As for ``Channel``.
            channel: The one to its agent, where there is one already; made by default.
            guest_gone: Told when the system in the VM has ended (stopped, reset), with the reason.
            history: Takes what it uses over time, and its disks.
            look_at_snapshots: Finds out which snapshots it has; called when its QEMU was found, or found to be off.
        """
        self.definition = definition
        self.snapshots = None
        self.lacks_setsid = False
        self.resets = 0
        self.channel = channel or Channel(
            definition.qga,
            sync_timeout_s=settings.agent_sync_timeout_s,
            rpc_timeout_s=settings.agent_rpc_timeout_s,
            idle_close_s=settings.agent_idle_close_s,
            on_end=self._touch,
            long_replies=long_replies,
        )
        self.monitor: Monitor | None = None
        self._settings = settings
        self._publish = publish
        self._guest_gone = guest_gone
        self._history = history
        self._look_at_snapshots = look_at_snapshots
        self._status = VmStatus.UNKNOWN
        self._stopped_s = float("-inf")
        self._transition: VmStatus | None = None
        self._port_open: bool | None = None
        self._agent_message = "The VM has not been looked at yet"
        self._figures = Figures()
        self._cpus: int | None = None
        self._maxmem_bytes: int | None = None
        self._disks: tuple[Disk, ...] | None = None
        self._changed = asyncio.Event()
        self._retry = asyncio.Event()
        self._agent_due = asyncio.Event()
        self._news = asyncio.Event()
        self._snapshots_due = asyncio.Event()

    # --- what others ask ----------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the VM's CPUs run, as far as is known."""
        return self._status is VmStatus.RUNNING

    @property
    def stopped(self) -> bool:
        """Whether there is no guest any more."""
        return self._status is VmStatus.STOPPED

    @property
    def seen_status(self) -> VmStatus:
        """What was last seen of it; never a state that is only hoped for."""
        return self._status

    @property
    def qemu_pid(self) -> int | None:
        """QEMU's pid on this node; ``None`` where it isn't known for certain."""
        return self.monitor.qemu_pid if self.monitor else None

    @property
    def status(self) -> VmStatus:
        """Power state; ``starting`` or ``stopping`` while a power action is under way."""
        if self._transition is VmStatus.STOPPING and self._status is VmStatus.STOPPED:
            return self._status
        if self._transition is VmStatus.STARTING and self._status is VmStatus.RUNNING:
            return self._status
        return self._transition or self._status

    async def changed(self, timeout_s: float) -> None:
        """Wait until something about the VM changes, but not for longer."""
        event = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()

    async def wait_until(self, reached: Callable[["Vm"], bool], timeout_s: float) -> bool:
        """Wait until something holds for the VM.

        Returns:
            Whether it holds; ``False`` after ``timeout_s``.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not reached(self) and loop.time() < deadline_s:
            await self.changed(deadline_s - loop.time())
        return reached(self)

    def announce(self, transition: VmStatus | None) -> None:
        """Say that a power action is under way (``starting``, ``stopping``) or over (``None``)."""
        self._transition = transition
        self._retry.set()
        self._tell()

    def describe_anew(self, definition: VmDefinition) -> None:
        """Go on with what its file says now. Its owner and its sockets are the same: nothing that runs need notice."""
        self.definition = definition
        self._snapshots_due.set()
        self._tell()

    # --- following ----------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Follow the VM until cancelled. Commands that still run in it then have the channel to themselves."""
        self.channel.serve(self._touch, idle_close_s=self._settings.agent_idle_close_s)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._publish_news())
                group.create_task(self._follow_agent())
                group.create_task(self._follow_snapshots())
                if self.definition.qmp is not None:
                    group.create_task(self._follow_monitor(self.definition.qmp))
                    group.create_task(self._follow_figures())
        finally:
            self.channel.serve(_nobody, idle_close_s=_ORPHAN_CLOSE_S)
            async with self.channel.held(_LAST_CALLS_S):  # the result of a command may be on its way
                await self.channel.close()

    async def _follow_monitor(self, path: Path) -> None:
        pause_s = _FIRST_RETRY_S
        while True:
            try:
                await self._with_monitor(path)
                pause_s = 0.0
            except MonitorAbsentError:
                self._see_stopped("the VM was stopped")
            except MonitorError as exc:
                self._see_monitor_error(exc)
            self._retry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s if self._transition is None else _FIRST_RETRY_S):
                    await self._retry.wait()
            pause_s = min(max(pause_s * 2, _FIRST_RETRY_S), _LONGEST_RETRY_S)

    async def _with_monitor(self, path: Path) -> None:
        events: asyncio.Queue[str] = asyncio.Queue(_MOST_EVENTS)
        monitor = Monitor(path, on_event=lambda name, _data: _note(events, name))
        await monitor.connect(_MONITOR_TIMEOUT_S)
        try:
            self.monitor = monitor
            self._cpus, self._maxmem_bytes = await monitor.cpu_count(), await monitor.memory_bytes()
            await self._look(monitor)
            self._snapshots_due.set()
            ended = asyncio.create_task(monitor.wait_closed())
            try:
                await self._take_events(monitor, events, ended)
            finally:
                ended.cancel()
        finally:
            self.monitor = None
            await monitor.close()
            self._tell()

    async def _take_events(self, monitor: Monitor, events: "asyncio.Queue[str]", ended: "asyncio.Task[None]") -> None:
        while not ended.done():
            taking = asyncio.create_task(events.get())
            try:
                done, _ = await asyncio.wait({taking, ended}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                taking.cancel()  # one that is done stays as it is
            if taking not in done:
                return
            name = taking.result()
            if name == "RESET":
                self.resets += 1
                self.lacks_setsid = False
                self._agent_message = _NOT_CONNECTED
                self._guest_gone(self.definition.vmid, "the VM was reset")
                await self.channel.reset()
            elif name == "SHUTDOWN":
                self._see_stopped("the VM was switched off")
                await self._let_exit(events, ended)
            elif name == "JOB_STATUS_CHANGE":
                continue
            if not ended.done():
                await self._look(monitor)

    async def _let_exit(self, events: "asyncio.Queue[str]", ended: "asyncio.Task[None]") -> None:
        """Ask nothing while QEMU exits: a request that arrives meanwhile makes QEMU 7.2 hang in its exit (measured)."""
        await asyncio.wait([ended], timeout=_EXIT_GRACE_S)
        while not events.empty():
            events.get_nowait()

    async def _look(self, monitor: Monitor) -> None:
        status = _RUN_STATES.get(await monitor.run_state(), VmStatus.PAUSED)
        port_open = await monitor.agent_port_open(self.definition.qga)
        if self._port_open and not port_open:
            await self.channel.reset()
        self._status, self._port_open = status, port_open
        self._tell()
        self._agent_due.set()

    def _see_monitor_error(self, exc: MonitorError) -> None:
        if self._transition is VmStatus.STARTING:
            return  # the launcher holds the monitor until QEMU is through with its start
        if self._status is VmStatus.STOPPED and asyncio.get_running_loop().time() < self._stopped_s + _EXIT_GRACE_S:
            return  # its QEMU is on its way out, and may still take a connection
        if self._status is not VmStatus.UNKNOWN or self._agent_message != str(exc):
            _log.warning("monitor_unusable", extra={"vmid": self.definition.vmid, "reason": str(exc)})
            self._status, self._agent_message = VmStatus.UNKNOWN, str(exc)
            self._tell()

    def _see_stopped(self, reason: str) -> None:
        if self._status is VmStatus.STOPPED:
            return
        self._status, self._port_open = VmStatus.STOPPED, None
        self._stopped_s = asyncio.get_running_loop().time()
        self._figures, self._cpus, self._maxmem_bytes = Figures(), None, None
        self._agent_message = _NOT_RUNNING
        self._guest_gone(self.definition.vmid, reason)
        self.lacks_setsid = False
        self._agent_due.set()
        if self.snapshots is None:
            self._snapshots_due.set()
        self._tell()

    async def _follow_snapshots(self) -> None:
        if self.definition.qmp is None:
            self._snapshots_due.set()  # nothing will ever be seen that makes it due
        while self._look_at_snapshots is not None:
            await self._snapshots_due.wait()
            self._snapshots_due.clear()
            await self._look_at_snapshots(self)

    async def _follow_agent(self) -> None:
        while True:
            self._agent_due.clear()
            await self._look_at_agent()
            off = self._status is VmStatus.STOPPED and self.definition.qmp is None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_RETRY_S if off else self._settings.agent_probe_s):
                    await self._agent_due.wait()

    async def _look_at_agent(self) -> None:
        message = await self._agent_state()
        if message != self._agent_message:
            self._agent_message = message
            _log.info("agent_state", extra={"vmid": self.definition.vmid, "agent": message})
            self._tell()

    async def _agent_state(self) -> str:
        if self.definition.qmp is None:
            return await self._ask_agent_only()
        if self._status is VmStatus.STOPPED:
            await self.channel.reset()
            return _NOT_RUNNING
        if self._status is not VmStatus.RUNNING:
            return f"VM is {self._status}"
        if self._port_open is False and not await self._has_port_opened():
            return _NOT_CONNECTED
        try:
            return await self._ask_agent()
        except AgentError as exc:
            return str(exc)

    async def _has_port_opened(self) -> bool:
        """Ask QEMU again: a port without an id sends no event when the guest opens it."""
        with contextlib.suppress(MonitorError):
            if self.monitor is not None:
                self._port_open = await self.monitor.agent_port_open(self.definition.qga)
        return self._port_open is not False

    async def _ask_agent_only(self) -> str:
        """Find out through the agent socket alone whether the VM is there, and the agent in it."""
        try:
            message = await self._ask_agent()
        except AgentAbsentError:
            self._see_stopped("the VM was stopped")
            return _NOT_RUNNING
        except AgentError as exc:
            message = str(exc)
        self._status = VmStatus.RUNNING
        return message

    async def _ask_agent(self) -> str:
        idle = self.channel.facts is None and self._agent_message == AVAILABLE
        if idle and self._settings.agent_idle_close_s > 0 and is_listening(self.definition.qga):
            return AVAILABLE  # the socket was let go for other software; a command opens it again
        facts = await self.channel.open()
        if not facts.enabled >= {"guest-exec", "guest-exec-status"}:
            return "guest-exec is disabled in the guest's QEMU Guest Agent"
        return AVAILABLE

    async def _follow_figures(self) -> None:
        sampler: Sampler | None = None
        meter, disks_due_s = Meter(), 0.0
        while True:
            monitor = self.monitor
            if monitor is None or self.qemu_pid is None or self._status is VmStatus.STOPPED:
                sampler = None
                await self.changed(self._settings.figures_s)
                continue
            if sampler is None or sampler.pid != self.qemu_pid:
                machine = self.definition.machine
                sampler, disks_due_s = Sampler(self.qemu_pid, nics=machine.nics if machine else ()), 0.0
            figures, now_s = await sampler.sample(monitor, cpus=self._cpus), asyncio.get_running_loop().time()
            if self.monitor is monitor and not self.stopped:  # else they are history, and were taken back meanwhile
                self._figures = figures
                self._tell()
                meter.take(figures, maxmem_bytes=self._maxmem_bytes, at_s=now_s)
                if now_s >= disks_due_s:
                    await self._see_disks(monitor)
                    disks_due_s = now_s + _DISKS_S
            if meter.readings >= _READINGS:
                await self._keep(meter)
            await asyncio.sleep(self._settings.figures_s)

    async def _see_disks(self, monitor: Monitor) -> None:
        with contextlib.suppress(MonitorError):
            self._disks = tuple(Disk(**dataclasses.asdict(drive)) for drive in await monitor.drives())
            if self._history is not None:
                await self._history.set_disks(self.definition.account, self.definition.vmid, self._disks)

    async def _keep(self, meter: Meter) -> None:
        covered_s, usage = meter.covered_s, meter.tell()
        if self._history is not None:
            await self._history.add_usage(self.definition.account, self.definition.vmid, usage, covered_s)

    # --- telling ------------------------------------------------------------------------------------------------------

    def _touch(self) -> None:
        self._agent_due.set()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _tell(self) -> None:
        self._wake()
        self._news.set()

    async def _publish_news(self) -> None:
        # One at a time, so that the last state written is the last one seen.
        while True:
            await self._news.wait()
            self._news.clear()
            await self._publish(self.record())

    def record(self) -> VmRecord:
        """Write down what is known now."""
        definition, facts, figures = self.definition, self.channel.facts, self._figures
        machine = definition.machine
        return VmRecord(
            vmid=definition.vmid,
            name=definition.name,
            account=definition.account,
            node=self._settings.node_name,
            startable=definition.machine is not None,
            has_monitor=definition.qmp is not None,
            status=self.status,
            running=self.running,
            agent_available=self.running and self._agent_message == AVAILABLE,
            agent_message=self._agent_message,
            agent_version=facts.version if facts else None,
            seen_at=now(),
            qemu_pid=self.qemu_pid,
            cpus=self._cpus or (machine.cpus if machine else None),
            maxmem_bytes=self._maxmem_bytes or (machine.memory_mb * _MIB if machine else None),
            booted_at=figures.booted_at,
            cpu=figures.cpu,
            mem_bytes=figures.mem_bytes,
            netin_bytes=figures.netin_bytes,
            netout_bytes=figures.netout_bytes,
            diskread_bytes=figures.diskread_bytes,
            diskwrite_bytes=figures.diskwrite_bytes,
            storage_bytes=_total(self._disks, "size_bytes"),
            storage_used_bytes=_total(self._disks, "used_bytes"),
        )


def _note(events: "asyncio.Queue[str]", name: str) -> None:
    """Note an event. In a flood most are dropped: QEMU is asked how it is after each of those that are noted."""
    with contextlib.suppress(asyncio.QueueFull):
        events.put_nowait(name)


def _total(disks: tuple[Disk, ...] | None, name: str) -> int | None:
    """Add up a size over a VM's disks, without what its CD drives hold; ``None`` where one isn't known."""
    if disks is None:
        return None
    sizes = [getattr(disk, name) for disk in disks if not disk.removable]
    return None if None in sizes else sum(sizes)


def _nobody() -> None:
    """Be told that a session has ended, for nobody."""
