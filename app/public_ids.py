"""Which VM a derived public id means: HostUp v2's ``vps_…`` or OpenStack's server id, given how it is derived.

Ids are derived one way, and the same for a vmid for ever. So nothing is stored about them: each process derives the ids
of an account's VMs when it first meets one that it doesn't know, and what it has derived never becomes wrong.
"""

from collections.abc import Callable

from app.access import Principal
from app.core.errors import NotFoundError
from app.core.store import Store, vms
from app.inventory import Inventory, VmView


class PublicIds:
    """Looks VMs up by one kind of public id."""

    def __init__(self, store: Store, inventory: Inventory, derive: Callable[[int], str]) -> None:
        """Know no VM yet.

        Args:
            store: Where the vmids of an account are.
            inventory: Reads a VM that was found.
            derive: Makes the public id of a vmid.
        """
        self._store = store
        self._inventory = inventory
        self._derive = derive
        self._vmids: dict[str, int] = {}
        self._derived: set[int] = set()

    def get_vm(self, principal: Principal, public_id: str) -> VmView:
        """Read one VM.

        Raises:
            NotFoundError: There is no such VM, or it belongs to another account: the two look the same.
        """
        return self._inventory.get_vm(principal, self.get_vmid(principal, public_id))

    def get_vmid(self, principal: Principal, public_id: str) -> int:
        """Tell which vmid an id stands for; whose VM it is finds out whoever reads it.

        Raises:
            NotFoundError: None that this principal could know of.
        """
        vmid = self._find_vmid(principal.account, public_id)
        if vmid is None:
            raise NotFoundError("VM")
        return vmid

    def _find_vmid(self, account: str, public_id: str) -> int | None:
        if public_id not in self._vmids:
            for vmid in self._store.run(vms.list_vmids(account)) - self._derived:
                self._vmids[self._derive(vmid)] = vmid
                self._derived.add(vmid)
        return self._vmids.get(public_id)
