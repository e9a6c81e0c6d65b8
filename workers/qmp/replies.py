"""The shapes in which QEMU answers the queries that OwnUp makes: no sockets, no time.

Source: QEMU QMP Reference Manual. A guest may have taken over its QEMU, so nothing is taken on trust.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.core.errors import MonitorError

_SERVER_SUFFIXES = ("", ",server=on", ",server")
"""What QEMU appends to the path of a listening socket; the last is that of QEMU before 6.0."""
_SOCKET_PATH_LIMIT = 107
"""Source: unix(7), ``sun_path`` is 108 bytes, the last one is NUL. What is longer names no socket."""
_CHARDEVS_LIMIT = 1000
_DRIVES_LIMIT = 64
_NAME_LIMIT = 100
_LATEST_S = 2**34
"""A moment beyond this, some five hundred years from 1970, is none."""
_COUNTS = range(2**63)
"""Source: QAPI, ``int``. All that is read here are sizes, counts and moments, none of which is below zero."""


@dataclass(frozen=True, slots=True)
class ImageSnapshot:
    """One snapshot in one disk image.

    Attributes:
        id: The image's own number of it, as a text.
        name: Its name.
        taken_at: When it was taken, by the node's clock.
        state_bytes: Size of the memory that was saved with it in this image; 0 where there is none.
    """

    id: str
    name: str
    taken_at: datetime
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Image:
    """The image that is in a drive, with its snapshots.

    Attributes:
        drive: QEMU's name for the drive.
        node: QEMU's name for the image: for snapshots it goes by that.
        format: For instance ``qcow2``.
        writable: Whether the guest can change it.
        snapshots: Those in it.
    """

    drive: str
    node: str
    format: str
    writable: bool
    snapshots: tuple[ImageSnapshot, ...]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How far QEMU has come with something that it does as a job.

    Attributes:
        status: For instance ``running``, ``concluded``.
        error: Why it failed, in QEMU's words.
    """

    status: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """One drive of a VM, with or without a medium.

    Attributes:
        name: QEMU's name for it.
        removable: Whether its medium can be taken out: a CD drive.
        size_bytes: What the guest sees of its medium; ``None`` without one.
        used_bytes: What its image occupies on this host; ``None`` where that can't be told.
        read_bytes: Bytes the guest read since QEMU started.
        written_bytes: Bytes the guest wrote.
        reads: How often it read.
        writes: How often it wrote.
    """

    name: str
    removable: bool
    size_bytes: int | None
    used_bytes: int | None
    read_bytes: int
    written_bytes: int
    reads: int
    writes: int


def load_run_state(reply: Any) -> str:
    """Read the reply to query-status: a ``RunState``, for instance ``running``, ``paused``, ``shutdown``.

    Raises:
        MonitorError: It isn't what QEMU sends.
    """
    state: str = _member(reply, "status", str)
    return state


def load_cpu_count(reply: Any) -> int:
    """Read the reply to query-cpus-fast: one entry per virtual CPU.

    Raises:
        MonitorError: It isn't what QEMU sends.
    """
    return len(_list(reply))


def load_memory_bytes(reply: Any) -> int:
    """Read the reply to query-memory-size-summary: what the guest was given, hot-plugged memory included.

    Raises:
        MonitorError: It isn't what QEMU sends.
    """
    base_bytes: int = _member(reply, "base-memory", int)
    return base_bytes + (_member(reply, "plugged-memory", int) if "plugged-memory" in reply else 0)


def load_block_bytes(reply: Any) -> tuple[int, int]:
    """Read the reply to query-blockstats: bytes read and written by the guest since QEMU started, over all its disks.

    Raises:
        MonitorError: It isn't what QEMU sends.
    """
    stats = [_member(device, "stats", dict) for device in _list(reply)]
    read_bytes = sum(_member(disk, "rd_bytes", int) for disk in stats)
    return read_bytes, sum(_member(disk, "wr_bytes", int) for disk in stats)


def load_drives(devices: Any, stats: Any) -> tuple[Drive, ...]:
    """Read the replies to query-block and query-blockstats: a VM's drives.

    Raises:
        MonitorError: They aren't what QEMU sends.
    """
    counted = {_drive_name(device): _member(device, "stats", dict) for device in _list(stats)}
    listed = [device for device in _list(devices)[:_DRIVES_LIMIT] if isinstance(device, Mapping)]
    named = [(_drive_name(device), device) for device in listed]
    return tuple(_load_drive(name, device, counted[name]) for name, device in named if name in counted)


def _load_drive(name: str, device: Any, stats: Any) -> Drive:
    image = _member(_member(device, "inserted", dict), "image", dict) if "inserted" in device else None
    return Drive(
        name=name[:_NAME_LIMIT],
        removable=_member(device, "removable", bool),
        size_bytes=_member(image, "virtual-size", int) if image is not None else None,
        used_bytes=_member(image, "actual-size", int) if image is not None and "actual-size" in image else None,
        read_bytes=_member(stats, "rd_bytes", int),
        written_bytes=_member(stats, "wr_bytes", int),
        reads=_member(stats, "rd_operations", int),
        writes=_member(stats, "wr_operations", int),
    )


def _drive_name(device: Any) -> str:
    """Name a drive as QEMU does: by its backend, or where that has no name by the device in the guest."""
    names = (device.get(name) for name in ("device", "qdev")) if isinstance(device, Mapping) else ()
    return next((name for name in names if isinstance(name, str) and name), "")


def load_port_open(reply: Any, socket_path: Path) -> bool | None:
    """Read the reply to query-chardev: whether the guest holds open the port behind a socket.

    Returns:
        ``None`` if no chardev names that socket, for instance because libvirt passed it as a file descriptor.

    Raises:
        MonitorError: It isn't what QEMU sends.
    """
    wanted = (str(socket_path), os.path.realpath(socket_path))
    found = [
        _member(chardev, "frontend-open", bool)
        for chardev in _list(reply)[:_CHARDEVS_LIMIT]
        if _names_socket(_member(chardev, "filename", str), *wanted)
    ]
    return any(found) if found else None


def load_images(reply: Any) -> tuple[Image, ...]:
    """Read the reply to query-block: the image in each drive that has one.

    Raises:
        MonitorError: It isn't what QEMU sends.
    """
    return tuple(_load_image(drive) for drive in _list(reply) if isinstance(drive, Mapping) and "inserted" in drive)


def load_snapshots(image: Any) -> tuple[ImageSnapshot, ...]:
    """Read the snapshots of an ``ImageInfo``, as query-block and qemu-img tell it.

    Raises:
        MonitorError: It isn't what QEMU sends.
    """
    present = isinstance(image, Mapping) and "snapshots" in image
    return tuple(_load_snapshot(snapshot) for snapshot in _member(image, "snapshots", list)) if present else ()


def load_jobs(reply: Any) -> dict[str, JobStatus]:
    """Read the reply to query-jobs, by the id of each job.

    Raises:
        MonitorError: It isn't what QEMU sends.
    """
    return {
        _member(job, "id", str): JobStatus(
            _member(job, "status", str), _member(job, "error", str) if "error" in job else None
        )
        for job in _list(reply)
    }


def _load_image(drive: Any) -> Image:
    medium = _member(drive, "inserted", dict)
    return Image(
        drive=_drive_name(drive)[:_NAME_LIMIT],
        node=_member(medium, "node-name", str),
        format=_member(medium, "drv", str),
        writable=not _member(medium, "ro", bool),
        snapshots=load_snapshots(_member(medium, "image", dict)),
    )


def _load_snapshot(snapshot: Any) -> ImageSnapshot:
    taken_s = _member(snapshot, "date-sec", int)
    if taken_s > _LATEST_S:
        raise MonitorError("QEMU's reply has no usable date-sec")
    return ImageSnapshot(
        id=_member(snapshot, "id", str),
        name=_member(snapshot, "name", str),
        taken_at=datetime.fromtimestamp(taken_s + _member(snapshot, "date-nsec", int) % 10**9 / 1e9, tz=UTC),
        state_bytes=_member(snapshot, "vm-state-size", int),
    )


def _names_socket(filename: str, socket_path: str, resolved_path: str) -> bool:
    """Tell whether a chardev's ``filename`` is that of the socket.

    It reads ``unix:<path>,server=on``, with ``disconnected:`` before it while no client is there. A path may hold
    commas and isn't escaped, so whole candidates are compared, never a prefix. /var/run and /run are one folder.
    """
    kind, _, text = filename.removeprefix("disconnected:").partition(":")
    if kind != "unix":
        return False
    paths = [text.removesuffix(suffix) for suffix in _SERVER_SUFFIXES if text.endswith(suffix)]
    return socket_path in paths or resolved_path in map(_resolved, paths)


def _resolved(path: str) -> str:
    """Follow the links in a path; what can't be a socket's is told as it is, and isn't looked for on the disk."""
    if not path.startswith("/") or len(path) > _SOCKET_PATH_LIMIT:
        return path
    try:
        return os.path.realpath(path)
    except ValueError:  # it holds a NUL, or half a surrogate pair
        return path


def _list(reply: Any) -> list[Any]:
    if not isinstance(reply, list):
        raise MonitorError("QEMU's reply is not a list")
    return reply


def _member(reply: Any, name: str, kind: type) -> Any:
    value = reply.get(name) if isinstance(reply, Mapping) else None
    if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value not in _COUNTS)):
        raise MonitorError(f"QEMU's reply has no usable {name}")
    return value
