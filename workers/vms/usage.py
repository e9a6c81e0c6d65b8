"""What a VM uses on average: shares and rates over several samples of its figures. Knows no Redis."""

from dataclasses import dataclass

from app.core.store.metrics import Usage
from workers.vms.figures import Figures

_COUNTERS = {
    "diskread_bytes_per_s": "diskread_bytes",
    "diskwrite_bytes_per_s": "diskwrite_bytes",
    "netin_bytes_per_s": "netin_bytes",
    "netout_bytes_per_s": "netout_bytes",
}
"""Which rate is that of which counter."""


class Meter:
    """Averages what one VM uses, until it is told."""

    def __init__(self) -> None:
        self._last: _Reading | None = None
        self._means = {name: _Mean() for name in ("cpu", "mem", *_COUNTERS)}
        self.covered_s = 0.0
        self.readings = 0

    def take(self, figures: Figures, *, maxmem_bytes: int | None, at_s: float) -> None:
        """Take in a sample: what it says of the time since the one before, if that was of the same QEMU process.

        Args:
            figures: The sample.
            maxmem_bytes: The memory that the guest was given.
            at_s: When it was taken, by a clock that only goes forward.
        """
        last, self._last = self._last, _Reading(figures, at_s)
        if last is None or last.figures.booted_at != figures.booted_at or at_s <= last.at_s:
            return
        elapsed_s = at_s - last.at_s
        self._means["cpu"].add(figures.cpu, elapsed_s)
        self._means["mem"].add(_share(figures.mem_bytes, maxmem_bytes), elapsed_s)
        for rate, counter in _COUNTERS.items():
            self._means[rate].add(
                _rate(getattr(last.figures, counter), getattr(figures, counter), elapsed_s), elapsed_s
            )
        self.covered_s += elapsed_s
        self.readings += 1

    def tell(self) -> Usage:
        """Tell the averages, and begin new ones."""
        usage = Usage(**{name: mean.tell() for name, mean in self._means.items()})
        self._means = {name: _Mean() for name in self._means}
        self.covered_s, self.readings = 0.0, 0
        return usage


@dataclass(frozen=True, slots=True)
class _Reading:
    """A sample and when it was taken."""

    figures: Figures
    at_s: float


class _Mean:
    """An average weighted by time."""

    def __init__(self) -> None:
        self._total = 0.0
        self._over_s = 0.0

    def add(self, value: float | None, elapsed_s: float) -> None:
        """Take in what held for a while, if it is known."""
        if value is not None:
            self._total += value * elapsed_s
            self._over_s += elapsed_s

    def tell(self) -> float | None:
        """Tell the average of all that was known."""
        return self._total / self._over_s if self._over_s else None


def _share(part: int | None, whole: int | None) -> float | None:
    return min(part / whole, 1.0) if part is not None and whole else None


def _rate(before: int | None, after: int | None, elapsed_s: float) -> float | None:
    """Tell how fast a counter grew; one that fell began anew, and how fast it grew before isn't known."""
    if before is None or after is None or after < before:
        return None
    return (after - before) / elapsed_s
