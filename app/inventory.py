"""Which VMs a principal sees, and what may be said of them. Reads the store only; asks no node and no guest."""

from dataclasses import replace

from app.access import Principal
from app.core.errors import NotFoundError
from app.core.records import VmStatus
from app.core.store import Store, vms
from app.core.store.vms import VmView
from app.recent import Recent

__all__ = ["Inventory", "VmView", "known"]

_REMEMBERED = 1000


class Inventory:
    """Looks VMs up for a principal."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: Recent[VmView] = Recent(_REMEMBERED)

    def get_vm(self, principal: Principal, vmid: int) -> VmView:
        """Read one VM.

        Raises:
            NotFoundError: There is no such VM, or the principal doesn't see it: the two look the same.
        """
        return known(self._store.run(vms.read(vmid, principal.sight)))

    def recall_vm(self, principal: Principal, vmid: int) -> VmView:
        """Tell how a VM was when it was last read to be acted on, if it was running then; otherwise read it.

        For who has it checked (``vms.is_still``) at the very moment of acting: that saves a round trip.

        Raises:
            NotFoundError: As ``get_vm`` raises it; nothing is remembered of a VM that the principal doesn't see.
        """
        name = f"{vmid} {principal.sight.text}"
        return self._seen.find(name) or self._remember(name, self.get_vm(principal, vmid))

    def reread_vm(self, principal: Principal, vmid: int) -> VmView:
        """Read a VM that isn't any more what was remembered of it.

        Raises:
            NotFoundError: As ``get_vm`` raises it.
        """
        name = f"{vmid} {principal.sight.text}"
        self._seen.drop(name)
        return self._remember(name, self.get_vm(principal, vmid))

    def list_vms(self, principal: Principal) -> tuple[VmView, ...]:
        """Read all VMs that the principal sees, by vmid."""
        return tuple(_as_known(view) for view in self._store.run(vms.list_seen(principal.sight)))

    def list_page(self, principal: Principal, *, after: int, limit: int) -> tuple[tuple[VmView, ...], bool]:
        """Read the next VMs that the principal sees, by vmid, and tell whether there are more.

        Args:
            principal: Who asks.
            after: The vmid that the last page ended with; 0 for the first page.
            limit: How many VMs are read at most.
        """
        found = self._store.run(vms.list_page(principal.sight, after=after, limit=limit + 1))
        return tuple(_as_known(view) for view in found[:limit]), len(found) > limit

    def _remember(self, name: str, view: VmView) -> VmView:
        return self._seen.put(name, view) if view.vm.running else view


def known(view: VmView | None) -> VmView:
    """Tell what may be said of a VM that was read.

    Raises:
        NotFoundError: Nothing was read: there is none, or none to be seen.
    """
    if view is None:
        raise NotFoundError("VM")
    return _as_known(view)


def _as_known(view: VmView) -> VmView:
    """Take back what nobody can know while the node's worker is away."""
    if view.node_alive:
        return view
    vm = replace(
        view.vm,
        status=VmStatus.UNKNOWN,
        running=False,
        agent_available=False,
        agent_message=f"The worker of node {view.vm.node} is not reachable",
        qemu_pid=None,
        booted_at=None,
        cpu=None,
        mem_bytes=None,
        netin_bytes=None,
        netout_bytes=None,
        diskread_bytes=None,
        diskwrite_bytes=None,
    )
    return replace(view, vm=vm)
