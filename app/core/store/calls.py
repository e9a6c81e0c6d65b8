"""What an operation on the store is, and the two ways to run one: from threads and from an event loop."""

import asyncio
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Generic, NoReturn, TypeVar

import orjson
import redis
import redis.asyncio
import redis.exceptions

from app.core.codec import decode
from app.core.errors import StoreRefusedError, StoreUnavailableError
from app.core.store.lines import Args, Lines, pack

T = TypeVar("T")
U = TypeVar("U")

WAKE_CHANNEL = "ownup:wake"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One Redis command and how to read its reply.

    Attributes:
        args: The command, as ``execute_command`` takes it; not shown, because it may hold anything.
        load: Makes the result from the raw reply.
    """

    args: Args = field(repr=False)
    load: Callable[[Any], T]


class Store:
    """Runs calls on a blocking Redis client."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._idle: list[redis.Connection] = []

    def run(self, call: Call[T]) -> T:
        """Run one call.

        Raises:
            StoreRefusedError: Redis takes nothing for now, or no connection; the call was not carried out.
            StoreUnavailableError: Redis is away, or still loading; whether it was carried out isn't known.
        """
        try:
            return call.load(self._ask_briefly(call.args))
        except redis.RedisError as exc:
            tell_absence(exc)

    def _ask_briefly(self, args: Args) -> Any:
        try:
            return self._ask(_brief(args))
        except redis.exceptions.NoScriptError:
            return self._ask(args)

    def _ask(self, args: Args) -> Any:
        """Do what the client does, but for what isn't wanted here: to try again, to look at each argument, to count.

        The connections are the client's, which closes them. Some are kept here as long as nothing goes wrong; not more,
        or after many calls at once none would be left for whoever uses the client beside this.
        """
        connection = self._take()
        try:
            connection.send_packed_command([pack(args)])  # type: ignore[no-untyped-call]
            reply = connection.read_response()
        except BaseException:
            self._client.connection_pool.release(connection)
            raise
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            self._client.connection_pool.release(connection)
        return reply

    def _take(self) -> redis.Connection:
        """Take an idle connection; one on which anything has come meanwhile, such as its end, is made anew.

        Raises:
            StoreRefusedError: There is none to be had.
        """
        while self._idle:
            connection = self._idle.pop()
            if not _is_stale(connection):
                return connection
            self._client.connection_pool.release(connection)
        try:
            return self._client.connection_pool.get_connection()
        except _GONE as exc:
            raise StoreRefusedError("The data store is not reachable at the moment") from exc

    def run_both(self, first: Call[T], second: Call[U]) -> tuple[T, U]:
        """Run two calls in one round trip.

        Raises:
            StoreUnavailableError: Redis is away, or still loading.
        """
        return self.run(both(first, second))


class AsyncStore:
    """Runs calls on an asyncio Redis client. Those that are made while others are under way travel together."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._lines = Lines(client)
        self._waiting: list[_Passenger] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, call: Call[T]) -> T:
        """Run one call.

        Raises:
            StoreUnavailableError: Redis is away, or still loading.
        """
        passenger = call, asyncio.get_running_loop().create_future()
        if _is_bulky(call):
            self._depart([passenger])
        else:
            self._waiting.append(passenger)
            if len(self._under_way) < _TRIPS_AT_ONCE:
                self._depart(None)
        return call.load(await passenger[1])

    async def close(self) -> None:
        """Let what is under way arrive; each trip has its time-outs."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _depart(self, passengers: "list[_Passenger] | None") -> None:
        trip = asyncio.create_task(self._travel(passengers))
        self._under_way.add(trip)
        trip.add_done_callback(self._arrive)

    def _arrive(self, trip: "asyncio.Task[None]") -> None:
        self._under_way.discard(trip)
        if self._waiting and not trip.cancelled():
            self._depart(None)

    async def _travel(self, passengers: "list[_Passenger] | None") -> None:
        """Run calls in one round trip: those given, or all that wait when it begins."""
        if passengers is None:
            passengers, self._waiting = self._waiting, []
        replies = await self._ask_briefly([call.args for call, _ in passengers])
        for (_, future), reply in zip(passengers, replies, strict=True):
            if future.done():
                continue  # its caller has gone
            if isinstance(reply, redis.RedisError) and is_away(reply):
                future.set_exception(_meant_by(reply))
            elif isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    async def _ask_briefly(self, commands: Sequence[Args]) -> list[Any]:
        replies = await self._ask([_brief(args) for args in commands])
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        if unknown:
            in_full = await self._ask([commands[i] for i in unknown])
            for i, reply in zip(unknown, in_full, strict=True):
                replies[i] = reply
        return replies

    async def _ask(self, commands: Sequence[Args]) -> list[Any]:
        """Send commands together; what has no reply, because Redis is away, gets the error."""
        try:
            return await self._lines.ask(commands)
        except Exception as exc:  # noqa: BLE001 - each caller gets it
            return [exc for _ in commands]


class PatientStore:
    """Runs calls that wait within Redis, on an asyncio client: each travels alone, on a connection of its own."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client

    async def run(self, call: Call[T]) -> T:
        """Run one call.

        Raises:
            StoreUnavailableError: Redis is away, or still loading.
        """
        try:
            return call.load(await self._client.execute_command(*call.args))  # type: ignore[no-untyped-call]
        except redis.RedisError as exc:
            tell_absence(exc)


def _is_stale(connection: redis.Connection) -> bool:
    """Tell whether a connection can't be used as it is, and close it then."""
    try:
        if not connection.can_read():
            return False
    except redis.ConnectionError:
        pass
    connection.disconnect()  # type: ignore[no-untyped-call]
    return True


_Passenger = tuple[Call[Any], "asyncio.Future[Any]"]
_GONE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
_TAKES_NOTHING = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)

_TRIPS_AT_ONCE = 2
_BULKY_BYTES = 64 * 1024
_MOST_IDLE = 16


def _is_bulky(call: Call[Any]) -> bool:
    return any(isinstance(part, bytes) and len(part) > _BULKY_BYTES for part in call.args)


def _brief(args: Args) -> Args:
    """Write a command without the text of its script, which Redis knows by its digest once it has run it.

    If it doesn't, it answers NOSCRIPT and has done nothing. Source: Redis docs, EVALSHA.
    """
    return ("EVALSHA", _digest(str(args[1])), *args[2:]) if args[0] == "EVAL" else args


@functools.cache
def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def is_away(exc: redis.RedisError) -> bool:
    """Tell whether Redis can't be used for now: it doesn't answer, or is loading, or takes nothing."""
    return isinstance(exc, _GONE) or _takes_nothing(exc)


def _takes_nothing(exc: redis.RedisError) -> bool:
    """Tell whether Redis refuses to write.

    Source: Redis docs. OOM: maxmemory is reached. READONLY: it is a replica. MISCONF: what it takes can't be written to
    its disk, because that is full for instance.
    """
    return isinstance(exc, _TAKES_NOTHING) or "MISCONF " in str(exc)


def tell_absence(exc: redis.RedisError) -> NoReturn:
    """Raise an error of the Redis client as what it means.

    Raises:
        StoreRefusedError: Redis takes nothing for now. Of a transaction that writes nothing is done: Redis refuses
            the whole (Redis docs, Transactions).
        StoreUnavailableError: Redis can't be used for now.
        RedisError: Anything else: the very same.
    """
    if _takes_nothing(exc):
        raise StoreRefusedError from exc
    if is_away(exc):
        raise StoreUnavailableError from exc
    raise exc


def _meant_by(exc: redis.RedisError) -> StoreUnavailableError:
    try:
        tell_absence(exc)
    except StoreUnavailableError as meant:
        return meant


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


PACK = """
local function pack(key)
  local flat, fields = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return cmsgpack.pack(fields)
end
"""
"""Start of a script that tells records: binds ``pack(key)``, which makes a MessagePack map of a hash."""


def both(first: Call[T], second: Call[U]) -> Call[tuple[T, U]]:
    """Make one call of two, carried out one after the other with nothing in between."""
    call = all_of((first, second))
    return Call(call.args, lambda replies: tuple(call.load(replies)))


def all_of(calls: Sequence[Call[Any]], *, only_if: Sequence[Call[bool]] = ()) -> Call[list[Any]]:
    """Make one call of several, carried out one after the other with nothing in between.

    Where Redis takes nothing for now, the first that would write ends all of it.

    Args:
        calls: The calls.
        only_if: Scripts carried out before them. The first that doesn't return 1 ends all of it.

    Returns:
        A call that tells what each of ``only_if`` and then of ``calls`` told, as far as it came.
    """
    everything = (*only_if, *calls)
    parts = [_as_script(call) for call in everything]
    text = _together(tuple(part for part, _ in parts), tuple(len(args) for _, args in parts), len(only_if))

    def load(replies: Any) -> list[Any]:
        return [call.load(reply) for call, reply in zip(everything, replies, strict=False)]

    return script(text, *(arg for _, args in parts for arg in args), load=load)


@functools.cache
def _together(parts: tuple[str, ...], counts: tuple[int, ...], conditions: int) -> str:
    """Write a script of several, each of which has so many arguments, and the first so many of which are conditions."""
    functions = "\n".join(f"local function part{i}(ARGV) {part} end" for i, part in enumerate(parts, 1))
    steps = []
    for i, (count, end) in enumerate(zip(counts, accumulate(counts), strict=True), 1):
        steps.append(f"told[{i}] = part{i}({{unpack(ARGV, {end - count + 1}, {end})}}) or false")
        if i <= conditions:
            steps.append(f"if told[{i}] ~= 1 then return told end")
    return "\n".join([functions, "local told = {}", *steps, "return told"])


def _as_script(call: Call[Any]) -> tuple[str, Args]:
    if call.args[0] == "EVAL":
        return str(call.args[1]), call.args[3:]
    return "return redis.call(unpack(ARGV))", call.args


def flat(fields: Mapping[str, str]) -> str:
    """Write hash fields as the JSON array that a script unpacks into ``HSET``.

    Half a surrogate pair, which a guest's words may hold and UTF-8 can't, becomes ``?``.
    """
    parts = [part for pair in fields.items() for part in pair]
    try:
        return orjson.dumps(parts).decode()
    except TypeError:
        return json.dumps(parts, ensure_ascii=False).encode(errors="replace").decode()


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
