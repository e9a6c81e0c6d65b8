"""The disks of the demo VMs: small, empty, made once and then the guest's. Doesn't know what a guest keeps on one."""

import subprocess
from pathlib import Path

SIZE = "64M"


def provide(directory: Path, vmid: int) -> Path:
    """Make the disk of a VM, unless it is there: qcow2, because in such a one QEMU keeps snapshots, memory included.

    Raises:
        CalledProcessError: qemu-img failed; it has said why.
    """
    disk = directory / f"{vmid}.qcow2"
    if not disk.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = disk.with_suffix(".new")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", unfinished, SIZE], check=True)
        unfinished.rename(disk)
    return disk
