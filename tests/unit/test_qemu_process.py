"""A live QEMU is told from other processes and from a dead one."""

import os
from pathlib import Path

import pytest

from workers.qmp.process import is_qemu


def make(proc_dir: Path, name: str, state: str, program: str | None) -> None:
    (proc_dir / "42").mkdir()
    (proc_dir / "42/stat").write_text(f"42 ({name}) {state} 1 42 42 0\n")
    if program is not None:
        (proc_dir / "42/exe").symlink_to(program)


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("qemu-10001", "/usr/bin/qemu-system-x86_64"),
        ("kvm", "/usr/bin/qemu-system-x86_64"),
        ("web (1) R", "/usr/libexec/qemu-kvm"),
        ("web-1", "/usr/bin/qemu-system-x86_64 (deleted)"),
        ("qemu-system-x86", None),  # another user's: its program can't be read
    ],
)
def test_a_qemu_is_known_by_its_name_or_its_program(tmp_path: Path, name: str, program: str | None) -> None:
    make(tmp_path, name, "S", program)
    assert is_qemu(42, proc_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "program"), [("libvirtd", "/usr/sbin/libvirtd"), ("kvm-nx-lpage", None), ("bash", None)]
)
def test_others_are_not_taken_for_one(tmp_path: Path, name: str, program: str | None) -> None:
    make(tmp_path, name, "S", program)
    assert not is_qemu(42, proc_dir=tmp_path)


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_dead_one_is_none_any_more(tmp_path: Path, state: str) -> None:
    make(tmp_path, "qemu-10001", state, None)
    assert not is_qemu(42, proc_dir=tmp_path)


def test_one_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert not is_qemu(42, proc_dir=tmp_path)
    assert not is_qemu(os.getpid())
