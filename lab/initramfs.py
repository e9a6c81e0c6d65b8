"""The archive format a Linux kernel unpacks into its first root file system. Knows no guest.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst ("newc").
Written here and not by `cpio`, because device nodes and root's ownership then need no root on the host.
"""

import gzip
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_END = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One file, directory, link or device node; owned by root."""

    path: str
    """Absolute path in the guest."""
    mode: int
    """Type and permission bits, as in `st_mode`."""
    body: bytes = b""
    """Content of a file, target of a symbolic link."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""


def directory(path: str, permissions: int = 0o755) -> Entry:
    """Describe a directory."""
    return Entry(path, stat.S_IFDIR | permissions)


def executable(path: str, body: bytes) -> Entry:
    """Describe a program or script."""
    return Entry(path, stat.S_IFREG | 0o755, body)


def plain(path: str, body: bytes) -> Entry:
    """Describe a file that is only read."""
    return Entry(path, stat.S_IFREG | 0o644, body)


def private(path: str, body: bytes) -> Entry:
    """Describe a file that only root may read."""
    return Entry(path, stat.S_IFREG | 0o600, body)


def link(path: str, target: str) -> Entry:
    """Describe a symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int) -> Entry:
    """Describe a character device node that only root may use."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """Put the directories that are needed before the entries that need them: the kernel makes no parents."""
    given = list(entries)
    known = {entry.path for entry in given} | {"/"}
    needed = {str(parent) for entry in given for parent in Path(entry.path).parents} - known
    return sorted([*given, *(directory(path) for path in needed)], key=lambda entry: entry.path)


def encode(entries: Iterable[Entry]) -> bytes:
    """Make the compressed archive; the same entries always give the same bytes."""
    numbered = enumerate([*with_parents(entries), Entry(f"/{_END}", 0)], start=1)
    return gzip.compress(b"".join(_encode_entry(inode, entry) for inode, entry in numbered), mtime=0)


def _encode_entry(inode: int, entry: Entry) -> bytes:
    name = entry.path.lstrip("/").encode() + b"\0"
    uid = gid = mtime = device_major = device_minor = check = 0
    links = 1
    numbers = [inode, entry.mode, uid, gid, links, mtime, len(entry.body), device_major, device_minor]
    numbers += [*entry.device, len(name), check]
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + name) + _padded(entry.body)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
