"""What a VM uses, measured on the node: by QEMU's monitor, /proc and /sys. What isn't known is ``None``, not a guess.

Doesn't know records; the fields are named as in ``Vm`` because they mean the same.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from app.core.errors import MonitorError

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TAP_NAME = re.compile(r"^tap,(?:.*,)?ifname=([^,/]+)(?:,|$)")

# Source: proc(5), /proc/pid/stat: indices after the closing bracket of the program's name, which is field 2.
_UTIME, _STIME, _STARTTIME = 11, 12, 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One sample.

    Attributes:
        booted_at: When the QEMU process started.
        cpu: Share of the virtual CPUs in use since the last sample, 0.0 to 1.0.
        mem_bytes: Resident set of QEMU.
        netin_bytes: Bytes the guest received, over all its cards, since their taps were made.
        netout_bytes: Bytes the guest sent.
        diskread_bytes: Bytes the guest read from its disks since QEMU started.
        diskwrite_bytes: Bytes the guest wrote.
    """

    booted_at: datetime | None = None
    cpu: float | None = None
    mem_bytes: int | None = None
    netin_bytes: int | None = None
    netout_bytes: int | None = None
    diskread_bytes: int | None = None
    diskwrite_bytes: int | None = None


class BlockGauge(Protocol):
    """Whatever can tell how much a guest reads and writes."""

    async def block_bytes(self) -> tuple[int, int]:
        """Tell the bytes read and written."""


@dataclass(frozen=True, slots=True)
class _Busy:
    """Processor time used until a moment."""

    started_ticks: int
    used_ticks: int
    at_s: float


class Sampler:
    """Samples one QEMU process; its CPU share is that between two samples."""

    def __init__(
        self,
        pid: int,
        *,
        nics: Sequence[str],
        proc_dir: Path = Path("/proc"),
        sys_dir: Path = Path("/sys"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describe what is sampled.

        Args:
            pid: QEMU's.
            nics: The VM's ``-nic`` texts; cards other than named taps can't be measured.
            proc_dir: Where procfs is.
            sys_dir: Where sysfs is.
            clock: Tells seconds.
        """
        self.pid = pid
        self._taps = [_tap(nic) for nic in nics]
        self._proc_dir = proc_dir
        self._sys_dir = sys_dir
        self._clock = clock
        self._last: _Busy | None = None

    async def sample(self, gauge: BlockGauge, *, cpus: int | None) -> Figures:
        """Measure now.

        Args:
            gauge: The VM's monitor.
            cpus: Number of its virtual CPUs.
        """
        busy = self._read_busy()
        last, self._last = self._last, busy
        read_bytes, written_bytes = await _block_bytes(gauge)
        return Figures(
            booted_at=self._booted_at(busy) if busy else None,
            cpu=_share(last, busy, cpus) if last and busy and cpus else None,
            mem_bytes=self._resident_bytes(),
            # What the host's end of a tap receives is what the guest sent.
            netin_bytes=self._tap_bytes("tx_bytes"),
            netout_bytes=self._tap_bytes("rx_bytes"),
            diskread_bytes=read_bytes,
            diskwrite_bytes=written_bytes,
        )

    def _read_busy(self) -> _Busy | None:
        try:
            text = (self._proc_dir / str(self.pid) / "stat").read_text(errors="replace")
            fields = text.rpartition(")")[2].split()
            used_ticks = int(fields[_UTIME]) + int(fields[_STIME])
            return _Busy(int(fields[_STARTTIME]), used_ticks, self._clock())
        except (OSError, ValueError, IndexError):
            return None

    def _booted_at(self, busy: _Busy) -> datetime | None:
        try:
            lines = (self._proc_dir / "stat").read_text().splitlines()
            host_boot_s = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
        except (OSError, ValueError, IndexError, StopIteration):
            return None
        return datetime.fromtimestamp(host_boot_s, UTC) + timedelta(seconds=busy.started_ticks / _TICKS_PER_S)

    def _resident_bytes(self) -> int | None:
        try:
            return int((self._proc_dir / str(self.pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
        except (OSError, ValueError, IndexError):
            return None

    def _tap_bytes(self, counter: str) -> int | None:
        if not self._taps or None in self._taps:
            return None
        try:
            return sum(
                int((self._sys_dir / "class/net" / str(tap) / "statistics" / counter).read_text()) for tap in self._taps
            )
        except (OSError, ValueError):
            return None


def _share(last: _Busy, busy: _Busy, cpus: int) -> float | None:
    elapsed_s = busy.at_s - last.at_s
    if last.started_ticks != busy.started_ticks or elapsed_s <= 0:
        return None
    used_s = (busy.used_ticks - last.used_ticks) / _TICKS_PER_S
    return min(max(used_s / (elapsed_s * cpus), 0.0), 1.0)


def _tap(nic: str) -> str | None:
    found = _TAP_NAME.match(nic)
    return found[1] if found else None


async def _block_bytes(gauge: BlockGauge) -> tuple[int | None, int | None]:
    try:
        return await gauge.block_bytes()
    except MonitorError:
        return None, None
