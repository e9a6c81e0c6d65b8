"""All the ways in which the far end may fail its client. Each has a name and does one thing.

None of them is needed for an honest agent. What else can happen to a client (an agent that hangs, dies, restarts, or
has an RPC disabled) is no misbehaviour but a method or attribute of `FakeAgent`.
"""

import asyncio
import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from lab.fake_agent.chardev import CHUNK_BYTES
from lab.fake_agent.exchange import Behaviour, Exchange, Honest

OLD_CLIENTS_REPLY = b'{"return": {"pid": 103}, "id": "__qmp#00000"}\n'


# --- when -------------------------------------------------------------------------------------------------------------
class Script(Behaviour):
    """Chooses by the name of the RPC; honest for all that has no entry. `*` stands for these."""

    def __init__(self, parts: Mapping[str, Behaviour]) -> None:
        self._parts = parts
        self._otherwise = parts.get("*", Honest())

    async def attend(self, exchange: Exchange) -> None:
        """Let the RPC's own behaviour attend."""
        await self._parts.get(exchange.rpc, self._otherwise).attend(exchange)


class First(Behaviour):
    """Misbehaves for the first `count` requests, then is honest."""

    def __init__(self, count: int, misbehaviour: Behaviour) -> None:
        self._left = count
        self._misbehaviour = misbehaviour
        self._honest = Honest()

    async def attend(self, exchange: Exchange) -> None:
        """Count down."""
        self._left -= 1
        await (self._misbehaviour if self._left >= 0 else self._honest).attend(exchange)


# --- no reply, or not in time -----------------------------------------------------------------------------------------
class Deaf(Behaviour):
    """Neither does it nor answers."""

    async def attend(self, exchange: Exchange) -> None:
        """Do nothing."""


class Mute(Behaviour):
    """Does it and never says so: the caller can't know."""

    async def attend(self, exchange: Exchange) -> None:
        """Perform only."""
        await exchange.perform()


class Late(Behaviour):
    """Does it at once and says so after a while, which holds up all that was asked later."""

    def __init__(self, delay_s: float = 5) -> None:
        self._delay_s = delay_s

    async def attend(self, exchange: Exchange) -> None:
        """Perform, wait, reply."""
        line = await exchange.line()
        await asyncio.sleep(self._delay_s)
        await exchange.port.write(line)


class Held(Behaviour):
    """Does it at once and says so when `released` is set."""

    def __init__(self, released: asyncio.Event) -> None:
        self._released = released

    async def attend(self, exchange: Exchange) -> None:
        """Perform, wait, reply."""
        line = await exchange.line()
        await self._released.wait()
        await exchange.port.write(line)


# --- the right bytes, oddly cut ---------------------------------------------------------------------------------------
class InPieces(Behaviour):
    """Sends the reply in up to `count` pieces, with a pause between, so that a reader gets them one by one."""

    def __init__(self, count: int = 20, pause_s: float = 0.001) -> None:
        self._count = count
        self._pause_s = pause_s

    async def attend(self, exchange: Exchange) -> None:
        """Perform, then reply by and by."""
        line = await exchange.line()
        step = max(1, len(line) // self._count)
        for start in range(0, len(line), step):
            await exchange.port.write(line[start : start + step])
            await asyncio.sleep(self._pause_s)


class InPairs(Behaviour):
    """Keeps each first reply and sends it together with the second, in one write."""

    def __init__(self) -> None:
        self._kept = b""

    async def attend(self, exchange: Exchange) -> None:
        """Keep a reply, or send two."""
        line = await exchange.line()
        pair, self._kept = (self._kept + line, b"") if self._kept else (b"", line)
        await exchange.port.write(pair)


class Twice(Behaviour):
    """Sends the reply twice, in one write."""

    async def attend(self, exchange: Exchange) -> None:
        """Perform once, reply twice."""
        await exchange.port.write(await exchange.line() * 2)


class HangUpBefore(Behaviour):
    """Does it, then the stream ends."""

    async def attend(self, exchange: Exchange) -> None:
        """Perform and hang up."""
        await exchange.perform()
        exchange.port.hang_up()


class HangUpWithin(Behaviour):
    """Does it, says half of it, then the stream ends."""

    async def attend(self, exchange: Exchange) -> None:
        """Perform, reply by half, hang up."""
        line = await exchange.line()
        await exchange.port.write(line[: len(line) // 2])
        exchange.port.hang_up()


class HangUpAfter(Behaviour):
    """Answers, then the stream ends."""

    async def attend(self, exchange: Exchange) -> None:
        """Perform, reply, hang up."""
        await exchange.port.write(await exchange.line())
        exchange.port.hang_up()


# --- other bytes than the reply ---------------------------------------------------------------------------------------
class JunkBefore(Behaviour):
    """Sends `junk` ahead of the reply; by default what an earlier client was owed."""

    def __init__(self, junk: bytes = OLD_CLIENTS_REPLY) -> None:
        self._junk = junk

    async def attend(self, exchange: Exchange) -> None:
        """Write junk, then perform and reply."""
        await exchange.port.write(self._junk + await exchange.line())


class EndlessLine(Behaviour):
    """Sends a line that never ends, until the client that asked has been succeeded by another."""

    async def attend(self, exchange: Exchange) -> None:
        """Write on and on."""
        while not exchange.asker_left:
            await exchange.port.write(b"x" * CHUNK_BYTES)


class HugeJson(Behaviour):
    """Sends a reply of `size_bytes` that is good JSON, without ever holding it in memory."""

    def __init__(self, size_bytes: int = 200_000_000) -> None:
        self._size_bytes = size_bytes

    async def attend(self, exchange: Exchange) -> None:
        """Write until it is done, or until another client would get it."""
        await exchange.port.write(b'{"return": {"out-data": "')
        for _ in range(self._size_bytes // CHUNK_BYTES):
            if exchange.asker_left:
                return
            await exchange.port.write(b"A" * CHUNK_BYTES)
        await exchange.port.write(b'"}, "id": %b}\n' % _dumped(exchange.request_id))


class DeepJson(Behaviour):
    """Sends a reply of lists within lists, `depth` deep."""

    def __init__(self, depth: int = 100_000) -> None:
        self._depth = depth

    async def attend(self, exchange: Exchange) -> None:
        """Write it."""
        nest = b"[" * self._depth + b"]" * self._depth
        await exchange.port.write(b'{"return": %b, "id": %b}\n' % (nest, _dumped(exchange.request_id)))


# --- the reply, falsified ---------------------------------------------------------------------------------------------
class Falsified(Behaviour):
    """Does it, and says something else."""

    async def attend(self, exchange: Exchange) -> None:
        """Perform and reply with the body changed."""
        reply = await exchange.perform()
        if reply:
            reply.body = self.falsified(reply.body)
            await exchange.port.write(reply.encode())

    @abstractmethod
    def falsified(self, body: dict[str, Any]) -> object:
        """Return what is sent instead of `body`."""


class WrongSyncId(Falsified):
    """Answers a sync with a number next to the right one."""

    def falsified(self, body: dict[str, Any]) -> object:
        """Change the number."""
        return body | {"return": body["return"] + 1}


class ErrorWithoutClass(Falsified):
    """Answers with an error that lacks its class."""

    def falsified(self, body: dict[str, Any]) -> object:
        """Keep only the id."""
        return {"error": {"desc": "something went wrong"}, "id": body.get("id")}


class NotAnObject(Falsified):
    """Answers with a list."""

    def falsified(self, body: dict[str, Any]) -> object:
        """Wrap the reply."""
        return [body]


class ForeignId(Falsified):
    """Answers with an id that nobody asked with."""

    def falsified(self, body: dict[str, Any]) -> object:
        """Change the id."""
        return body | {"id": "nobody-asked"}


class OldTruncationFlags(Falsified):
    """Flags cut output as agents did from 2.5 to 10.1: the key stands there only then, and says false."""

    def falsified(self, body: dict[str, Any]) -> object:
        """Change the flags of a `guest-exec-status`."""
        result = body.get("return")
        if not isinstance(result, dict):
            return body
        return body | {"return": {key: value for key, value in map(_old_flag, result.items()) if value is not None}}


def _old_flag(item: tuple[str, Any]) -> tuple[str, Any]:
    key, value = item
    return (key, False if value else None) if key.endswith("-truncated") else item


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


NAMED: Mapping[str, type[Behaviour]] = {
    "deaf": Deaf,
    "mute": Mute,
    "late": Late,
    "in-pieces": InPieces,
    "in-pairs": InPairs,
    "twice": Twice,
    "hang-up-before": HangUpBefore,
    "hang-up-within": HangUpWithin,
    "hang-up-after": HangUpAfter,
    "junk-before": JunkBefore,
    "endless-line": EndlessLine,
    "huge-json": HugeJson,
    "deep-json": DeepJson,
    "wrong-sync-id": WrongSyncId,
    "error-without-class": ErrorWithoutClass,
    "not-an-object": NotAnObject,
    "foreign-id": ForeignId,
    "old-truncation-flags": OldTruncationFlags,
}
