"""Makes sure that wrk is there, the one Debian package that nothing but the bench needs."""

import shutil
import subprocess
import sys

from lab import install, packages


def main() -> int:
    """Install it if it is missing; answer with an exit status."""
    if shutil.which("wrk"):
        return 0
    steps = install.apt_steps(["wrk"])
    prefix = packages.root_prefix() if shutil.which("apt-get") else None
    if prefix is None:
        print(f"This needs wrk, and root to install it. Please run:\n\n  {install.one_line(steps)}\n")
        return 1
    environ = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive"]
    return [subprocess.run([*environ, *step], check=False).returncode for step in steps][-1]


if __name__ == "__main__":
    sys.exit(main())
