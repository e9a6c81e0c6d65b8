"""Which VM a derived public id means: HostUp v2's ``vps_…`` or OpenStack's server id, given how it is derived.

Ids are derived one way, and the same for a vmid for ever. So nothing is stored about them: each process derives the ids
of the VMs that somebody may see when it first meets one that it doesn't know, and what it has derived never becomes
wrong. What others may see is no help in that: a foreign id takes the steps of one that doesn't exist.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from app.access import Principal
from app.core.errors import NotFoundError
from app.core.store import Sight, Store, vms
from app.inventory import Inventory, VmView

_REMEMBERED = 1000
"""For how many different sights a process remembers ids."""


class PublicIds:
    """Looks VMs up by one kind of public id."""

    def __init__(self, store: Store, inventory: Inventory, derive: Callable[[int], str]) -> None:
        """Know no VM yet.

        Args:
            store: Where vmids are.
            inventory: Reads a VM that was found.
            derive: Makes the public id of a vmid.
        """
        self._store = store
        self._inventory = inventory
        self._derive = derive
        self._vmids: OrderedDict[Sight, dict[str, int]] = OrderedDict()

    def get_vm(self, principal: Principal, public_id: str) -> VmView:
        """Read one VM.

        Raises:
            NotFoundError: There is no such VM, or the principal doesn't see it: the two look the same.
        """
        return self._inventory.get_vm(principal, self.get_vmid(principal, public_id))

    def recall_vm(self, principal: Principal, public_id: str) -> VmView:
        """Tell how a VM was, for who has that checked: as ``Inventory.recall_vm`` does.

        Raises:
            NotFoundError: As ``get_vm`` raises it.
        """
        return self._inventory.recall_vm(principal, self.get_vmid(principal, public_id))

    def get_vmid(self, principal: Principal, public_id: str) -> int:
        """Tell which vmid an id stands for; whose VM it is finds out whoever reads it.

        Raises:
            NotFoundError: None that this principal could know of.
        """
        vmid = self._find_vmid(replace(principal.sight, key_id=None), public_id)
        if vmid is None:
            raise NotFoundError("VM")
        return vmid

    def recall(self, principal: Principal, public_id: str) -> int | None:
        """Tell which vmid an id was found to stand for before, without asking the store."""
        return self._vmids.get(replace(principal.sight, key_id=None), {}).get(public_id)

    def _find_vmid(self, sight: Sight, public_id: str) -> int | None:
        derived = self._vmids.setdefault(sight, {})
        if public_id not in derived:
            present = self._store.run(vms.list_vmids(sight))
            derived |= {self._derive(vmid): vmid for vmid in present.difference(derived.values())}
        if len(self._vmids) > _REMEMBERED:
            self._vmids.popitem(last=False)
        return derived.get(public_id)
