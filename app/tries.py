"""Who tries too many wrong keys is turned away, by address, before anything is looked up.

What is known to be right goes on being served from the same address. Knows keys and tokens by their digests only, and
nothing of HTTP.
"""

import ipaddress
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from app.core.errors import StoreUnavailableError, UnauthorizedError
from app.rates import Rates
from app.recent import Recent
from app.throttle import Refusal, Tally

_NAME = "failed"
_MOST_ADDRESSES = _MOST_RIGHT = 10_000
_ASKING_S = 1.0
"""How long others from an address are turned away while it is asked whether one more may be tried from there."""


@dataclass(frozen=True, slots=True)
class _Block:
    """An address that was over its limit.

    Attributes:
        refusal: Why.
        until_s: Until when it is turned away without asking, by the monotonic clock.
        forgotten_s: When it is an address like any other again; until then each try is counted before it is made.
    """

    refusal: Refusal
    until_s: float
    forgotten_s: float


class Tries:
    """Limits how many wrong keys may be tried from an address."""

    def __init__(self, tally: Tally, rates: Rates, *, time_s: Callable[[], float] = time.monotonic) -> None:
        self._tally = tally
        self._limits = rates.limits
        self._time_s = time_s
        self._period_s = max((limit.get_expiry() for limit in rates.limits), default=0)
        self._lock = threading.Lock()
        self._blocks: Recent[_Block] = Recent(_MOST_ADDRESSES)
        self._right: Recent[None] = Recent(_MOST_RIGHT)

    @contextmanager
    def trying(self, sha256: str, address: str | None) -> Iterator[None]:
        """Let a key or a token be tried.

        Args:
            sha256: Its digest.
            address: Where it comes from.

        Raises:
            UnauthorizedError: The block has raised it: it isn't right.
            RateLimitedError: Too many wrong ones came from there, and this one wasn't right here before.
            StoreUnavailableError: Redis is away.
        """
        network = _network(address)
        counted = sha256 not in self._right and self._insist_on_calm(network)
        try:
            yield
        except UnauthorizedError:
            self._right.drop(sha256)
            if not counted:
                self._note_failed(network)
            raise
        self._right.put(sha256, None)

    def _insist_on_calm(self, network: str) -> bool:
        """Insist that one more may be tried from an address; tell whether it is counted already.

        Raises:
            RateLimitedError: It may not. This costs Redis nothing, but for one thread at a time once in a while.
            StoreUnavailableError: Redis is away.
        """
        now_s = self._time_s()
        with self._lock:
            block = self._blocks.find(network)
            if block is None or block.forgotten_s <= now_s:
                self._blocks.drop(network)
                return False
            if block.until_s <= now_s:
                self._blocks.put(network, replace(block, until_s=now_s + _ASKING_S))
        refusal = block.refusal if now_s < block.until_s else self._count(network)
        if refusal:
            raise refusal.error()
        self._blocks.put(network, replace(block, until_s=now_s))
        return True

    def _note_failed(self, network: str) -> None:
        """Count a wrong one. While Redis is away no key can be found right either, and none needs to be counted."""
        with suppress(StoreUnavailableError):
            self._count(network)

    def _count(self, network: str) -> Refusal | None:
        """Count one try, or turn the address away from now on."""
        for limit in self._limits:
            if not self._tally.take(limit, _NAME, network):
                refusal = self._tally.refusal(limit, _NAME, network)
                now_s = self._time_s()
                self._blocks.put(network, _Block(refusal, now_s + refusal.wait_s(), now_s + self._period_s))
                return refusal
        return None


def _network(address: str | None) -> str:
    """Name whom an address counts for: one customer usually has a whole /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
