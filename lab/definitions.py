"""The definition files of the demo VMs, and where their sockets live. Doesn't know what a worker makes of them."""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import LabError, disks
from lab.guest import LabGuest

FIRST_VMID = 10000
ACCOUNT = "demo"
MEMORY_MB = 256

SOCKET_PATH_LIMIT_BYTES = 107
"""Source: unix(7): sun_path holds 108 bytes, the last a zero byte."""

_LONGEST_NAME = "4294967295.qga"
_MARK = "# Written by `make run`, and written again by the next one: copy it under another vmid to keep changes.\n"


class SocketDirectoryError(LabError):
    """The directory for sockets belongs to somebody else."""


@dataclass(frozen=True)
class DemoVm:
    """One VM of the demo fleet."""

    vmid: int
    name: str


def demo_fleet(count: int) -> list[DemoVm]:
    """Name the first `count` demo VMs."""
    return [DemoVm(FIRST_VMID + index, f"demo-{index + 1}") for index in range(count)]


def socket_dir(var_dir: Path, environ: Mapping[str, str]) -> Path:
    """Make the directory for the sockets of this `var_dir`, private to its user; the same one at each call.

    It is `<var_dir>/run`, unless socket paths in it were too long for the kernel.

    Raises:
        SocketDirectoryError: it exists and is another user's.
    """
    directory = var_dir.resolve() / "run"
    if len(os.fsencode(directory / _LONGEST_NAME)) > SOCKET_PATH_LIMIT_BYTES:
        digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
        directory = Path(environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"ownup-{os.geteuid()}-{digest}"  # noqa: S108 - checked below
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        raise SocketDirectoryError(f"{directory} is not a directory of this user")
    directory.chmod(0o700)
    return directory


def render(vm: DemoVm, sockets: Path, guest: LabGuest, images: Sequence[Path] = ()) -> str:
    """Write one definition. A TOML string is written as JSON writes it."""
    extra_args = guest.qemu_args(f"hostname={vm.name}")
    return f"""{_MARK}vmid = {vm.vmid}
name = {json.dumps(vm.name)}
account = {json.dumps(ACCOUNT)}

[sockets]
qga = {json.dumps(str(sockets / f"{vm.vmid}.qga"))}
qmp = {json.dumps(str(sockets / f"{vm.vmid}.qmp"))}

[machine]
cpus = 1
memory_mb = {MEMORY_MB}
disks = {json.dumps([str(image) for image in images])}
nics = []
extra_args = {json.dumps(extra_args)}
"""


def write(vm_dir: Path, fleet: Iterable[DemoVm], sockets: Path, guest: LabGuest, disk_dir: Path) -> None:
    """Bring the demo definitions in `vm_dir` in line with the fleet; definitions made by hand stay as they are.

    Disks that aren't there yet are made; those of VMs that are no longer wanted stay.
    """
    vm_dir.mkdir(parents=True, exist_ok=True)
    wanted = {
        vm_dir / f"{vm.vmid}.toml": render(vm, sockets, guest, [disks.provide(disk_dir, vm.vmid)]) for vm in fleet
    }
    for path in vm_dir.glob("*.toml"):
        if path not in wanted and path.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
            path.unlink()
    for path, text in wanted.items():
        unfinished = path.with_suffix(".new")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.rename(path)
