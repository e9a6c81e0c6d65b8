"""Snapshots of VMs in the store: told by the worker, who has them from QEMU; read by the web half in one round trip.

Which snapshots there are is QEMU's to say. What QEMU doesn't keep (who wanted one, and why) is a note beside it, which
goes when the snapshot goes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.core.codec import decode, encode
from app.core.records import Snapshot
from app.core.store.calls import Call, nothing, pairs, script
from app.core.store.sight import EVERYTHING, Sight, sees

LEFT_TTL_S = 30 * 24 * 3600
"""How long the notes of a VM that no node carries any more are kept, for the case that it comes back."""

_PUBLISH = """
local vm = 'ownup:vm:' .. ARGV[1]
local carrier = redis.call('HGET', vm, 'node')
if carrier and carrier ~= ARGV[2] and redis.call('EXISTS', 'ownup:node:' .. carrier) == 1 then return 0 end
redis.call('SET', vm .. ':snapshots', ARGV[3])
local names = {}
for i, name in ipairs(cjson.decode(ARGV[4])) do names[name] = true end
for i, name in ipairs(redis.call('HKEYS', vm .. ':notes')) do
  if not names[name] then redis.call('HDEL', vm .. ':notes', name) end
end
return redis.call('PERSIST', vm .. ':notes')
"""

_LEAVE = """
local vm = 'ownup:vm:' .. ARGV[1]
local carrier = redis.call('HGET', vm, 'node')
if carrier and carrier ~= ARGV[2] then return 0 end
redis.call('DEL', vm .. ':snapshots')
return redis.call('EXPIRE', vm .. ':notes', ARGV[3])
"""

_READ = f"""
{sees(2)}
local vm = 'ownup:vm:' .. ARGV[1]
if not sees(redis.call('HGET', vm, 'account') or '', ARGV[1]) then return {{false}} end
return {{redis.call('GET', vm .. ':snapshots'), redis.call('HGETALL', vm .. ':notes')}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSnapshots:
    """What the worker last knew of a VM's snapshots.

    Attributes:
        vmid: The VM.
        node: The node that carries it.
        limit: How many snapshots it may have.
        obstacle: Why its disks can't keep snapshots; ``None`` where they can.
        snapshots: Those it has, oldest first.
    """

    vmid: int
    node: str
    limit: int
    obstacle: str | None = None
    snapshots: tuple[Snapshot, ...] = ()


def publish(known: VmSnapshots) -> Call[None]:
    """Write which snapshots a VM has; does nothing if another living node carries the VM."""
    names = [snapshot.name for snapshot in known.snapshots]
    return script(_PUBLISH, known.vmid, known.node, _dump(known), json.dumps(names), load=nothing)


def note(vmid: int, name: str, description: str | None, key_id: str | None) -> Call[None]:
    """Write what is to be remembered of a snapshot; published without it, the note is dropped."""
    body = json.dumps({"description": description, "key_id": key_id})
    return Call(("HSET", f"ownup:vm:{vmid}:notes", name, body), nothing)


def leave(vmid: int, node: str) -> Call[None]:
    """Forget the snapshots of a VM that this node no longer carries, unless another one does."""
    return script(_LEAVE, vmid, node, LEFT_TTL_S, load=nothing)


def read(vmid: int, sight: Sight = EVERYTHING) -> Call[VmSnapshots | None]:
    """Read what is known of a VM's snapshots; ``None`` if no worker has told anything, or none are to be seen."""
    return script(_READ, vmid, sight.text, load=_load)


def _dump(known: VmSnapshots) -> str:
    items = [encode(snapshot) for snapshot in known.snapshots]
    return json.dumps(encode(replace(known, snapshots=())) | {"snapshots": json.dumps(items)})


def _load(reply: Any) -> VmSnapshots | None:
    if reply[0] is None:
        return None
    fields = json.loads(reply[0])
    notes = {name.decode(): json.loads(body) for name, body in pairs(reply[1]).items()}
    found = (decode(Snapshot, _raw(item)) for item in json.loads(fields.pop("snapshots")))
    snapshots = tuple(replace(snapshot, **notes.get(snapshot.name, {})) for snapshot in found)
    return replace(decode(VmSnapshots, _raw(fields)), snapshots=snapshots)


def _raw(fields: Mapping[str, str]) -> Mapping[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in fields.items()}
