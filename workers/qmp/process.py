"""Which process is a QEMU, and which one is at the other end of a socket. Knows only Linux's /proc."""

import socket
import struct
from pathlib import Path

_PROC = Path("/proc")
_UCRED = struct.Struct("3i")
"""``struct ucred`` of unix(7): pid, uid, gid."""


def is_qemu(pid: int, *, proc_dir: Path = _PROC) -> bool:
    """Tell whether a live process is a QEMU, by its program or its name; a zombie isn't alive.

    Debian's program is called qemu-system-x86_64, Red Hat's qemu-kvm, Proxmox names its processes kvm.
    """
    folder = proc_dir / str(pid)
    try:
        name, _, rest = (folder / "stat").read_text(errors="replace").partition(" (")[2].rpartition(") ")
        if rest[:1] in {"Z", "X", "x"}:
            return False
        return _is_qemu_name(name) or _is_qemu_name((folder / "exe").readlink().name)
    except OSError:  # it is gone, or its program is not for us to see
        return False


def peer_pid(connected: socket.socket) -> int | None:
    """Tell who listened on the other end of a connected Unix socket; ``None`` if it lives in another pid namespace.

    Source: unix(7), SO_PEERCRED. Where libvirt made the socket and passed it to QEMU this is libvirt's pid.
    """
    ucred = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid: int = _UCRED.unpack(ucred)[0]
    return pid or None


def _is_qemu_name(text: str) -> bool:
    return text.startswith("qemu") or text == "kvm"
