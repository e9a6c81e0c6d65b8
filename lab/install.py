"""Makes sure that the host has the Debian packages that the demo and the tests need; says what to type where it can't.

Runs before there is a virtual environment: nothing but the standard library.
"""

import importlib.util
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from lab import guest, packages

# A command that proves the package, and the package. A program that came some other way is as good.
COMMANDS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "qemu-ga": "qemu-guest-agent",
    "redis-server": "redis-server",
    "ip": "iproute2",
    "curl": "curl",
    "openssl": "openssl",
    "systemd-analyze": "systemd",
}
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # a user's PATH often has no sbin


def missing_packages() -> list[str]:
    """List the packages that are needed and not there."""
    missing = [package for command, package in COMMANDS.items() if not shutil.which(command, path=_SEARCH_PATH)]
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("python3-venv")
    return missing


def apt_steps(missing: Sequence[str]) -> list[list[str]]:
    """List the commands that fetch fresh package lists and install what is missing."""
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    return [["apt-get", "update", "-qq"], *([install] if missing else [])]


def one_line(steps: Sequence[Sequence[str]]) -> str:
    """Write the steps as one line that a person can type."""
    return " && ".join(shlex.join(["sudo", *step]) for step in steps)


def main() -> int:
    """Install what is missing; answer with an exit status."""
    missing = missing_packages()
    if not missing and packages.find_candidate(guest.KERNEL_PACKAGE):
        return 0
    steps = apt_steps(missing)
    prefix = packages.root_prefix() if shutil.which("apt-get") else None
    if prefix is None:
        print(f"This needs Debian packages, and root to install them. Please run:\n\n  {one_line(steps)}\n")
        return 1
    print(f"Installing Debian packages: {' '.join(missing) or 'none, only fresh package lists'}", flush=True)
    environ = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive"]
    # Only the last step decides: one foreign archive that is out of order makes `update` fail and is no reason to stop.
    status = [subprocess.run([*environ, *step], check=False).returncode for step in steps][-1]
    if status != 0:
        print(f"This failed: {one_line(steps)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
