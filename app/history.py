"""What a VM has used, and which disks it has: what its worker tells less often than how it is. Reads the store only."""

from app.access import Principal
from app.core.store import Store, disks, metrics
from app.core.store.disks import Disk
from app.core.store.metrics import Sample, Timeframe
from app.inventory import Inventory

__all__ = ["Disk", "History", "Sample", "Timeframe"]


class History:
    """Reads what is kept apart from a VM's record, under the name of its owner."""

    def __init__(self, store: Store, inventory: Inventory) -> None:
        self._store = store
        self._inventory = inventory

    def usage(self, principal: Principal, vmid: int, timeframe: Timeframe) -> tuple[Sample, ...]:
        """Read what a VM has used, oldest first.

        Raises:
            NotFoundError: There is no such VM, or the principal doesn't see it.
        """
        vm = self._inventory.get_vm(principal, vmid).vm
        return self._store.run(metrics.read(vm.account, vmid, timeframe))

    def disks(self, principal: Principal, vmid: int) -> tuple[Disk, ...]:
        """Read a VM's disks; none, as long as its QEMU was never asked.

        Raises:
            NotFoundError: There is no such VM, or the principal doesn't see it.
        """
        vm = self._inventory.get_vm(principal, vmid).vm
        return self._store.run(disks.read(vm.account, vmid)) or ()
