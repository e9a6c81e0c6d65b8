"""Agents that mean harm: bytes without end, replies that cost their reader far more than their sender.

Each plants `MARK` in what it sends, so that a test can look for it where a guest's bytes must never be found.
"""

import asyncio
import base64
import json
from collections.abc import Mapping

from lab.fake_agent.exchange import Behaviour, Exchange

MARK = b"planted-by-the-guest"
BLOCK_BYTES = 32 * 1024
SLOT_BYTES = 320 * 1024


class Endless(Behaviour):
    """Answers as it should or not at all, then sends `block` again and again, until another client is served."""

    def __init__(self, block: bytes, *, answers: bool) -> None:
        self._block = block * max(1, BLOCK_BYTES // len(block))
        self._answers = answers

    async def attend(self, exchange: Exchange) -> None:
        """Reply, or don't, and write on and on."""
        if self._answers:
            await exchange.port.write(await exchange.line())
        while not exchange.asker_left:
            await exchange.port.write(self._block)


class Flood(Endless):
    """Answers, then floods its client with small replies that nobody asked for."""

    def __init__(self) -> None:
        super().__init__(b'{"return": {}, "id": "%b"}\n' % MARK, answers=True)


class JunkForEver(Endless):
    """Sends junk instead of an answer, without end, in lines each of which might begin a reply to a sync."""

    def __init__(self) -> None:
        super().__init__(b"\xff\n" * 500 + MARK + b"\n", answers=False)


class NewlinesForEver(Endless):
    """Sends empty lines instead of an answer, without end."""

    def __init__(self) -> None:
        super().__init__(b"\n" * 4000 + MARK + b"\n", answers=False)


class EventsForEver(Behaviour):
    """Sends events that bear the id of the request, without end, so that they seem to be asked for."""

    async def attend(self, exchange: Exchange) -> None:
        """Write on and on."""
        event = {"event": MARK.decode(), "id": exchange.request_id, "timestamp": {"seconds": 0, "microseconds": 0}}
        lines = json.dumps(event).encode() + b"\n"
        while not exchange.asker_left:
            await exchange.port.write(lines * 100)


class ManyValues(Behaviour):
    """Sends a reply of `size_bytes` in which almost each byte is a value of its own."""

    def __init__(self, size_bytes: int = 64 * 1024 * 1024 - 4096) -> None:
        self._size_bytes = size_bytes

    async def attend(self, exchange: Exchange) -> None:
        """Write it, without ever holding it."""
        await exchange.port.write(b'{"return": ["%b"' % MARK)
        for _ in range(self._size_bytes // BLOCK_BYTES):
            if exchange.asker_left:
                return
            await exchange.port.write(b",[]" * (BLOCK_BYTES // 3) + b"  ")
        await exchange.port.write(b'], "id": %b}\n' % json.dumps(exchange.request_id).encode())


class GiantResult(Behaviour):
    """Says that the program has exited and wrote more than any agent keeps: `size_bytes` of base64."""

    def __init__(self, size_bytes: int = 60_000_000, *, spoilt: bytes = b"") -> None:
        self._size_bytes = size_bytes
        self._spoilt = spoilt

    async def attend(self, exchange: Exchange) -> None:
        """Write it, without ever holding it."""
        block = base64.b64encode(MARK * (BLOCK_BYTES // len(MARK) // 3 * 3))
        await exchange.port.write(b'{"return": {"exited": true, "exitcode": 0, "out-data": "' + self._spoilt)
        for _ in range(self._size_bytes // len(block)):
            if exchange.asker_left:
                return
            await exchange.port.write(block)
        await exchange.port.write(b'"}, "id": %b}\n' % json.dumps(exchange.request_id).encode())


class BadResult(GiantResult):
    """Says the same, in something like base64."""

    def __init__(self) -> None:
        super().__init__(spoilt=b"&" + MARK)


class Trickle(Behaviour):
    """Sends the beginning of a long reply at once, and goes on with a byte now and then, without end."""

    async def attend(self, exchange: Exchange) -> None:
        """Write on and on, slowly."""
        await exchange.port.write(b'{"return": {"exited": true, "out-data": "' + MARK * (SLOT_BYTES // len(MARK)))
        while not exchange.asker_left:
            await exchange.port.write(b"A")
            await asyncio.sleep(0.01)


class FatFile(Behaviour):
    """Answers a read of a few bytes with megabytes of one-letter words."""

    async def attend(self, exchange: Exchange) -> None:
        """Write it."""
        data = base64.b64encode(b"1 (" + MARK + b") " + b"a " * 20_000_000).decode()
        body = {"return": {"count": 512, "buf-b64": data, "eof": False}, "id": exchange.request_id}
        await exchange.port.write(json.dumps(body).encode() + b"\n")


class RefusalWithText(Behaviour):
    """Refuses, in words of its own."""

    async def attend(self, exchange: Exchange) -> None:
        """Write an error."""
        error = {"class": MARK.decode(), "desc": f"{MARK.decode()}\nlevel=error event=forged " + "z" * 100_000}
        await exchange.port.write(json.dumps({"error": error, "id": exchange.request_id}).encode() + b"\n")


HOSTILE: Mapping[str, type[Behaviour]] = {
    "flood": Flood,
    "junk-for-ever": JunkForEver,
    "newlines-for-ever": NewlinesForEver,
    "events-for-ever": EventsForEver,
    "many-values": ManyValues,
    "giant-result": GiantResult,
    "bad-result": BadResult,
    "trickle": Trickle,
    "fat-file": FatFile,
    "refusal-with-text": RefusalWithText,
}
