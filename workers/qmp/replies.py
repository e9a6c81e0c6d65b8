"""The shapes in which QEMU answers the queries that OwnUp makes: no sockets, no time.

Source: QEMU QMP Reference Manual. A guest may have taken over its QEMU, so nothing is taken on trust.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.core.errors import MonitorError

_SERVER_SUFFIXES = ("", ",server=on", ",server")
"""What QEMU appends to the path of a listening socket; the last is that of QEMU before 6.0."""


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


def load_port_open(reply: Any, socket_path: Path) -> bool | None:
    """Read the reply to query-chardev: whether the guest holds open the port behind a socket.

    Returns:
        ``None`` if no chardev names that socket, for instance because libvirt passed it as a file descriptor.

    Raises:
        MonitorError: It isn't what QEMU sends.
    """
    found = [
        _member(chardev, "frontend-open", bool)
        for chardev in _list(reply)
        if _names_socket(_member(chardev, "filename", str), socket_path)
    ]
    return any(found) if found else None


def _names_socket(filename: str, socket_path: Path) -> bool:
    """Tell whether a chardev's ``filename`` is that of the socket.

    It reads ``unix:<path>,server=on``, with ``disconnected:`` before it while no client is there. A path may hold
    commas and isn't escaped, so whole candidates are compared, never a prefix. /var/run and /run are one folder.
    """
    kind, _, text = filename.removeprefix("disconnected:").partition(":")
    if kind != "unix":
        return False
    paths = [text.removesuffix(suffix) for suffix in _SERVER_SUFFIXES if text.endswith(suffix)]
    return str(socket_path) in paths or os.path.realpath(socket_path) in map(_resolved, paths)


def _resolved(path: str) -> str:
    return os.path.realpath(path) if path.startswith("/") else path


def _list(reply: Any) -> list[Any]:
    if not isinstance(reply, list):
        raise MonitorError("QEMU's reply is not a list")
    return reply


def _member(reply: Any, name: str, kind: type) -> Any:
    value = reply.get(name) if isinstance(reply, Mapping) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise MonitorError(f"QEMU's reply has no usable {name}")
    return value
