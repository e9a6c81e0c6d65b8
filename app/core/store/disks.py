"""A VM's disks in the store: written by the worker of its node now and then, read by the web half.

Kept apart from the VM's record, which is written far more often. Named by account as well, as ``metrics`` is.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from app.core.store.calls import Call, nothing

TTL_S = 7 * 24 * 3600
"""How long what is known of a VM's disks is kept after its QEMU was last asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One disk of a VM, as its QEMU sees it.

    Attributes:
        name: QEMU's name for it.
        removable: Whether its medium can be taken out: a CD drive.
        size_bytes: What the guest sees of its medium; ``None`` without one.
        used_bytes: What its image occupies on the node.
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


def write(account: str, vmid: int, disks: tuple[Disk, ...]) -> Call[None]:
    """Replace what is known of a VM's disks."""
    text = json.dumps([dataclasses.asdict(disk) for disk in disks], separators=(",", ":"))
    return Call(("SET", _key(account, vmid), text, "EX", TTL_S), nothing)


def read(account: str, vmid: int) -> Call[tuple[Disk, ...] | None]:
    """Read a VM's disks; ``None`` if nothing is known of them."""
    return Call(("GET", _key(account, vmid)), _load)


def _key(account: str, vmid: int) -> str:
    return f"ownup:disks:{account}:{vmid}"


def _load(reply: Any) -> tuple[Disk, ...] | None:
    return None if reply is None else tuple(Disk(**fields) for fields in json.loads(reply))
