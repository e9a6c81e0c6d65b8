"""Which VMs a principal sees, and what may be said of them. Reads the store only; asks no node and no guest."""

from dataclasses import replace

from app.access import Principal
from app.core.errors import NotFoundError
from app.core.records import VmStatus
from app.core.store import Store, vms
from app.core.store.vms import VmView

__all__ = ["Inventory", "VmView", "known"]


class Inventory:
    """Looks VMs up for a principal."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get_vm(self, principal: Principal, vmid: int) -> VmView:
        """Read one VM.

        Raises:
            NotFoundError: There is no such VM, or the principal doesn't see it: the two look the same.
        """
        return known(self._store.run(vms.read(vmid, principal.sight)))

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
