"""The units of systemd: they start what the Procfile names, and leave little open. Judged by systemd's own tools."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.processes import parse_procfile
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PREFIX = "/opt/ownup/bin/"
MOST_EXPOSED = {"web": 1.4, "worker": 1.8}


def unit(half: str) -> str:
    return (DEPLOY / f"ownup-{half}.service").read_text()


def values(half: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit(half), re.MULTILINE)


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    assert shutil.which("systemd-analyze"), "install Debian's package systemd"
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(params=MOST_EXPOSED)
def half(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_units_start_what_the_procfile_names(half: str) -> None:
    assert values(half, "ExecStart") == [PREFIX + parse_procfile((ROOT / "Procfile").read_text())[half]]


def test_systemd_finds_nothing_wrong(half: str, tmp_path: Path) -> None:
    for program in ("gunicorn", "python"):  # what isn't installed counts as wrong
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    file = tmp_path / f"ownup-{half}.service"
    file.write_text(unit(half).replace(PREFIX, f"{tmp_path}/"))
    done = analyze("verify", "--man=no", file)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_little_is_left_open(half: str) -> None:
    limit = MOST_EXPOSED[half]
    arguments = ("security", "--offline=true", "--no-pager", f"--threshold={limit * 10:g}")
    done = analyze(*arguments, DEPLOY / f"ownup-{half}.service")
    [exposure] = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    print(f"ownup-{half}.service: exposure {exposure}")
    assert float(exposure) <= limit
    assert done.returncode == 0


def test_no_qemu_dies_with_its_worker() -> None:
    assert values("worker", "KillMode") == ["process"]
    assert values("worker", "RuntimeDirectoryPreserve") == ["yes"], "sockets and pid files of living QEMUs"
    assert values("worker", "OOMPolicy") == ["continue"]


def test_the_workers_own_folder_is_one_that_it_may_write_to() -> None:
    default = {
        field.metadata["name"]: field.metadata["default"] for field in WorkerSettings.__dataclass_fields__.values()
    }
    assert Path(default["SPOOL_DIR"]).is_relative_to(f"/var/lib/{values('worker', 'StateDirectory')[0]}")


@pytest.mark.parametrize("name", ["NoNewPrivileges", "ProtectSystem", "PrivateTmp", "RestrictNamespaces"])
def test_both_are_locked_in(half: str, name: str) -> None:
    assert values(half, name) in (["yes"], ["strict"])
    assert values(half, "CapabilityBoundingSet") == [""]


@pytest.mark.parametrize(
    ("half", "step", "error"),
    [
        ("web", "import socket; socket.socket(socket.AF_INET)", ""),
        ("web", "import socket; socket.socket(socket.AF_NETLINK)", "PermissionError"),
        ("web", "import os; os.chroot('/')", "PermissionError"),
        ("web", "import mmap; mmap.mmap(-1, 4096, prot=7)", "PermissionError"),
        ("worker", "import mmap; mmap.mmap(-1, 4096, prot=7)", ""),
        ("worker", "import socket; socket.socket(socket.AF_PACKET)", "PermissionError"),
    ],
)
def test_what_the_tests_of_both_halves_run_under_is_the_unit(half: str, step: str, error: str) -> None:
    argv = [sys.executable, ROOT / "tests/under_unit.py", DEPLOY / f"ownup-{half}.service", sys.executable, "-c", step]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, error in done.stderr) == (int(bool(error)), True), done.stderr
