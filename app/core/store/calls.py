"""What an operation on the store is, and the two ways to run one: from threads and from an event loop."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, cast

import redis
import redis.asyncio
import redis.exceptions

from app.core.codec import decode
from app.core.errors import StoreUnavailableError

T = TypeVar("T")
U = TypeVar("U")

WAKE_CHANNEL = "ownup:wake"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One Redis command and how to read its reply.

    Attributes:
        args: The command, as ``execute_command`` takes it.
        load: Makes the result from the raw reply.
    """

    args: tuple[str | bytes | int | float, ...]
    load: Callable[[Any], T]


class Store:
    """Runs calls on a blocking Redis client."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client

    def run(self, call: Call[T]) -> T:
        """Run one call.

        Raises:
            StoreUnavailableError: Redis is away, or still loading.
        """
        try:
            return call.load(self._client.execute_command(*call.args))  # type: ignore[no-untyped-call]
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as exc:
            raise StoreUnavailableError from exc

    def run_both(self, first: Call[T], second: Call[U]) -> tuple[T, U]:
        """Run two calls in one round trip.

        Raises:
            StoreUnavailableError: Redis is away, or still loading.
        """
        return self.run(both(first, second))


class AsyncStore:
    """Runs calls on an asyncio Redis client."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client

    async def run(self, call: Call[T]) -> T:
        """Run one call.

        Raises:
            StoreUnavailableError: Redis is away, or still loading.
        """
        try:
            with _cancellation_kept():
                reply = await cast("Awaitable[Any]", self._client.execute_command(*call.args))  # type: ignore[no-untyped-call]
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as exc:
            raise StoreUnavailableError from exc
        return call.load(reply)


@contextlib.contextmanager
def _cancellation_kept() -> Iterator[None]:
    """Cancel the task that was to be cancelled meanwhile, though the client lost that.

    It sends by ``asyncio.wait_for``, which before Python 3.12 forgets a cancellation that comes as the sending ends. A
    task that writes again and again would never stop then.

    Raises:
        CancelledError: The task was cancelled meanwhile.
    """
    task = asyncio.current_task()
    asked_before = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > asked_before:
            raise asyncio.CancelledError


def ping() -> Call[None]:
    """Ask whether Redis is there."""
    return Call(("PING",), nothing)


def time() -> Call[datetime]:
    """Ask Redis for the time, by the only clock that all hosts share."""
    return Call(("TIME",), lambda reply: datetime.fromtimestamp(int(reply[0]) + int(reply[1]) / 1_000_000, tz=UTC))


NOW = "local t = redis.call('TIME'); local now = tonumber(t[1]) + tonumber(t[2]) / 1000000"
"""Start of a script that judges a deadline: binds ``now`` to Redis's clock, in epoch seconds."""


def script(text: str, *args: str | bytes | float, load: Callable[[Any], T]) -> Call[T]:
    """Make a call of a Lua script that finds its arguments in ``ARGV``."""
    return Call(("EVAL", text, 0, *args), load)


def both(first: Call[T], second: Call[U]) -> Call[tuple[T, U]]:
    """Make one call of two, carried out one after the other with nothing in between."""
    (one, one_args), (other, other_args) = _as_script(first), _as_script(second)
    text = _BOTH.format(one, other, count=len(one_args))
    return script(
        text, *one_args, *other_args, load=lambda replies: (first.load(replies[0]), second.load(replies[1]))
    )


_BOTH = """
local function first(ARGV) {} end
local function second(ARGV) {} end
return {{first({{unpack(ARGV, 1, {count})}}), second({{unpack(ARGV, {count} + 1)}})}}
"""


def _as_script(call: Call[Any]) -> tuple[str, tuple[str | bytes | int | float, ...]]:
    if call.args[0] == "EVAL":
        return str(call.args[1]), call.args[3:]
    return "return redis.call(unpack(ARGV))", call.args


def flat(fields: Mapping[str, str]) -> str:
    """Write hash fields as the JSON array that a script unpacks into ``HSET``."""
    return json.dumps([part for pair in fields.items() for part in pair], ensure_ascii=False)


def pairs(reply: Any) -> Mapping[bytes, bytes]:
    """Read the fields of a hash, as a command or as a script returns them."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def load_record(kind: type[T], reply: Any) -> T | None:
    """Read a record; an empty hash is no record."""
    return decode(kind, pairs(reply)) if reply else None


def load_name(reply: Any) -> str | None:
    """Read a name, or that there is none."""
    return reply.decode() if reply else None


def load_names(reply: Any) -> tuple[str, ...]:
    """Read a set of names, sorted."""
    return tuple(sorted(name.decode() for name in reply))


def nothing(_reply: Any) -> None:
    """Read a reply that says nothing."""
    return
