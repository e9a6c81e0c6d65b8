"""The OpenStack clients that the tests try, python-openstackclient and openstacksdk, in an environment of their own.

Their many dependencies have nothing to do with the product's; nothing here is imported, only started.
"""

import fcntl
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_suffix(".lock")


@dataclass(frozen=True)
class OpenStackClients:
    """The programs to start."""

    openstack: Path
    """The command line."""
    python: Path
    """An interpreter that has `openstack`, the SDK."""


def install(var_dir: Path) -> OpenStackClients:
    """Install the clients into `<var_dir>/lab`, unless the ones there are of these versions.

    Raises:
        CalledProcessError: they can't be installed; pip has told why.
    """
    folder = var_dir.resolve() / "lab" / "openstack-clients"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "openstack-clients.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, wanted = folder / "stamp", f"{sys.version}\n{folder}\n{REQUIREMENTS.read_text()}"
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder)
            stamp.write_text(wanted)
    return OpenStackClients(folder / "bin" / "openstack", folder / "bin" / "python")


def _install(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    subprocess.run([folder / "bin" / "pip", "install", *quiet, "-r", REQUIREMENTS], check=True)
