"""What the images of a VM say of its snapshots."""

from datetime import UTC, datetime, timedelta

import pytest

from app.core.errors import SnapshotError
from app.core.records import Snapshot
from workers.qmp.replies import Image, ImageSnapshot
from workers.vms import snapshot_rules as rules

NOW = datetime(2026, 2, 10, tzinfo=UTC)


def snapshot(name: str, *, number: str = "1", state_bytes: int = 0, age_s: int = 0) -> ImageSnapshot:
    return ImageSnapshot(id=number, name=name, taken_at=NOW - timedelta(seconds=age_s), state_bytes=state_bytes)


def image(drive: str, *snapshots: ImageSnapshot, kind: str = "qcow2", writable: bool = True) -> Image:
    return Image(drive=drive, node=f"#{drive}", format=kind, writable=writable, snapshots=snapshots)


def test_each_disk_that_the_guest_can_change_must_be_able_to_keep_a_snapshot() -> None:
    good = image("a")
    assert rules.find_obstacle([good, image("cd", kind="raw", writable=False)]) is None
    assert rules.find_obstacle([good, image("b", kind="raw"), image("c", kind="vmdk")]) == (
        "Each writable disk of the VM must be qcow2 to keep snapshots: b is raw, c is vmdk"
    )
    assert rules.find_obstacle([]) == "The VM has no writable disk: snapshots are kept in qcow2 disks"
    assert rules.find_obstacle([image("cd", writable=False)]) == rules.find_obstacle([])


def test_a_snapshot_is_about_the_disks_that_the_guest_can_change() -> None:
    good, fixed = image("a"), image("base", writable=False)
    assert rules.usable([good, fixed]) == (good,)
    with pytest.raises(SnapshotError, match="b is raw"):
        rules.usable([good, image("b", kind="raw")])


def test_the_parts_of_a_snapshot_are_one_and_the_oldest_comes_first() -> None:
    first = image("a", snapshot("late", state_bytes=9), snapshot("early", age_s=50), snapshot("b", age_s=50))
    second = image("b", snapshot("late", age_s=1))
    fixed = image("base", snapshot("not of the VM"), writable=False)
    assert rules.merge([first, second, fixed]) == (
        Snapshot(name="b", taken_at=NOW - timedelta(seconds=50), includes_memory=False),
        Snapshot(name="early", taken_at=NOW - timedelta(seconds=50), includes_memory=False),
        Snapshot(name="late", taken_at=NOW - timedelta(seconds=1), includes_memory=True),
    )


def test_the_memory_is_found_in_whichever_disk_it_is() -> None:
    first, second = image("a", snapshot("s")), image("b", snapshot("s", state_bytes=9))
    assert rules.find_memory([first, second], "s") is second


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([image("a", snapshot("other"))], "the VM has no snapshot s"),
        ([image("a", snapshot("s", state_bytes=9)), image("b")], "not every disk of the VM has the snapshot s"),
        ([image("a", snapshot("s"))], "the snapshot s has no memory in it"),
    ],
)
def test_what_a_vm_cannot_go_back_to_is_refused(images: list[Image], reason: str) -> None:
    with pytest.raises(SnapshotError, match=reason):
        rules.find_memory(images, "s")


def test_a_name_that_is_another_ones_number_is_refused_before_qemu_takes_the_wrong_one() -> None:
    numbered = image("a", snapshot("x", number="1", state_bytes=9), snapshot("1", number="2", state_bytes=9))
    with pytest.raises(SnapshotError, match="would take 1 for the number of another snapshot"):
        rules.find_memory([numbered], "1")
    assert rules.find_memory([numbered], "x") is numbered
    own = image("a", snapshot("1", number="1", state_bytes=9))
    assert rules.find_memory([own], "1") is own


def test_a_snapshot_that_is_in_some_disks_only_can_be_deleted_there() -> None:
    first, second = image("a", snapshot("s")), image("b")
    assert rules.holding([first, second, image("c", snapshot("s"), writable=False)], "s") == (first,)
    with pytest.raises(SnapshotError, match="the VM has no snapshot t"):
        rules.holding([first, second], "t")
