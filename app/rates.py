"""How much is allowed in what time, as the environment spells it. Doesn't know who counts, or what."""

from dataclasses import dataclass

from limits import RateLimitItem, parse_many

_UNLIMITED = "unlimited"


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits that hold side by side.

    Attributes:
        limits: So many in such a time, the shortest time first: what it refuses isn't counted by the longer ones. None
            at all: unlimited.
    """

    limits: tuple[RateLimitItem, ...]

    @classmethod
    def parse(cls, text: str) -> "Rates":
        """Read limits such as ``600/minute`` or ``10/second;6000/hour``, or ``unlimited``.

        Source: limits' docs, quickstart, rate limit string notation.

        Raises:
            ValueError: It is neither, or nothing at all is allowed.
        """
        if text.strip().lower() == _UNLIMITED:
            return cls(())
        try:
            limits = parse_many(text)
        except ValueError:
            limits = []
        if not limits or any(limit.amount < 1 for limit in limits):
            raise ValueError(f"must be like 600/minute or 10/second;6000/hour, or be {_UNLIMITED}")
        return cls(tuple(sorted(limits, key=lambda limit: limit.get_expiry())))
