"""What the images of a VM say of its snapshots: pure rules, no QEMU.

A snapshot of a VM is one of the same name in each of its writable images; the guest's memory lies in one of them.
"""

from collections.abc import Iterable, Sequence

from app.core.errors import SnapshotError
from app.core.records import Snapshot
from workers.qmp.replies import Image, ImageSnapshot

_FORMAT = "qcow2"


def find_obstacle(images: Iterable[Image]) -> str | None:
    """Tell why a VM with these images can't have snapshots; ``None`` if it can.

    Asked for the others alone, QEMU would bring a guest back whose memory doesn't fit its disk.
    """
    writable = [image for image in images if image.writable]
    if not writable:
        return f"The VM has no writable disk: snapshots are kept in {_FORMAT} disks"
    wrong = ", ".join(f"{image.drive} is {image.format}" for image in writable if image.format != _FORMAT)
    return f"Each writable disk of the VM must be {_FORMAT} to keep snapshots: {wrong}" if wrong else None


def usable(images: Iterable[Image]) -> tuple[Image, ...]:
    """Pick the images that a snapshot is about.

    Raises:
        SnapshotError: The VM can't have snapshots.
    """
    obstacle = find_obstacle(images := tuple(images))
    if obstacle is not None:
        raise SnapshotError(obstacle)
    return tuple(image for image in images if image.writable)


def merge(images: Iterable[Image]) -> tuple[Snapshot, ...]:
    """List the snapshots that are in any writable image, oldest first."""
    by_name: dict[str, list[ImageSnapshot]] = {}
    for snapshot in (snapshot for image in images if image.writable for snapshot in image.snapshots):
        by_name.setdefault(snapshot.name, []).append(snapshot)
    merged = (
        Snapshot(
            name=name,
            taken_at=min(part.taken_at for part in parts),
            includes_memory=any(part.state_bytes > 0 for part in parts),
        )
        for name, parts in by_name.items()
    )
    return tuple(sorted(merged, key=lambda snapshot: (snapshot.taken_at, snapshot.name)))


def holding(images: Iterable[Image], name: str) -> tuple[Image, ...]:
    """Pick the writable images that have a snapshot.

    Raises:
        SnapshotError: None has.
    """
    found = tuple(image for image in images if image.writable and _find(image, name))
    if not found:
        raise SnapshotError(f"the VM has no snapshot {name}")
    return found


def find_memory(images: Sequence[Image], name: str) -> Image:
    """Find the image in which a snapshot's memory is, in a VM that can go back to it.

    Raises:
        SnapshotError: The VM can't go back to it.
    """
    if len(holding(images, name)) < len(images):
        raise SnapshotError(f"not every disk of the VM has the snapshot {name}")
    if any(other.id == name != other.name for image in images for other in image.snapshots):
        # QEMU 7.2 looks for the number first, and would go back to the other one (measured).
        raise SnapshotError(f"QEMU would take {name} for the number of another snapshot; delete that one first")
    for image in images:
        snapshot = _find(image, name)
        if snapshot is not None and snapshot.state_bytes > 0:
            return image
    raise SnapshotError(f"the snapshot {name} has no memory in it: only qemu-img on the node can go back to it")


def _find(image: Image, name: str) -> ImageSnapshot | None:
    return next((snapshot for snapshot in image.snapshots if snapshot.name == name), None)
