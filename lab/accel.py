"""Which accelerator QEMU can really use on this host.

An open /dev/kvm proves nothing: on some hosts it opens and no guest ever starts. So the lab guest is booted, once, and
the answer is remembered.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lab.guest import LabGuest

Accelerator = Literal["kvm", "tcg"]

PROBE_TIMEOUT_S = 5
_KVM = Path("/dev/kvm")


def boots_guest(guest: LabGuest, accelerator: Accelerator) -> bool:
    """Boot the guest with power-off as its only program, and see whether QEMU comes to its end.

    A guest that never starts runs into the time-out, one that panics hangs and does so too.
    """
    argv = ["qemu-system-x86_64", "-accel", accelerator, "-m", "256", "-nodefaults", "-no-user-config"]
    argv += ["-display", "none", *guest.qemu_args("rdinit=/sbin/poweroff", "--", "-f")]
    try:
        probe = subprocess.run(argv, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def choose(
    var_dir: Path,
    guest: LabGuest,
    *,
    device: Path = _KVM,
    boots: Callable[[LabGuest, Accelerator], bool] = boots_guest,
) -> Accelerator:
    """Answer what QEMU should be given as `-accel`; the first call on a host with KVM takes up to 5 s."""
    if not os.access(device, os.R_OK | os.W_OK):
        return "tcg"
    remembered = var_dir / "accel"
    if not remembered.exists():
        remembered.write_text("kvm" if boots(guest, "kvm") else "tcg")
    return "kvm" if remembered.read_text().strip() == "kvm" else "tcg"
