"""A file that small entries are appended to, each whole or not at all, and that goes when none is wanted any more.

An entry is a line with its name, the size and the checksum of what follows, then that, then a line's end. A name with
``gone`` behind it says that the entry isn't wanted any more. The last entry of a killed process may be cut off: it was
never told to anybody, and counts for nothing.
"""

import contextlib
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

_log = logging.getLogger(__name__)

_GONE = b"gone"
_WRONG = "the checksum of an entry is wrong"


class _Place(NamedTuple):
    """Where an entry is.

    Attributes:
        at_bytes: Where what it holds begins.
        size_bytes: How long that is.
        checksum: Its CRC-32.
    """

    at_bytes: int
    size_bytes: int
    checksum: int


class SpoolLog:
    """One such file. What can't be read in it is reported, and the file is left alone then."""

    def __init__(self, path: Path, places: dict[str, _Place], *, is_sound: bool = True) -> None:
        self._path = path
        self._places = places
        self._is_sound = is_sound
        self._descriptor: int | None = None
        self.size_bytes = 0

    @classmethod
    def begin(cls, path: Path) -> Self:
        """Make a new file, to append to until it is ``finished``.

        Raises:
            FileExistsError: It is there already.
        """
        log = cls(path, {})
        log._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        return log

    @classmethod
    def load(cls, path: Path) -> Self:
        """Find out what a process that has died has left; a file with nothing that is wanted goes."""
        places: dict[str, _Place] = {}
        whole_bytes, is_sound = 0, True
        try:
            for name, place, end in _entries(path.read_bytes()):
                whole_bytes = end
                if place is None:
                    places.pop(name, None)
                else:
                    places[name] = place
        except ValueError:
            _log.exception("spool_file_unreadable", extra={"file": path.name})
            is_sound = False
        else:
            os.truncate(path, whole_bytes)
        log = cls(path, places, is_sound=is_sound)
        log._go_if_empty()
        return log

    def names(self) -> list[str]:
        """Name the entries that are wanted."""
        return list(self._places)

    def append(self, name: str, data: bytes) -> None:
        """Append an entry; one of the same name isn't wanted any more.

        Raises:
            OSError: It can't be written; nothing is.
        """
        checksum = zlib.crc32(data)
        head = f"{name} {len(data)} {checksum:08x}\n".encode()
        place = _Place(self.size_bytes + len(head), len(data), checksum)
        self._write(head + data + b"\n")
        self._places[name] = place

    def read(self, name: str) -> bytes | None:
        """Read an entry; ``None`` where it has gone meanwhile, which another thread may have seen to.

        Raises:
            ValueError: It isn't what was written.
        """
        place = self._places.get(name)
        if place is None:
            return None
        try:
            with self._path.open("rb") as file:
                data = os.pread(file.fileno(), place.size_bytes, place.at_bytes)
        except FileNotFoundError:
            return None
        if zlib.crc32(data) == place.checksum:
            return data
        if self._places.get(name) is place:
            raise ValueError(_WRONG)
        return None

    def remove(self, name: str) -> None:
        """Forget an entry."""
        self._places.pop(name, None)
        if self._places:
            with contextlib.suppress(OSError):  # it would be told twice then, after this process; which changes nothing
                self._write(b"%b %b\n" % (name.encode(), _GONE))
        else:
            self._go_if_empty()

    def finish(self) -> None:
        """Append nothing more; the file goes when nothing of it is wanted."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._go_if_empty()

    def _write(self, data: bytes) -> None:
        if self._descriptor is None:
            with self._path.open("ab") as file:
                _write_whole(file.fileno(), data)
        else:
            _write_whole(self._descriptor, data)
            self.size_bytes += len(data)

    def _go_if_empty(self) -> None:
        if self._places:
            return
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self.size_bytes = 0
        elif self._is_sound:
            self._path.unlink(missing_ok=True)


def _write_whole(descriptor: int, data: bytes) -> None:
    """Append to a file.

    Raises:
        OSError: There is no room for example; the file is as it was.
    """
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        written_bytes = len(data) - len(rest)
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - written_bytes)
        raise


def _entries(data: bytes) -> Iterator[tuple[str, _Place | None, int]]:
    """Read the entries of a file: names, places (``None``: it has gone), and where each ends.

    Raises:
        ValueError: Here nothing more can be read.
    """
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        name, *facts = data[at:end].split(b" ")
        place = None
        at = end + 1
        if facts != [_GONE]:
            size, checksum = facts
            place = _Place(at, int(size), int(checksum, 16))
            at += place.size_bytes + 1
            if at > len(data):
                return
            if zlib.crc32(data[place.at_bytes : at - 1]) != place.checksum:
                raise ValueError(_WRONG)
        yield name.decode(), place, at
