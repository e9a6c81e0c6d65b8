"""All that a Redis holds, as bytes to search in: each value of each type, and unpacked what is packed."""

from collections.abc import Callable, Iterator
from typing import Any

import redis

from tests.canaries import unpacked

_READ: dict[bytes, Callable[[Any, bytes], Any]] = {
    b"string": lambda client, key: client.get(key),
    b"hash": lambda client, key: client.hgetall(key),
    b"list": lambda client, key: client.lrange(key, 0, -1),
    b"set": lambda client, key: client.smembers(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1),
    b"stream": lambda client, key: client.xrange(key),
}


def everything_in(client: redis.Redis) -> bytes:
    """Read every key and value; what RQ or the store has compressed is there as it is, and uncompressed."""
    return b"\n".join(layer for _, part in parts_in(client) for layer in unpacked(part))


def parts_in(client: redis.Redis) -> Iterator[tuple[str, bytes]]:
    """Read every key, and each part of its value with it; what expires meanwhile is left out."""
    for key in client.scan_iter():
        kind = client.type(key)
        parts = () if kind == b"none" else _flat(_READ[kind](client, key))
        yield from ((key.decode(errors="replace"), part) for part in (key, *parts))


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from (part for pair in value.items() for each in pair for part in _flat(each))
    elif isinstance(value, list | tuple | set):
        yield from (part for each in value for part in _flat(each))
