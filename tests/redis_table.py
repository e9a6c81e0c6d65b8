"""What each key of the one Redis is allowed: whether it may stay for ever, and which planted secrets it may hold.

A key without a row is a complaint: who adds one says here how it goes away and what may be in it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

import redis

_FOREVER = -1
_ID = "[0-9a-f-]{36}"


class Life(Enum):
    """How a key goes away."""

    EXPIRES = auto()
    """It has a TTL from its first moment."""
    WHILE_OPEN = auto()
    """It has one from the end of what it is about."""
    KEPT = auto()
    """It stays until somebody removes what it is about, or is of bounded size."""


@dataclass(frozen=True)
class Row:
    """A kind of key.

    Attributes:
        pattern: What its name looks like, as a whole.
        life: How it goes away.
        may_hold: How the names of those canaries begin that may be in it.
    """

    pattern: str
    life: Life
    may_hold: tuple[str, ...] = ()

    def fits(self, key: str) -> bool:
        return re.fullmatch(self.pattern, key) is not None


ROWS = (
    Row(f"ownup:cmd:{_ID}", Life.WHILE_OPEN),
    Row(f"ownup:cmd:{_ID}:request", Life.EXPIRES, ("stdin", "env", "line")),
    Row(f"ownup:cmd:{_ID}:(out|err|parts|parts:new)", Life.EXPIRES, ("output", "file")),
    Row(r"ownup:pid:\d+:\d+", Life.WHILE_OPEN),
    Row(r"ownup:vm:\d+", Life.KEPT),
    Row(r"ownup:vm:\d+:pid", Life.KEPT),
    Row(r"ownup:vm:\d+:(commands|open)", Life.KEPT),
    Row(r"ownup:vm:\d+:(snapshots|notes)", Life.KEPT),
    Row(r"ownup:metrics:[^:]+:\d+:(hour|day|week|month|year)", Life.EXPIRES),
    Row(r"ownup:disks:[^:]+:\d+", Life.EXPIRES),
    Row(r"ownup:account:[^:]+:(vms|sshkeys|keys|revoked)", Life.KEPT),
    Row(r"ownup:(vms|nodes|accounts|sshkeys:last)", Life.KEPT),
    Row(r"ownup:node:[^:]+", Life.EXPIRES),
    Row(r"ownup:node:[^:]+:(open|jobs)", Life.KEPT),
    Row(r"ownup:job:[a-z_]+-\d+-\d+", Life.WHILE_OPEN),
    Row(f"ownup:file:{_ID}:bytes", Life.EXPIRES, ("file",)),
    Row(f"ownup:file:{_ID}:word", Life.EXPIRES),
    Row(f"ownup:call:{_ID}", Life.EXPIRES),
    Row(f"ownup:call:{_ID}:secret", Life.EXPIRES, ("password",)),
    Row("ownup:key:[0-9a-f]{16}", Life.KEPT),
    Row("ownup:key:([0-9a-f]{16})?:open", Life.KEPT),
    Row("ownup:token:[0-9a-f]{64}", Life.EXPIRES),
    Row(r"ownup:idem:[^:]+:\d+:[0-9a-f]{64}", Life.EXPIRES),
    Row("ownup:limit:.+", Life.EXPIRES),
    Row("ownup:audit(:head|:open)?", Life.KEPT),
    Row("rq:(queues|workers)", Life.KEPT),
    Row("rq:(queue|workers|wip|failed|finished):node-.+", Life.KEPT),
    Row("rq:worker:.+", Life.EXPIRES),
    Row(f"rq:job:{_ID}", Life.KEPT),
    Row("rq:executions:.+", Life.KEPT),
    Row("rq:execution:.+", Life.EXPIRES),
    Row("rq:results:.+", Life.EXPIRES),
    Row("rq:clean_(groups|registries:.+)", Life.EXPIRES),
)


def row_of(key: str) -> Row | None:
    """Find the row of a key; two that fit are a defect of this table."""
    fitting = [row for row in ROWS if row.fits(key)]
    assert len(fitting) <= 1, f"{key} has {len(fitting)} rows"
    return fitting[0] if fitting else None


def complaints(client: redis.Redis) -> Iterator[str]:
    """Hold every key there is against the table."""
    for raw in client.scan_iter():
        key = raw.decode()
        row, ttl_s = row_of(key), client.ttl(raw)
        if row is None:
            yield f"{key} has no row"
        elif ttl_s == _FOREVER and (
            row.life is Life.EXPIRES or (row.life is Life.WHILE_OPEN and _is_over(client, key))
        ):
            yield f"{key} never expires"


def _is_over(client: redis.Redis, key: str) -> bool:
    """Tell whether what a key is about has ended."""
    if key.startswith("ownup:pid:"):
        key = f"ownup:cmd:{client.get(key).decode()}"
        return not client.exists(key) or client.hexists(key, "ended_at")
    return client.hexists(key, "ended_at") or client.hexists(key, "finished_at")
