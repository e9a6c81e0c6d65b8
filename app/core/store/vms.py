"""VMs in the store: published by the worker of their node, read by the web half."""

from dataclasses import dataclass
from typing import Any

from app.core.codec import decode, encode
from app.core.records import Vm
from app.core.store.calls import Call, flat, load_name, nothing, pairs, script

_PUBLISH = """
local vm = 'ownup:vm:' .. ARGV[1]
local old = redis.call('HMGET', vm, 'account', 'node')
if old[2] and old[2] ~= ARGV[3] and redis.call('EXISTS', 'ownup:node:' .. old[2]) == 1 then return old[2] end
if old[1] and old[1] ~= ARGV[2] then redis.call('SREM', 'ownup:account:' .. old[1] .. ':vms', ARGV[1]) end
redis.call('DEL', vm)
redis.call('HSET', vm, unpack(cjson.decode(ARGV[4])))
redis.call('SADD', 'ownup:account:' .. ARGV[2] .. ':vms', ARGV[1])
return false
"""

_REMOVE = """
local vm = 'ownup:vm:' .. ARGV[1]
local old = redis.call('HMGET', vm, 'account', 'node')
if old[2] ~= ARGV[2] then return 0 end
redis.call('SREM', 'ownup:account:' .. old[1] .. ':vms', ARGV[1])
return redis.call('DEL', vm)
"""

_READ = """
local vm = redis.call('HGETALL', 'ownup:vm:' .. ARGV[1])
if #vm == 0 then return false end
local node = redis.call('HGET', 'ownup:vm:' .. ARGV[1], 'node')
return {vm, redis.call('EXISTS', 'ownup:node:' .. node), redis.call('GET', 'ownup:vm:' .. ARGV[1] .. ':pid')}
"""

_LIST = """
local views = {}
for i, vmid in ipairs(redis.call('SMEMBERS', 'ownup:account:' .. ARGV[1] .. ':vms')) do
  local vm = redis.call('HGETALL', 'ownup:vm:' .. vmid)
  if #vm > 0 then
    local node = redis.call('HGET', 'ownup:vm:' .. vmid, 'node')
    views[#views + 1] = {vm, redis.call('EXISTS', 'ownup:node:' .. node), false}
  end
end
return views
"""

_LIST_PAGE = """
local function before(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local vmids = redis.call('SMEMBERS', 'ownup:account:' .. ARGV[1] .. ':vms')
table.sort(vmids, before)
local views = {}
for i, vmid in ipairs(vmids) do
  if #views == tonumber(ARGV[3]) then break end
  local vm = before(ARGV[2], vmid) and redis.call('HGETALL', 'ownup:vm:' .. vmid) or {}
  if #vm > 0 then
    local node = redis.call('HGET', 'ownup:vm:' .. vmid, 'node')
    views[#views + 1] = {vm, redis.call('EXISTS', 'ownup:node:' .. node), false}
  end
end
return views
"""
"""Compares vmids as texts: as numbers of Lua those above 2^53 would be rounded."""


@dataclass(frozen=True, slots=True)
class VmView:
    """A VM as the web half may show it.

    Attributes:
        vm: What its worker last knew.
        node_alive: Whether that worker still beats; if not, the rest is history.
        last_pid: Guest pid of its latest command; not read for lists.
    """

    vm: Vm
    node_alive: bool
    last_pid: int | None


def publish(vm: Vm) -> Call[str | None]:
    """Write what is known of a VM.

    Returns:
        A call that tells ``None``, or, with nothing written, the name of the living node that already has this vmid.
    """
    return script(_PUBLISH, vm.vmid, vm.account, vm.node, flat(encode(vm)), load=load_name)


def remove(vmid: int, node: str) -> Call[None]:
    """Forget a VM, if this node is the one that carries it."""
    return script(_REMOVE, vmid, node, load=nothing)


def read(vmid: int) -> Call[VmView | None]:
    """Read one VM with whether its node is alive."""
    return script(_READ, vmid, load=_load_view)


def list_owned(account: str) -> Call[tuple[VmView, ...]]:
    """Read all VMs of an account, by vmid."""
    return script(_LIST, account, load=_load_views)


def list_page(account: str, *, after: int, limit: int) -> Call[tuple[VmView, ...]]:
    """Read the next VMs of an account, by vmid, from the first one above ``after`` on."""
    return script(_LIST_PAGE, account, after, limit, load=_load_views)


def list_vmids(account: str) -> Call[frozenset[int]]:
    """List the vmids of an account, and nothing else of its VMs."""
    return Call(("SMEMBERS", f"ownup:account:{account}:vms"), lambda reply: frozenset(map(int, reply)))


def _load_view(reply: Any) -> VmView | None:
    if not reply:
        return None
    pid = int(reply[2]) if reply[2] else None
    return VmView(decode(Vm, pairs(reply[0])), node_alive=bool(reply[1]), last_pid=pid)


def _load_views(reply: Any) -> tuple[VmView, ...]:
    views = (view for view in map(_load_view, reply) if view)
    return tuple(sorted(views, key=lambda view: view.vm.vmid))
