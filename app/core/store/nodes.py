"""Nodes in the store: a node is alive while its worker beats."""

import json

from app.core.codec import decode, encode
from app.core.records import Node
from app.core.store.calls import Call, nothing, script

TTL_S = 10
"""A node whose heartbeat is older than this is away, and its VMs read ``unknown``."""


_BEAT = """
redis.call('SET', 'ownup:node:' .. ARGV[1], ARGV[2], 'EX', ARGV[3])
return redis.call('SADD', 'ownup:nodes', ARGV[1])
"""


def beat(node: Node) -> Call[bool]:
    """Say that a node's worker is alive, for the next ``TTL_S`` seconds; tells whether the store has never seen it."""
    return script(_BEAT, node.name, json.dumps(encode(node)), TTL_S, load=bool)


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
