"""`guest-file-*`, as far as reading goes: files of this machine, and a few that must tell of the guest instead.

It knows no socket and no JSON.
"""

import os
from collections.abc import Iterator, Mapping


class OpenFiles:
    """The files one run of an agent has open. Handles outlive clients, and are never used twice."""

    def __init__(self, handles: Iterator[int], guest_files: Mapping[str, bytes]) -> None:
        self._handles = handles
        self._guest_files = guest_files
        self._descriptors: dict[int, int] = {}

    def open(self, path: str) -> int:
        """Open `path` for reading and return its handle.

        Raises:
            OSError: This machine says no.
        """
        content = self._guest_files.get(path)
        # Non-blocking: a FIFO without a writer mustn't hold up the agent.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if content is None else _holding(content)
        handle = next(self._handles)
        self._descriptors[handle] = descriptor
        return handle

    def read(self, handle: int, count: int) -> bytes:
        """Read on, up to `count` bytes; fewer only at the end of the file.

        Raises:
            KeyError: No such handle.
            OSError: This machine says no, as for a directory.
        """
        descriptor = self._descriptors[handle]
        data = b""
        while more := os.read(descriptor, count - len(data)):
            data += more
        return data

    def seek(self, handle: int, offset: int, whence: int) -> int:
        """Move to another place and return it.

        Raises:
            KeyError: No such handle.
            OSError: This machine says no.
        """
        return os.lseek(self._descriptors[handle], offset, whence)

    def close(self, handle: int) -> None:
        """Close one file.

        Raises:
            KeyError: No such handle.
        """
        os.close(self._descriptors.pop(handle))

    def close_all(self) -> None:
        """Close what is still open, as the end of the agent does."""
        for handle in list(self._descriptors):
            self.close(handle)


def _holding(content: bytes) -> int:
    descriptor = os.memfd_create("guest-file")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
