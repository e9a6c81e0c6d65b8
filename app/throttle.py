"""How many requests each API key may make: limits by route class, counted in Redis for all web processes together.

Asking Redis for every request would cost as much as the request itself. So a process takes a share of a key's allowance
at a time and spends it without asking. What is taken is counted at once: together the processes can't spend more than
the limit, and at most one share each lies unused. Doesn't know HTTP, scopes or routes.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import redis
from limits import RateLimitItem
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.core.errors import RateLimitedError
from app.core.store import tell_absence
from app.rates import Rates
from app.recent import Recent

KEY_PREFIX = "ownup:limit"
_PARTS, _LARGEST_SHARE = 100, 200
"""A share is a hundredth of a limit, and no more than this: a limit below 200 is kept to the single request."""
_MOST_LEASES = 10_000
_LEAST_WAIT_S = 0.01
_REFUSED_FOR_S = 1.0
"""How long a refusal holds without asking again, at the most: nothing becomes free before its reset anyway."""


class RouteClass(StrEnum):
    """What a request does, as far as limits go."""

    READS = "reads"
    EXEC = "exec"
    POWER = "power"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing is left of a limit.

    Attributes:
        limit: How much it allows.
        remaining: How much is left after all.
        reset_s: When the next one will be free, in epoch seconds.
    """

    limit: int
    remaining: int
    reset_s: float

    def wait_s(self) -> float:
        """Tell how long it holds still, at the least so long that nobody asks for nothing but that all the time."""
        return max(_LEAST_WAIT_S, self.reset_s - time.time())

    def error(self) -> RateLimitedError:
        """Make the error that tells of it, anew each time: one that is raised keeps its traceback."""
        reset = datetime.fromtimestamp(self.reset_s, tz=UTC)
        return RateLimitedError(self.limit, self.remaining, reset, max(1, math.ceil(self.wait_s())))


class Tally:
    """Counts in Redis, over a sliding window.

    A refused hit isn't counted there, in contrast to a fixed window, so that a smaller one may be tried after it; and
    no burst of twice the limit gets through where two windows meet. Source: limits' docs, strategies.
    """

    def __init__(self, client: "redis.Redis") -> None:
        storage = RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix=KEY_PREFIX)
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    def take(self, limit: RateLimitItem, *whose: str, cost: int = 1) -> bool:
        """Count so much, if the limit allows it.

        Raises:
            StoreUnavailableError: Redis is away, or still loading.
        """
        try:
            return self._limiter.hit(limit, *whose, cost=cost)
        except redis.RedisError as exc:
            tell_absence(exc)

    def refusal(self, limit: RateLimitItem, *whose: str) -> Refusal:
        """Find out how long nothing is left.

        Raises:
            StoreUnavailableError: Redis is away, or still loading.
        """
        try:
            stats = self._limiter.get_window_stats(limit, *whose)
        except redis.RedisError as exc:
            tell_absence(exc)
        return Refusal(limit.amount, stats.remaining, stats.reset_time)


class Throttle:
    """Lets each API key make so many requests of each class and no more."""

    def __init__(
        self, tally: Tally, rates: Mapping[RouteClass, Rates], *, time_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._leases = {
            name: tuple(_Leases(tally, limit, name, time_s) for limit in rates[name].limits) for name in RouteClass
        }

    def spend(self, key_id: str, route_class: RouteClass) -> None:
        """Count one request.

        Raises:
            RateLimitedError: The key has made as many as it may.
            StoreUnavailableError: Its share is spent, and Redis is away.
        """
        for leases in self._leases[route_class]:
            leases.spend(key_id)


@dataclass(slots=True)
class _Lease:
    """What this process has taken of a key's allowance.

    Attributes:
        until_s: When it lapses, by the monotonic clock.
        left: How much of it isn't spent.
        share: How much to take next.
        is_asking: Whether some thread is taking a share now; others take what they need themselves.
        refusal: The latest refusal.
        refused_until_s: Until when it holds.
    """

    until_s: float
    left: int = 0
    share: int = 1
    is_asking: bool = False
    refusal: Refusal | None = None
    refused_until_s: float = 0.0


class _Leases:
    """The shares of one limit, by API key. The lock is never held over a round trip."""

    def __init__(self, tally: Tally, limit: RateLimitItem, name: RouteClass, time_s: Callable[[], float]) -> None:
        self._tally = tally
        self._limit = limit
        self._name = name
        self._time_s = time_s
        self._largest_share = min(_LARGEST_SHARE, max(1, limit.amount // _PARTS))
        self._period_s = limit.get_expiry()
        self._by_key: Recent[_Lease] = Recent(_MOST_LEASES)
        self._lock = threading.Lock()

    def spend(self, key_id: str) -> None:
        now_s = self._time_s()
        with self._lock:
            lease = self._by_key.find(key_id)
            if lease is None or lease.until_s <= now_s:
                lease = self._by_key.put(key_id, _Lease(now_s + self._period_s))
            if lease.left:
                lease.left -= 1
                return
            refusal = lease.refusal if now_s < lease.refused_until_s else None
            takes_share = not (lease.is_asking or refusal)
            lease.is_asking |= takes_share
            cost = lease.share if takes_share else 1
        if refusal:
            raise refusal.error()
        if not takes_share:
            self._ask(lease, key_id, 1)
            return
        try:
            taken = self._ask(lease, key_id, cost)
            lease.share = min(2 * taken, self._largest_share) if taken == cost else 1
        finally:
            lease.is_asking = False

    def _ask(self, lease: _Lease, key_id: str, cost: int) -> int:
        """Take so much and spend one of it. Each share is twice as large as the one before: no more than was spent.

        Returns:
            How much was taken: so much, or one.

        Raises:
            RateLimitedError: Not even one is left.
        """
        taken = self._take(key_id, cost)
        if not taken:
            raise self._refuse(lease, key_id).error()
        with self._lock:
            lease.left += taken - 1
            lease.until_s = self._time_s() + self._period_s
        return taken

    def _take(self, key_id: str, cost: int) -> int:
        """Take so much, or else one, or nothing."""
        if self._tally.take(self._limit, self._name, key_id, cost=cost):
            return cost
        return int(cost > 1 and self._tally.take(self._limit, self._name, key_id))

    def _refuse(self, lease: _Lease, key_id: str) -> Refusal:
        refusal = self._tally.refusal(self._limit, self._name, key_id)
        with self._lock:
            lease.refusal = refusal
            lease.refused_until_s = self._time_s() + min(refusal.wait_s(), _REFUSED_FOR_S)
            lease.share = 1
        return refusal
