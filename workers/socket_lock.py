"""Who may use a socket on this host: an exclusive lock on ``<socket>.lock``.

QEMU serves one client per socket and lets the next ones wait in silence, so two workers on one socket would starve or
fight each other. Doesn't know what is spoken on the socket. The lock file stays behind on purpose: removing it would
let two processes lock two files of the same name.
"""

import fcntl
import os
from pathlib import Path

from app.core.errors import SocketTakenError

_HOLDER_BYTES = 32
_UNIX_SOCKETS = Path("/proc/net/unix")
_LISTENING = "00010000"


class SocketLock:
    """A lock that is held until it is released or the process ends, however it ends."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @classmethod
    def take(cls, socket_path: Path) -> "SocketLock":
        """Take the lock at once or not at all; it also keeps out a second holder in this same process.

        Raises:
            SocketTakenError: Somebody else holds it (the text says who), or the file can't be made.
        """
        path = Path(f"{socket_path}.lock")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise SocketTakenError(f"{path} can't be opened: {exc.strerror}") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = _holder(fd)
            os.close(fd)
            raise SocketTakenError(f"{socket_path} is already used by {holder}") from exc
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)  # not cut to nothing first, which takes ext4 up to a millisecond
        return cls(fd)

    def release(self) -> None:
        """Give the lock back; doing it twice is no error."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _holder(fd: int) -> str:
    pid = os.pread(fd, _HOLDER_BYTES, 0).decode("ascii", "replace").partition("\n")[0]
    if pid == str(os.getpid()):
        return "another connection of this same process"
    return f"another OwnUp process with pid {pid}" if pid.isdecimal() else "another OwnUp process"


def is_listening(socket_path: Path) -> bool:
    """Tell whether somebody listens on a unix socket, without connecting: that would disturb whoever is served there.

    Source: proc(5), /proc/net/unix: flags 00010000 mark a listening socket; the path is the last field.
    """
    lines = _UNIX_SOCKETS.read_text(errors="replace").splitlines()
    return any(fields[3] == _LISTENING and fields[-1] == str(socket_path) for fields in map(str.split, lines))
