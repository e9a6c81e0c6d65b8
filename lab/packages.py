"""Debian packages: which version apt offers, fetching one without installing it, reading single files out of it.

Knows apt and dpkg. Doesn't know what the lab does with the files.
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import LabError


class PackageError(LabError):
    """Apt doesn't know a package, can't fetch it, or the package lacks a file."""


@dataclass(frozen=True)
class Package:
    """One version of one package, as apt would install it now."""

    name: str
    version: str
    depends: tuple[str, ...]
    """Names of the packages it depends on; of alternatives the first."""


def parse_record(text: str) -> Package:
    """Read the first stanza that `apt-cache show` prints.

    Raises:
        PackageError: the text is no package stanza.
    """
    fields = dict(line.split(": ", 1) for line in text.partition("\n\n")[0].splitlines() if ": " in line)
    try:
        name, version = fields["Package"], fields["Version"]
    except KeyError as exc:
        raise PackageError(f"no package stanza: {text[:80]!r}") from exc
    depends = tuple(clause.split()[0] for clause in fields.get("Depends", "").split(",") if clause.strip())
    return Package(name, version, depends)


def find_candidate(name: str) -> Package | None:
    """Ask apt for the version it would install; None when its lists don't have the package."""
    argv = ["apt-cache", "show", "--no-all-versions", name]
    shown = subprocess.run(argv, capture_output=True, text=True, check=False)
    return parse_record(shown.stdout) if shown.returncode == 0 else None


def get_candidate(name: str) -> Package:
    """Ask apt for the version it would install.

    Raises:
        PackageError: apt's lists don't have the package.
    """
    package = find_candidate(name)
    if package is None:
        raise PackageError(f"apt knows no package {name}: run `apt-get update`; the lab is built from Debian's archive")
    return package


def root_prefix() -> list[str] | None:
    """Say what to put before a command to run it as root: nothing, sudo, or None when neither is possible."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    return None


def fetch(package: Package, folder: Path) -> Path:
    """Download a package file into `folder`, or find it there from an earlier time; apt checks its hash both times.

    Raises:
        PackageError: it can't be downloaded, also not with fresh lists (which only root can get).
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = root_prefix()
    # As root apt would drop to a user that can't write into this folder, and complain.
    argv = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", f"{package.name}={package.version}"]
    done = subprocess.run(argv, cwd=folder, check=False).returncode == 0
    if not done and prefix is not None:
        subprocess.run([*prefix, "apt-get", "update", "-qq"], check=False)
        done = subprocess.run(argv, cwd=folder, check=False).returncode == 0
    quoted_version = package.version.replace(":", "%3a")
    found = sorted(folder.glob(f"{package.name}_{quoted_version}_*.deb"))
    if not done or not found:
        raise PackageError(f"apt-get could not download {package.name} {package.version}: run `apt-get update`")
    return found[0]


def read_files(deb: Path, suffixes: Sequence[str]) -> dict[str, bytes]:
    """Read the regular files of a package whose path ends with one of `suffixes`.

    Raises:
        PackageError: a suffix fits no file, or the package is damaged.
    """
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpacker:
        try:
            found = dict(_matching(unpacker, suffixes))
        except tarfile.TarError as exc:
            raise PackageError(f"{deb} is damaged: {exc}") from exc
    missing = set(suffixes) - set(found)
    if missing:
        raise PackageError(f"{deb.name} has no file that ends with {', '.join(sorted(missing))}")
    return found


def _matching(unpacker: subprocess.Popen[bytes], suffixes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
        for member in archive:
            suffix = next((suffix for suffix in suffixes if member.name.endswith(suffix)), None)
            if suffix is not None and (body := archive.extractfile(member)) is not None:
                yield suffix, body.read()
