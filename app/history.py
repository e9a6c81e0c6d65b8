"""What a VM has used, and which disks it has: what its worker tells less often than how it is. Reads the store only."""

from app.access import Principal
from app.core.store import Store, disks, metrics, vms
from app.core.store.disks import Disk
from app.core.store.metrics import Sample, Timeframe
from app.inventory import owned

__all__ = ["Disk", "History", "Sample", "Timeframe"]


class History:
    """Reads a VM together with what is kept apart from its record, in one round trip."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def usage(self, principal: Principal, vmid: int, timeframe: Timeframe) -> tuple[Sample, ...]:
        """Read what a VM has used, oldest first.

        Raises:
            NotFoundError: There is no such VM, or it belongs to another account.
        """
        view, samples = self._store.run_both(vms.read(vmid), metrics.read(principal.account, vmid, timeframe))
        owned(principal, view)
        return samples

    def disks(self, principal: Principal, vmid: int) -> tuple[Disk, ...]:
        """Read a VM's disks; none, as long as its QEMU was never asked.

        Raises:
            NotFoundError: There is no such VM, or it belongs to another account.
        """
        view, found = self._store.run_both(vms.read(vmid), disks.read(principal.account, vmid))
        owned(principal, view)
        return found or ()
