"""Snapshots of a VM: QEMU's own, kept inside its qcow2 disks, with the guest's memory.

Source: QMP reference, ``snapshot-save``, ``snapshot-load``, ``snapshot-delete`` (QEMU 6.0); measured on 7.2. Works on a
VM that somebody else follows. Doesn't know jobs, Redis, or what an owner wants a snapshot for.

Of a VM that is off no snapshot can be taken, because there is no memory to keep; they can be deleted (``qemu-img``),
and going back to one switches the VM on in that state (``-loadvm``).
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from app.core.errors import MonitorError, SnapshotError
from app.core.records import JobKind, VmStatus
from app.core.store.snapshots import VmSnapshots
from workers.qmp import job
from workers.qmp.monitor import Monitor
from workers.qmp.replies import Image
from workers.vms import snapshot_rules as rules
from workers.vms.power import PowerAgent, PowerVm, Report
from workers.vms.qemu_img import QemuImg

_log = logging.getLogger(__name__)

_NO_MONITOR = "The VM's definition has no qmp socket, and snapshots are QEMU's to take"


class SnapshotAgent(PowerAgent, Protocol):
    """The way to a guest agent."""

    def held(self, timeout_s: float) -> AbstractAsyncContextManager[None]:
        """Keep calls from the agent while a block runs."""

    async def reset(self) -> None:
        """Close the present session."""


class SnapshotVm(PowerVm, Protocol):
    """A VM that somebody follows."""

    lacks_setsid: bool
    snapshots: VmSnapshots | None

    @property
    def monitor(self) -> Monitor | None:
        """Its monitor, while that is connected."""

    @property
    def channel(self) -> SnapshotAgent:
        """Its guest agent."""


StartAt = Callable[[SnapshotVm, str, Report], Awaitable[str]]
"""Switches a VM on in the state of a snapshot, and says so; raises ``PowerError``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotLimits:
    """How many snapshots, and how long what is waited for.

    Attributes:
        count: Snapshots of a VM.
        work_s: For QEMU to save, to load or to delete one.
        agent_s: For the agent's calls under way to end before that.
        look_s: For looking into an image.
    """

    count: int = 5
    work_s: float = 300.0
    agent_s: float = 5.0
    look_s: float = 10.0


class Snapshots:
    """Takes, deletes and goes back to snapshots, and tells which there are."""

    def __init__(
        self,
        node: str,
        qemu_img: QemuImg,
        *,
        start_at: StartAt,
        publish: Callable[[VmSnapshots], Awaitable[None]],
        guest_gone: Callable[[int, str], None],
        limits: SnapshotLimits,
    ) -> None:
        """Put the parts together.

        Args:
            node: The name of this node.
            qemu_img: Knows the images of a VM that is off.
            start_at: Switches a VM on.
            publish: Takes what is known of a VM's snapshots.
            guest_gone: Told when another system than before runs in a VM, with the reason.
            limits: How many, and how long.
        """
        self._node = node
        self._qemu_img = qemu_img
        self._start_at = start_at
        self._publish = publish
        self._guest_gone = guest_gone
        self._limits = limits

    async def run(self, kind: JobKind, vm: SnapshotVm, name: str, report: Report) -> str:
        """Do one thing to one snapshot, and tell which there are afterwards.

        Effect: taking one halts the guest meanwhile; going back to one replaces its memory and what is on its disks.

        Returns:
            How it ended, for people.

        Raises:
            SnapshotError: It could not be done; the text says why.
            PowerError: The VM could not be switched on in the state of the snapshot.
        """
        action = {
            JobKind.SNAPSHOT_CREATE: self._create,
            JobKind.SNAPSHOT_ROLLBACK: self._rollback,
            JobKind.SNAPSHOT_DELETE: self._delete,
        }[kind]
        try:
            return await action(vm, name, report)
        finally:
            await self.look(vm)

    async def look(self, vm: SnapshotVm) -> None:
        """Find out which snapshots a VM has, and tell it; what can't be known now stays as it was told before."""
        if vm.definition.qmp is None:
            await self._tell(vm, VmSnapshots(vmid=vm.definition.vmid, node=self._node, limit=0, obstacle=_NO_MONITOR))
            return
        try:
            found = await self._images(vm)
        except SnapshotError as exc:
            _log.info("snapshots_unknown", extra={"vmid": vm.definition.vmid, "reason": str(exc)})
            return
        known = VmSnapshots(
            vmid=vm.definition.vmid,
            node=self._node,
            limit=self._limits.count,
            obstacle=rules.find_obstacle(found),
            snapshots=rules.merge(found),
        )
        await self._tell(vm, known)

    async def _tell(self, vm: SnapshotVm, known: VmSnapshots) -> None:
        vm.snapshots = known
        await self._publish(known)

    async def _create(self, vm: SnapshotVm, name: str, report: Report) -> str:
        if vm.seen_status is VmStatus.STOPPED:
            raise SnapshotError("the VM is stopped: there is no memory to keep")
        found = rules.usable(await self._images(vm))
        present = rules.merge(found)
        if any(snapshot.name == name for snapshot in present):
            raise SnapshotError(f"the VM has a snapshot {name} already")
        if len(present) >= self._limits.count:
            raise SnapshotError(f"the VM has {len(present)} snapshots; it may have {self._limits.count}")
        await report(20, "saving the guest's memory and the state of its disks")
        nodes = [image.node for image in found]
        async with vm.channel.held(self._limits.agent_s):
            await self._work(vm, "snapshot-save", {"tag": name, "vmstate": nodes[0], "devices": nodes})
        return f"the snapshot {name} was taken"

    async def _rollback(self, vm: SnapshotVm, name: str, report: Report) -> str:
        found = rules.usable(await self._images(vm))
        memory = rules.find_memory(found, name)
        if vm.seen_status is VmStatus.STOPPED:
            return await self._start_at(vm, name, report)
        await report(20, "loading the guest's memory and the state of its disks")
        # A pid and a file handle that the guest told may mean something else in the guest that comes alive again, and
        # its agent calls itself the same. So no session, no call and no command of before may reach it.
        async with vm.channel.held(self._limits.agent_s):
            await vm.channel.reset()
            await self._load(vm, {"tag": name, "vmstate": memory.node, "devices": [image.node for image in found]})
        return f"the VM was taken back to the snapshot {name}"

    async def _load(self, vm: SnapshotVm, arguments: dict[str, object]) -> None:
        was_paused = vm.seen_status is VmStatus.PAUSED
        try:
            await self._work(vm, "snapshot-load", arguments)
        except SnapshotError as exc:
            if await _runs(vm):  # QEMU halts the guest before it changes anything, and it stays so (measured on 7.2)
                raise
            self._lose(vm, f"the VM was to be taken back to the snapshot {arguments['tag']}, which failed")
            raise SnapshotError(f"{exc}; the VM is halted: go back to another snapshot, or stop and start it") from exc
        self._lose(vm, f"the VM was taken back to the snapshot {arguments['tag']}")
        if not was_paused and not await _runs(vm):
            await _resume(vm)

    def _lose(self, vm: SnapshotVm, reason: str) -> None:
        vm.lacks_setsid = False
        self._guest_gone(vm.definition.vmid, reason)

    async def _delete(self, vm: SnapshotVm, name: str, report: Report) -> str:
        found = rules.holding(await self._images(vm), name)
        await report(20, "deleting the snapshot")
        if vm.seen_status is VmStatus.STOPPED:
            await self._qemu_img.delete([image.node for image in found], name, timeout_s=self._limits.work_s)
        else:
            await self._work(vm, "snapshot-delete", {"tag": name, "devices": [image.node for image in found]})
        return f"the snapshot {name} was deleted"

    async def _images(self, vm: SnapshotVm) -> tuple[Image, ...]:
        """Look into the VM's images, through its QEMU or, where there is none, through qemu-img.

        Raises:
            SnapshotError: That can't be done now.
        """
        if vm.seen_status is VmStatus.STOPPED:  # QEMU may be about to exit: not to be asked any more
            machine = vm.definition.machine
            if machine is None:
                raise SnapshotError("the VM is stopped, and its definition has no [machine] that names its disks")
            return await self._qemu_img.read(machine.disks, timeout_s=self._limits.look_s)
        monitor = _get_monitor(vm)
        try:
            await job.clear(monitor)
            return await monitor.images()
        except MonitorError as exc:
            raise SnapshotError(str(exc)) from exc

    async def _work(self, vm: SnapshotVm, command: str, arguments: dict[str, object]) -> None:
        try:
            await job.run(_get_monitor(vm), command, arguments, timeout_s=self._limits.work_s)
        except MonitorError as exc:
            raise SnapshotError(str(exc)) from exc


def _get_monitor(vm: SnapshotVm) -> Monitor:
    if vm.definition.qmp is None:
        raise SnapshotError(_NO_MONITOR)
    if vm.monitor is None:
        raise SnapshotError("QEMU's monitor is not connected")
    return vm.monitor


async def _runs(vm: SnapshotVm) -> bool:
    try:
        return await _get_monitor(vm).run_state() == "running"
    except (MonitorError, SnapshotError):
        return False


async def _resume(vm: SnapshotVm) -> None:
    try:
        await _get_monitor(vm).resume()
    except MonitorError as exc:
        raise SnapshotError(f"the VM is in the state of the snapshot, but halted: {exc}") from exc
