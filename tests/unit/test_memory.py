"""Freed megabytes are used again at once, and the system has them back when it is quiet. On the real C library."""

import subprocess
import sys

import pytest

BLOCK_MIB = 8
PROGRAM = """
import resource, sys, threading, time
from pathlib import Path
from app.core import memory

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

def use():
    before = page_faults()
    del (blocks := [b"x" * (BLOCK_MIB * 2**20) for _ in range(4)])[:]
    faults.append(page_faults() - before)

BLOCK_MIB, faults = int(sys.argv[1]), []
memory.QUIET_S = 0.3
memory.keep_freed()
begin = resident_mib()
for _ in range(3):
    use()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    memory.give_back_soon()
kept = resident_mib()
time.sleep(1.5)
print(max(faults[2:]), round(kept - begin), round(resident_mib() - begin))
"""


@pytest.fixture(scope="module")
def kept() -> list[int]:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(BLOCK_MIB)], check=True, capture_output=True, text=True
    ).stdout
    return [int(word) for word in told.split()]


def test_who_needs_as_much_again_gets_no_new_pages(kept: list[int]) -> None:
    faults, *_ = kept
    assert faults < 100


def test_all_threads_share_what_is_kept(kept: list[int]) -> None:
    _, kept_mib, _ = kept
    assert 4 * BLOCK_MIB - 2 <= kept_mib <= 4 * BLOCK_MIB + 2


def test_all_of_it_is_given_back_when_it_is_quiet(kept: list[int]) -> None:
    *_, left_mib = kept
    assert left_mib <= 2
