"""A VM's drives are what QEMU says of them; a QEMU that says something else is not believed."""

from typing import Any

import pytest

from app.core.errors import MonitorError
from workers.qmp.replies import Drive, load_drives

STATS = {"rd_bytes": 1, "wr_bytes": 2, "rd_operations": 3, "wr_operations": 4}
IMAGE = {"virtual-size": 1073741824, "actual-size": 200704, "filename": "/images/a.qcow2", "format": "qcow2"}
DISK = {"device": "virtio0", "removable": False, "inserted": {"drv": "qcow2", "image": IMAGE}, "qdev": "/machine/a"}
EMPTY = {"device": "", "removable": True, "qdev": "/machine/b", "tray_open": False}
COUNTED = [{"device": "virtio0", "stats": STATS}, {"device": "", "qdev": "/machine/b", "stats": STATS}]
COUNTS: dict[str, Any] = {"read_bytes": 1, "written_bytes": 2, "reads": 3, "writes": 4}


def test_drives_are_told_with_their_use():
    assert load_drives([DISK, EMPTY], COUNTED) == (
        Drive(name="virtio0", removable=False, size_bytes=1073741824, used_bytes=200704, **COUNTS),
        Drive(name="/machine/b", removable=True, size_bytes=None, used_bytes=None, **COUNTS),
    )


def test_no_drives():
    assert load_drives([], []) == ()


def test_a_drive_that_came_or_went_between_the_two_questions_is_left_out():
    assert [drive.name for drive in load_drives([DISK, EMPTY], COUNTED[:1])] == ["virtio0"]
    assert [drive.name for drive in load_drives([DISK], COUNTED)] == ["virtio0"]


def test_a_size_on_the_host_that_is_not_told_is_unknown():
    image = {"virtual-size": 5}
    (drive,) = load_drives([DISK | {"inserted": {"image": image}}], COUNTED)
    assert (drive.size_bytes, drive.used_bytes) == (5, None)


def test_a_hostile_qemu_cannot_make_it_many_or_long():
    devices = [DISK | {"device": f"{number}" + "x" * 1000} for number in range(1000)]
    counted = [{"device": device["device"], "stats": STATS} for device in devices]
    drives = load_drives(devices, counted)
    assert len(drives) == 64
    assert {len(drive.name) for drive in drives} == {100}


@pytest.mark.parametrize(
    ("devices", "counted"),
    [
        (None, []),
        ([], {}),
        ([7], COUNTED),
        ([DISK | {"removable": "no"}], COUNTED),
        ([DISK | {"inserted": 7}], COUNTED),
        ([DISK | {"inserted": {"image": {"virtual-size": "1"}}}], COUNTED),
        ([DISK], [{"device": "virtio0"}]),
        ([DISK], [{"device": "virtio0", "stats": STATS | {"rd_bytes": True}}]),
    ],
)
def test_nonsense_is_refused(devices: Any, counted: Any):
    try:
        drives = load_drives(devices, counted)
    except MonitorError:
        return
    assert drives == ()
