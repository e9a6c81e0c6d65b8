"""The lab guest: a Debian kernel, busybox and the real QEMU guest agent in one initramfs; no network.

It needs no disk. One that it is given is formatted if it is blank, and mounted on /data.

Decides what is in the guest and when it is built again. Doesn't know how a VM is started or who talks to its agent.
"""

import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import initramfs, packages
from lab.initramfs import Entry, character_device, directory, executable, link, plain, private
from lab.packages import Package, PackageError

KERNEL_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX_PACKAGE = "busybox-static"
AGENT = Path("/usr/sbin/qemu-ga")

APPEND = "console=ttyS0 quiet"

# In the order they need each other: the package brings no modules.dep, that is made when a kernel is installed.
MODULES = (
    "virtio/virtio_ring.ko",
    "virtio/virtio.ko",
    "virtio/virtio_pci_legacy_dev.ko",
    "virtio/virtio_pci_modern_dev.ko",
    "virtio/virtio_pci.ko",
    "char/virtio_console.ko",
    "block/virtio_blk.ko",
    "acpi/button.ko",
    "input/evdev.ko",
)

_INITTAB = """\
::sysinit:/etc/rc
::respawn:/bin/agent
::respawn:/bin/acpid -f
"""

_RC = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
[ "$(hostname)" != "(none)" ] || hostname lab-guest
for module in {modules}; do
    insmod /lib/modules/$module
done
if [ -b /dev/vda ]; then
    [ "$(head -c 65536 /dev/vda | tr -d '\\0' | wc -c)" != 0 ] || mke2fs /dev/vda >/dev/null
    mount -t ext2 /dev/vda /data
fi
"""

# init starts it again a second after it ends: also when the port isn't there yet, or somebody killed the agent.
_AGENT = """\
#!/bin/sh
export HOME=/root USER=root LOGNAME=root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
for port in /sys/class/virtio-ports/*; do
    if [ "$(cat $port/name)" = org.qemu.guest_agent.0 ]; then
        exec qemu-ga -m virtio-serial -p /dev/${port##*/} -t /run </dev/null
    fi
done
echo "no virtio port for the guest agent"
"""

# What the agent runs for guest-shutdown: -h with -P, -H or -r, then a time and a message. There is no disk to sync and
# nobody to warn: it happens at once.
# Source: qga/commands-posix.c, qmp_guest_shutdown.
_SHUTDOWN = """\
#!/bin/sh
case " $* " in
*" -r "*) exec reboot -f ;;
*" -H "*) exec halt -f ;;
*) exec poweroff -f ;;
esac
"""

# What the agent runs for guest-set-user-password: it gets `user:password` on its input; with -e the password is a hash
# already. busybox has the hashing, but no chpasswd in Debian's build of it.
# Source: qga/commands-posix.c, qmp_guest_set_user_password.
_CHPASSWD = """\
#!/bin/sh
umask 077
while IFS= read -r line; do
    user=${line%%:*} secret=${line#*:}
    [ "$1" = -e ] || secret=$(printf '%s\\n' "$secret" | mkpasswd -m sha512 -P 0)
    awk -F: -v OFS=: -v user="$user" -v secret="$secret" '
        $1 == user { $2 = secret; found = 1 }
        { print }
        END { exit !found }
    ' /etc/shadow >/etc/shadow.new && mv /etc/shadow.new /etc/shadow || exit 1
done
"""

_PRINTENV = """\
#!/bin/sh
[ $# -gt 0 ] || exec env
for name; do
    env | sed -n "s/^$name=//p" | grep . || exit 1
done
"""

_OS_RELEASE = """\
NAME="OwnUp lab guest"
PRETTY_NAME="OwnUp lab guest"
ID=ownup-lab
ID_LIKE=debian
VERSION_ID="1"
"""


@dataclass(frozen=True)
class LabGuest:
    """What a VM needs to boot the guest; `-append` may be given more words, e.g. `hostname=demo-1`."""

    kernel: Path
    initrd: Path
    append: str

    def qemu_args(self, *words: str) -> list[str]:
        """Say which QEMU arguments boot the guest, with `words` added to the kernel's command line."""
        append = " ".join([self.append, *words])
        return ["-kernel", str(self.kernel), "-initrd", str(self.initrd), "-append", append]


def build(var_dir: Path) -> LabGuest:
    """Build the guest into `<var_dir>/lab`, unless the one there is of the same packages and the same code.

    Raises:
        PackageError: a package can't be found or downloaded.
    """
    lab_dir = var_dir.resolve() / "lab"
    lab_dir.mkdir(parents=True, exist_ok=True)
    guest = LabGuest(kernel=lab_dir / "vmlinuz", initrd=lab_dir / "initrd.gz", append=APPEND)
    with (lab_dir / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kernel, busybox = _kernel_package(), packages.get_candidate(BUSYBOX_PACKAGE)
        stamp = lab_dir / "stamp"
        wanted = stamp_text([kernel, busybox], [AGENT, *shared_libraries(AGENT)])
        if not is_current(stamp, wanted, [guest.kernel, guest.initrd]):
            stamp.unlink(missing_ok=True)
            _write(guest, packages.fetch(kernel, lab_dir / "debs"), packages.fetch(busybox, lab_dir / "debs"))
            stamp.write_text(wanted)
    return guest


def stamp_text(fetched: list[Package], copied: list[Path]) -> str:
    """Describe what a build is made of: versions, the host's own files, and this code."""
    code = hashlib.sha256(b"".join(Path(module).read_bytes() for module in (__file__, initramfs.__file__)))
    lines = [f"{package.name} {package.version}" for package in fetched]
    lines += [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in copied]
    return "\n".join([*lines, f"code {code.hexdigest()}", ""])


def is_current(stamp: Path, wanted: str, products: list[Path]) -> bool:
    """Say whether the products are there and were built of what is wanted now."""
    return stamp.exists() and stamp.read_text() == wanted and all(product.exists() for product in products)


def shared_libraries(program: Path) -> list[Path]:
    """List the libraries a program loads, its loader included, as the paths it looks for.

    Raises:
        PackageError: the program isn't installed, or a library of it is missing.
    """
    if not program.exists():
        raise PackageError(f"{program} is not installed")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    if "not found" in listed:
        raise PackageError(f"{program} lacks a library:\n{listed}")
    return [Path(path) for path in re.findall(r"(?:^|=>)\s+(/\S+)", listed, re.MULTILINE)]


def _kernel_package() -> Package:
    names = packages.get_candidate(KERNEL_PACKAGE).depends
    return packages.get_candidate(next(name for name in names if name.startswith("linux-image-")))


def _write(guest: LabGuest, kernel_deb: Path, busybox_deb: Path) -> None:
    version = kernel_deb.name.split("_")[0].removeprefix("linux-image-")
    image = f"boot/vmlinuz-{version}"
    from_kernel = packages.read_files(kernel_deb, [image, *(f"kernel/drivers/{module}" for module in MODULES)])
    [busybox] = packages.read_files(busybox_deb, ["bin/busybox"]).values()
    _replace(guest.kernel, from_kernel.pop(image))
    entries = [*_system(), *_programs(busybox, guest.initrd.parent), *_agent()]
    entries += [plain(f"/lib/modules/{Path(path).name}", body) for path, body in from_kernel.items()]
    _replace(guest.initrd, initramfs.encode(entries))


def _replace(path: Path, data: bytes) -> None:
    """Replace a file; running VMs have the old one mapped, and would end if it were written in place."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.rename(path)


def _system() -> Iterator[Entry]:
    yield from (directory(path) for path in ("/proc", "/sys", "/dev", "/run", "/mnt", "/data", "/var/log"))
    yield from (directory("/root", 0o700), directory("/tmp", 0o1777), directory("/var/tmp", 0o1777))  # noqa: S108 - the guest's
    yield character_device("/dev/console", 5, 1)  # devtmpfs is mounted by a script that already needs its output
    yield link("/var/run", "/run")
    yield plain("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    yield private("/etc/shadow", b"root:*:20000:0:99999:7:::\n")
    yield plain("/etc/group", b"root:x:0:\n")
    yield plain("/etc/os-release", _OS_RELEASE.encode())
    yield plain("/etc/inittab", _INITTAB.encode())
    yield executable("/etc/rc", _RC.format(modules=" ".join(Path(module).name for module in MODULES)).encode())
    yield link("/etc/acpi/PWRF/00000080", "/bin/shutdown")  # what busybox acpid runs when the power button is pressed


def _programs(busybox: bytes, scratch: Path) -> Iterator[Entry]:
    own = {"agent": _AGENT, "shutdown": _SHUTDOWN, "chpasswd": _CHPASSWD, "printenv": _PRINTENV}
    yield executable("/bin/busybox", busybox)
    yield from (executable(f"/bin/{name}", script.encode()) for name, script in own.items())
    yield from (link(f"/bin/{applet}", "busybox") for applet in _applets(busybox, scratch) if applet not in own)
    yield from (link(path, "/bin") for path in ("/sbin", "/usr/bin", "/usr/sbin"))
    yield link("/init", "/bin/busybox")


def _applets(busybox: bytes, scratch: Path) -> list[str]:
    program = scratch / "busybox"
    program.write_bytes(busybox)
    program.chmod(0o755)
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    program.unlink()
    return [name for name in names if name != "busybox"]


def _agent() -> Iterator[Entry]:
    yield executable("/bin/qemu-ga", AGENT.read_bytes())
    yield from (executable(str(path), path.read_bytes()) for path in shared_libraries(AGENT))


if __name__ == "__main__":
    made = build(Path(os.environ.get("VAR_DIR") or "var"))
    print(f"lab guest: {made.kernel} {made.initrd}")
