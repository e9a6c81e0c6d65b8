"""Reads, straight from Redis, every command record that a fault run has left, with the output that is kept of it."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import redis
import zstandard

from app.core.records import Command
from app.core.store import Store, commands
from lab.definitions import ACCOUNT
from tests.faults.plan import Order

_KEY = re.compile(r"ownup:cmd:([0-9a-f-]{36})")


@dataclass(frozen=True)
class Record:
    """One command as Redis holds it."""

    command: Command
    stdout: bytes
    stderr: bytes


def read_all(client: redis.Redis) -> list[Record]:
    """Read every record there is."""
    return list(_read(client))


def _read(client: redis.Redis) -> Iterator[Record]:
    store = Store(client)
    for key in client.scan_iter("ownup:cmd:*", count=1000):
        if match := _KEY.fullmatch(key.decode()):
            command = store.run(commands.find(match[1]))
            assert command is not None, match[1]
            yield Record(command, _output(client, match[0], "out"), _output(client, match[0], "err"))


def _output(client: redis.Redis, key: str, stream: str) -> bytes:
    parts = client.hgetall(f"{key}:parts")
    if parts:
        return b"".join(_unpack(parts[f"{stream}{i}".encode()]) for i in range(int(parts[stream.encode()])))
    stored = client.get(f"{key}:{stream}")
    return _unpack(stored) if isinstance(stored, bytes) else b""


def _unpack(stored: bytes) -> bytes:
    is_packed = stored.startswith(zstandard.FRAME_HEADER)
    return zstandard.ZstdDecompressor().decompress(stored) if is_packed else stored


def list_open(client: redis.Redis, node: str) -> tuple[str, ...]:
    """List the ids of the commands that have not ended."""
    return Store(client).run(commands.list_open(node))


def find_by_key(client: redis.Redis, order: Order) -> str | None:
    """Find the id of the record that the Idempotency-Key of an order stands for."""
    digest = hashlib.sha256(order.token.encode()).hexdigest()
    found = client.hget(f"ownup:idem:{ACCOUNT}:{order.vmid}:{digest}", "command")
    return found.decode() if isinstance(found, bytes) else None
