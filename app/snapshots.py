"""The web half's rules of snapshots: which there are, what can be done to them now, and the jobs that do it.

Judges by what the VM's worker last told, in one round trip; the worker looks again before it acts. Knows no face.
"""

from dataclasses import dataclass

from app.access import Principal
from app.core.errors import GateClosedError, NotFoundError, SnapshotExistsError
from app.core.records import Job, JobKind, Snapshot, VmStatus
from app.core.store import Store, snapshots, vms
from app.core.store.snapshots import VmSnapshots
from app.dispatch import insist_on_node
from app.gates import OPEN, Gate
from app.inventory import VmView, known
from app.jobs import Jobs

_NOT_KNOWN = Gate("The snapshots of the VPS are not known: it has not been seen running yet", "snapshots_unknown")
_NOT_STARTABLE = Gate("The VPS is stopped, and its definition has no machine to start", "not_startable")
_NO_SNAPSHOT = Gate("The VPS has no snapshot", "no_snapshot")


@dataclass(frozen=True, slots=True)
class SnapshotsView:
    """A VM's snapshots as they may be shown.

    Attributes:
        vm_view: The VM.
        known: What its worker told; ``None`` if it never did.
    """

    vm_view: VmView
    known: VmSnapshots | None

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Those it has, oldest first."""
        return self.known.snapshots if self.known is not None else ()

    @property
    def limit(self) -> int:
        """How many it may have."""
        return self.known.limit if self.known is not None else 0

    @property
    def available(self) -> Gate:
        """Judge whether the VM can have snapshots at all."""
        if self.known is None:
            return _NOT_KNOWN
        if self.known.obstacle is not None:
            return Gate(self.known.obstacle, "snapshots_unavailable")
        if not self.vm_view.node_alive:
            return Gate(self.vm_view.vm.agent_message, "node_unavailable")
        return OPEN

    @property
    def can_create(self) -> Gate:
        """Judge whether a snapshot can be taken now."""
        status, count = self.vm_view.vm.status, len(self.snapshots)
        if not self.available.allowed:
            return self.available
        if status not in {VmStatus.RUNNING, VmStatus.PAUSED}:
            return Gate(f"The VPS is {status}: only of one that is running a snapshot is taken", f"vps_{status}")
        if count >= self.limit:
            return Gate(f"The VPS has {count} snapshots, and may have {self.limit}", "snapshot_limit_reached")
        return OPEN

    @property
    def can_restore(self) -> Gate:
        """Judge whether the VM can be taken back to a snapshot now."""
        return self.available if not self.available.allowed else self.can_delete

    @property
    def can_delete(self) -> Gate:
        """Judge whether a snapshot can be deleted now."""
        vm = self.vm_view.vm
        if not self.snapshots:
            return _NO_SNAPSHOT if self.available.allowed else self.available
        if vm.status is VmStatus.STOPPED and not vm.startable:
            return _NOT_STARTABLE
        return OPEN

    def insist_on(self, name: str) -> None:
        """Insist on a snapshot.

        Raises:
            NotFoundError: The VM has none of this name.
        """
        if name not in {snapshot.name for snapshot in self.snapshots}:
            raise NotFoundError("Snapshot")


class Snapshots:
    """Reads the snapshots of VMs, and queues what is to be done to them."""

    def __init__(self, store: Store, jobs: Jobs) -> None:
        self._store = store
        self._jobs = jobs

    def read(self, principal: Principal, vmid: int) -> SnapshotsView:
        """Read the snapshots of one VM.

        Raises:
            NotFoundError: There is no such VM, or the principal doesn't see it.
        """
        view, told = self._store.run_both(vms.read(vmid, principal.sight), snapshots.read(vmid, principal.sight))
        return SnapshotsView(known(view), told)

    def create(self, principal: Principal, vmid: int, name: str, description: str | None) -> Job:
        """Queue the taking of a snapshot.

        Effect: the guest is halted while its memory is saved.

        Raises:
            NotFoundError: There is no such VM, or the principal doesn't see it.
            NodeUnavailableError: No worker listens on the VM's node.
            SnapshotExistsError: It has a snapshot of this name.
            GateClosedError: None can be taken now.
        """
        found = self._read_alive(principal, vmid)
        if name in {snapshot.name for snapshot in found.snapshots}:
            raise SnapshotExistsError(name)
        _insist_on_open("canCreate", found.can_create)
        return self._jobs.create_for_snapshot(principal, found.vm_view, JobKind.SNAPSHOT_CREATE, name, description)

    def restore(self, principal: Principal, vmid: int, name: str) -> Job:
        """Queue the way back to a snapshot.

        Effect: the VM's memory and disks are replaced; its running commands end as lost.

        Raises:
            NotFoundError: There is no such VM or snapshot, or the principal doesn't see it.
            NodeUnavailableError: No worker listens on the VM's node.
            GateClosedError: It can't be done now.
        """
        found = self._read_alive(principal, vmid)
        found.insist_on(name)
        _insist_on_open("canRestore", found.can_restore)
        return self._jobs.create_for_snapshot(principal, found.vm_view, JobKind.SNAPSHOT_ROLLBACK, name)

    def delete(self, principal: Principal, vmid: int, name: str) -> Job:
        """Queue the deletion of a snapshot.

        Raises:
            NotFoundError: There is no such VM or snapshot, or the principal doesn't see it.
            NodeUnavailableError: No worker listens on the VM's node.
            GateClosedError: It can't be done now.
        """
        found = self._read_alive(principal, vmid)
        found.insist_on(name)
        _insist_on_open("canDelete", found.can_delete)
        return self._jobs.create_for_snapshot(principal, found.vm_view, JobKind.SNAPSHOT_DELETE, name)

    def _read_alive(self, principal: Principal, vmid: int) -> SnapshotsView:
        found = self.read(principal, vmid)
        insist_on_node(found.vm_view)
        return found


def _insist_on_open(name: str, gate: Gate) -> None:
    if gate.reason is not None and gate.code is not None:
        raise GateClosedError(name, gate.reason, gate.code)
