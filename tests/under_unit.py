"""Runs a program under what a unit of systemd forbids, where no systemd runs. `python under_unit.py FILE PROGRAM …`

Of what a unit can forbid these are here: system calls, address families, memory that is written and executed.

Source: systemd.exec(5). The sets of system calls are read from the installed systemd, the filter is libseccomp's.
"""

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_EQUAL = 4  # SCMP_CMP_EQ
_SET_MDWE, _REFUSE_EXEC_GAIN = 65, 1  # prctl(2), Linux 6.3


class _Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def settings(unit: Path, name: str) -> list[str]:
    lines = (line.partition("=") for line in unit.read_text().splitlines())
    return [value for key, _, value in lines if key == name]


def expand(names: list[str]) -> Iterator[str]:
    for name in names:
        if name.startswith("@"):
            argv = ["systemd-analyze", "syscall-filter", name]
            listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")[1:]
            yield from expand([line.strip() for line in listed if line.strip() and not line.strip().startswith("#")])
        else:
            yield name


def allowed_calls(unit: Path) -> set[str]:
    allowed: set[str] = set()
    for value in settings(unit, "SystemCallFilter"):
        if value.startswith("~"):
            allowed -= set(expand(value[1:].split()))
        else:
            allowed |= set(expand([*value.split(), "@default"]))
    return allowed


def forbid(unit: Path) -> None:
    """Forbid this process, for good, what the unit forbids."""
    lib, libc = ctypes.CDLL("libseccomp.so.2", use_errno=True), ctypes.CDLL(None, use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.seccomp_init(_REFUSE))
    numbers = {name: lib.seccomp_syscall_resolve_name(name.encode()) for name in allowed_calls(unit)}
    for name, number in numbers.items():
        if number >= 0 and name != "socket":
            assert lib.seccomp_rule_add_array(context, _ALLOW, number, 0, None) == 0, name
    for family in settings(unit, "RestrictAddressFamilies")[0].split():
        compare = _Compare(0, _EQUAL, getattr(socket, family), 0)
        assert lib.seccomp_rule_add_array(context, _ALLOW, numbers["socket"], 1, ctypes.byref(compare)) == 0
    if settings(unit, "MemoryDenyWriteExecute") == ["yes"]:
        assert libc.prctl(_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
    assert lib.seccomp_load(context) == 0


if __name__ == "__main__":
    forbid(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
