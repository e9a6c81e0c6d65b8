"""Nodes in the store: a node is alive while its worker beats."""

import json
from dataclasses import dataclass
from typing import Any

from app.core.codec import decode, encode
from app.core.records import Node
from app.core.store.calls import Call, nothing, script

TTL_S = 10
"""A node whose heartbeat is older than this is away, and its VMs read ``unknown``."""


_BEAT = """
local key = 'ownup:node:' .. ARGV[1]
local present = redis.call('GET', key)
local worker = present and cjson.decode(present).worker
if worker and worker ~= ARGV[4] and worker ~= ARGV[5] then return worker end
redis.call('SET', key, ARGV[2], 'EX', ARGV[3])
return redis.call('SADD', 'ownup:nodes', ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat met.

    Attributes:
        taken_by: The other worker that speaks for this node, if there is one; then nothing was written.
        is_news: Whether the store has never seen this node, or has forgotten all it knew.
    """

    taken_by: str | None
    is_news: bool


def beat(node: Node, *, instead_of: str = "") -> Call[Beat]:
    """Say that a node's worker is alive, for the next ``TTL_S`` seconds.

    Args:
        node: The node, with the worker that speaks for it.
        instead_of: Another worker that is known to be dead, whose place this one takes at once.
    """
    return script(_BEAT, node.name, json.dumps(encode(node)), TTL_S, node.worker, instead_of, load=_load_beat)


def leave(node: str) -> Call[None]:
    """Say at once that a node's worker is going away."""
    return Call(("DEL", f"ownup:node:{node}"), nothing)


def list_alive() -> Call[tuple[Node, ...]]:
    """Read all nodes whose workers are alive."""
    return script(
        """
        local nodes = {}
        for i, name in ipairs(redis.call('SMEMBERS', 'ownup:nodes')) do
          local body = redis.call('GET', 'ownup:node:' .. name)
          if body then nodes[#nodes + 1] = body end
        end
        return nodes
        """,
        load=lambda reply: tuple(sorted((_load_node(body) for body in reply), key=lambda node: node.name)),
    )


def _load_node(body: bytes) -> Node:
    return decode(Node, {name.encode(): value.encode() for name, value in json.loads(body).items()})


def _load_beat(reply: Any) -> Beat:
    return Beat(taken_by=reply.decode() if isinstance(reply, bytes) else None, is_news=reply == 1)
