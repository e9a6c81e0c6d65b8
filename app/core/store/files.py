"""Files on their way between web and worker: chunks through two short lists, one of which says how far they have come.

A transfer has the id of its command. Its bytes travel in one list, what the receiver says of them in the other. At most
``WINDOW_CHUNKS`` are under way; the sender goes on when the receiver has done with one. Messages are numbered, so that
one that Redis lost, or took twice, is noticed: a transfer is broken off then, never mended. Whatever is left expires.

Knows neither HTTP nor guests.
"""

import struct
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from app.core.errors import TransferBrokenError
from app.core.store.calls import Call, nothing, script

CHUNK_BYTES = 128 * 1024
"""One chunk is one request to a guest's agent, which serves nobody else meanwhile."""
WINDOW_CHUNKS = 8

_HEAD = struct.Struct(">Ic")
_PUT = """
local lane = 'ownup:file:' .. ARGV[1]
redis.call('RPUSH', lane, ARGV[2])
return redis.call('EXPIRE', lane, ARGV[3])
"""


class Lane(StrEnum):
    """One of the two lists of a transfer."""

    BYTES = "bytes"
    """From who has the file."""
    WORD = "word"
    """From who gets it."""


class MessageKind(Enum):
    """What a message says."""

    SIZE = b"s"
    """How long the file will be, in decimal digits; nothing where that isn't known. Goes first, if it goes at all."""
    CHUNK = b"c"
    """Bytes of the file."""
    DONE = b"d"
    """That was all: the SHA-256 of all bytes. From the receiver: a chunk is done with."""
    BROKEN = b"b"
    """There will be nothing more; why, for people."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a transfer.

    Attributes:
        number: How many have gone before it on its lane.
        kind: What it says.
        payload: What goes with it.
    """

    number: int
    kind: MessageKind
    payload: bytes = field(default=b"", repr=False)


class Incoming:
    """Looks at the messages of one lane as they come."""

    def __init__(self) -> None:
        self._number = 0

    def check(self, message: Message) -> Message:
        """Let a message pass if it is the next one.

        Raises:
            TransferBrokenError: It isn't, or it says that there will be nothing more.
        """
        if message.kind is MessageKind.BROKEN:
            raise TransferBrokenError(message.payload.decode(errors="replace"))
        if message.number != self._number:
            raise TransferBrokenError("a part of it was lost in the data store")
        self._number += 1
        return message


def put(transfer_id: str, lane: Lane, message: Message, *, ttl_s: int) -> Call[None]:
    """Send a message; who doesn't fetch it in time never gets it."""
    packed = _HEAD.pack(message.number, message.kind.value) + message.payload
    return script(_PUT, f"{transfer_id}:{lane}", packed, ttl_s, load=nothing)


def take(transfer_id: str, lane: Lane, *, wait_s: float) -> Call[Message | None]:
    """Wait for the next message and take it; ``None`` if none comes in time.

    The call waits within Redis: it must have a connection of its own.
    """

    def load(reply: list[bytes] | None) -> Message | None:
        if reply is None:
            return None
        number, kind = _HEAD.unpack_from(reply[1])
        return Message(number, MessageKind(kind), reply[1][_HEAD.size :])

    return Call(("BLPOP", f"ownup:file:{transfer_id}:{lane}", wait_s), load)


def forget(transfer_id: str, lane: Lane) -> Call[None]:
    """Remove what is left on a lane."""
    return Call(("DEL", f"ownup:file:{transfer_id}:{lane}"), nothing)
