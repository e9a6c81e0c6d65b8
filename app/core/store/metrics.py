"""How much a VM has used over time, in the store: averages of each stretch of five timeframes, in rings of fixed size.

A ring is one string of equal slots; the slot of a moment is overwritten when its turn comes again. What is recorded is
worked into the present slot of each ring at once, weighted by the time it covers: nothing has to be kept until a
stretch is over, so a worker may die at any time. Stretches are told by Redis's clock. A VM's rings weigh 15 KiB.

Rings are named by account as well: an account that is given a used vmid doesn't see what it was used for.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from operator import itemgetter
from typing import Any

from app.core.store.calls import Call, nothing, script


class Timeframe(StrEnum):
    """How far back a ring reaches (HostUp v2 docs, GET metrics)."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"

    @property
    def step_s(self) -> int:
        """What one slot covers."""
        return _RINGS[self][0]

    @property
    def slots(self) -> int:
        """How many there are."""
        return _RINGS[self][1]


_RINGS = {
    Timeframe.HOUR: (60, 60),
    Timeframe.DAY: (15 * 60, 96),
    Timeframe.WEEK: (2 * 3600, 84),
    Timeframe.MONTH: (6 * 3600, 124),
    Timeframe.YEAR: (3 * 24 * 3600, 122),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a VM used, on average over a while; ``None`` is what isn't known.

    Attributes:
        cpu: Share of its virtual CPUs, 0.0 to 1.0.
        mem: Share of the memory it was given, 0.0 to 1.0.
        diskread_bytes_per_s: Bytes a second that the guest read from its disks.
        diskwrite_bytes_per_s: Bytes a second that the guest wrote.
        netin_bytes_per_s: Bytes a second that the guest received.
        netout_bytes_per_s: Bytes a second that the guest sent.
    """

    cpu: float | None = None
    mem: float | None = None
    diskread_bytes_per_s: float | None = None
    diskwrite_bytes_per_s: float | None = None
    netin_bytes_per_s: float | None = None
    netout_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a VM used in one stretch.

    Attributes:
        recorded_at: When the stretch began; the latest one isn't over yet.
        usage: The average of what was recorded in it.
    """

    recorded_at: datetime
    usage: Usage


_VALUES = struct.Struct("<6f")
_SLOT = struct.Struct("<If6f")
"""Begin in epoch seconds, seconds covered, values; NaN is a value that isn't known. The script packs it likewise."""

_RECORD = f"""
local now, covered_s = tonumber(redis.call('TIME')[1]), tonumber(ARGV[2])
local given = {{struct.unpack('<ffffff', ARGV[3])}}
for i = 4, #ARGV, 3 do
  local key, step_s, slots = 'ownup:metrics:' .. ARGV[1] .. ':' .. ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local begin = now - now % step_s
  local at = begin / step_s % slots * {_SLOT.size}
  local present = redis.call('GETRANGE', key, at, at + {_SLOT.size - 1})
  local slot = {{begin, covered_s, unpack(given, 1, 6)}}
  local old = #present == {_SLOT.size} and {{struct.unpack('<Ifffffff', present)}} or {{0}}
  if old[1] == begin then
    slot[2] = old[2] + covered_s
    for v = 3, 8 do
      if slot[v] ~= slot[v] then slot[v] = old[v]
      elseif old[v] == old[v] then slot[v] = (old[v] * old[2] + slot[v] * covered_s) / slot[2] end
    end
  end
  redis.call('SETRANGE', key, at, struct.pack('<Ifffffff', unpack(slot)))
  redis.call('EXPIRE', key, step_s * slots)
end
"""

_READ = "return {redis.call('TIME')[1], redis.call('GET', 'ownup:metrics:' .. ARGV[1] .. ':' .. ARGV[2])}"

_RING_ARGS = tuple(arg for timeframe, (step_s, slots) in _RINGS.items() for arg in (timeframe.value, step_s, slots))


def record(account: str, vmid: int, usage: Usage, *, covered_s: float) -> Call[None]:
    """Work what a VM has used into the present slot of each ring.

    Args:
        account: The VM's owner.
        vmid: The VM.
        usage: Averages over the time since the last call.
        covered_s: That time.
    """
    values = _VALUES.pack(*(math.nan if value is None else value for value in astuple(usage)))
    return script(_RECORD, _name(account, vmid), covered_s, values, *_RING_ARGS, load=nothing)


def read(account: str, vmid: int, timeframe: Timeframe) -> Call[tuple[Sample, ...]]:
    """Read a ring, oldest first; stretches of which nothing is known are left out."""
    return script(_READ, _name(account, vmid), timeframe.value, load=lambda reply: tuple(_load(reply, timeframe)))


def _name(account: str, vmid: int) -> str:
    return f"{account}:{vmid}"


def _load(reply: Any, timeframe: Timeframe) -> Iterator[Sample]:
    now, ring = int(reply[0]), reply[1] or b""
    oldest = now - timeframe.step_s * timeframe.slots
    for begin, _covered_s, *values in sorted(_SLOT.iter_unpack(ring), key=itemgetter(0)):
        if oldest < begin <= now:
            usage = Usage(*(None if math.isnan(value) else value for value in values))
            yield Sample(datetime.fromtimestamp(begin, tz=UTC), usage)
