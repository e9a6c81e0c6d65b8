"""VMs in the store: published by the worker of their node, read by the web half."""

from dataclasses import dataclass
from typing import Any

from app.core.codec import encode, unpack
from app.core.records import Vm
from app.core.store.calls import PACK, Call, flat, load_name, nothing, script
from app.core.store.sight import EVERYTHING, Sight, sees

_PUBLISH = """
local vm = 'ownup:vm:' .. ARGV[1]
local old = redis.call('HMGET', vm, 'account', 'node')
if old[2] and old[2] ~= ARGV[3] and redis.call('EXISTS', 'ownup:node:' .. old[2]) == 1 then return old[2] end
if old[1] and old[1] ~= ARGV[2] then redis.call('SREM', 'ownup:account:' .. old[1] .. ':vms', ARGV[1]) end
if not old[2] then
  for i, id in ipairs(redis.call('SMEMBERS', vm .. ':open')) do redis.call('HDEL', 'ownup:cmd:' .. id, 'vm_gone') end
end
redis.call('DEL', vm)
redis.call('HSET', vm, unpack(cjson.decode(ARGV[4])))
redis.call('SADD', 'ownup:account:' .. ARGV[2] .. ':vms', ARGV[1])
redis.call('SADD', 'ownup:vms', ARGV[1])
return false
"""

_REMOVE = """
local vm = 'ownup:vm:' .. ARGV[1]
local old = redis.call('HMGET', vm, 'account', 'node')
if old[2] ~= ARGV[2] then return 0 end
redis.call('SREM', 'ownup:account:' .. old[1] .. ':vms', ARGV[1])
redis.call('SREM', 'ownup:vms', ARGV[1])
redis.call('DEL', vm, vm .. ':pid')
if ARGV[3] ~= '1' then return 1 end
for i, id in ipairs(redis.call('ZRANGE', vm .. ':commands', 0, -1)) do
  local cmd = 'ownup:cmd:' .. id
  if redis.call('HEXISTS', cmd, 'ended_at') == 1 then
    local by_pid = 'ownup:pid:' .. ARGV[1] .. ':' .. (redis.call('HGET', cmd, 'pid') or '')
    if redis.call('GET', by_pid) == id then redis.call('DEL', by_pid) end
    redis.call('DEL', cmd, cmd .. ':out', cmd .. ':err', cmd .. ':parts')
  end
  if redis.call('EXISTS', cmd) == 0 then redis.call('ZREM', vm .. ':commands', id) end
end
for i, id in ipairs(redis.call('SMEMBERS', vm .. ':open')) do
  if redis.call('EXISTS', 'ownup:cmd:' .. id) == 1 then redis.call('HSET', 'ownup:cmd:' .. id, 'vm_gone', '1') end
end
return 1
"""
"""What has not ended yet is forgotten when it ends, unless its VM has come back by then (``_PUBLISH``)."""

_READ = f"""
{PACK}
{sees(2)}
local vm = 'ownup:vm:' .. ARGV[1]
local present = redis.call('HMGET', vm, 'account', 'node')
if not sees(present[1], ARGV[1]) then return false end
return {{pack(vm), redis.call('EXISTS', 'ownup:node:' .. present[2]), redis.call('GET', vm .. ':pid')}}
"""

_GLANCE = ("account", "node", "running", "agent_available")
REACH = f"""
local function glance(vm) return redis.call('HMGET', vm, {", ".join(f"'{name}'" for name in _GLANCE)}) end
local function reach(known)
  local is_alive = redis.call('EXISTS', 'ownup:node:' .. known[2]) == 1
  return {{is_alive and known[3], is_alive and known[4]}}
end
"""
"""Start of a script that tells a ``Reach``: binds ``glance(vm)``, its account first, and ``reach(glance)``."""

_IS_STILL = f"""
{REACH}
local present = glance('ownup:vm:' .. ARGV[1])
for i, known in ipairs(present) do if known ~= ARGV[i + 1] then return 0 end end
return redis.call('EXISTS', 'ownup:node:' .. ARGV[3])
"""

_SEEN_VMIDS = f"""
{sees(1)}
local function seen_vmids()
  local seen = {{}}
  local all = sight.account and 'ownup:account:' .. sight.account .. ':vms' or 'ownup:vms'
  for i, vmid in ipairs(redis.call('SMEMBERS', all)) do
    if sees(sight.account or '', vmid) then seen[#seen + 1] = vmid end
  end
  return seen
end
{PACK}
local function read(vmid)
  local node = redis.call('HGET', 'ownup:vm:' .. vmid, 'node')
  if not node then return nil end
  return {{pack('ownup:vm:' .. vmid), redis.call('EXISTS', 'ownup:node:' .. node), false}}
end
"""

_LIST = f"""
{_SEEN_VMIDS}
local views = {{}}
for i, vmid in ipairs(seen_vmids()) do views[#views + 1] = read(vmid) end
return views
"""

_LIST_PAGE = f"""
{_SEEN_VMIDS}
local function before(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local vmids = seen_vmids()
table.sort(vmids, before)
local views = {{}}
for i, vmid in ipairs(vmids) do
  if #views == tonumber(ARGV[3]) then break end
  if before(ARGV[2], vmid) then views[#views + 1] = read(vmid) end
end
return views
"""
"""Compares vmids as texts: as numbers of Lua those above 2^53 would be rounded."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether a command would reach a VM's guest now: all that is said of the VM beside the result of one.

    Attributes:
        running: As in ``Vm``; of a node that doesn't beat nobody knows it.
        agent_available: As in ``Vm``, likewise.
    """

    running: bool
    agent_available: bool


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

    @property
    def reach(self) -> Reach:
        """Whether a command would reach its guest."""
        return Reach(self.vm.running, self.vm.agent_available)


def publish(vm: Vm) -> Call[str | None]:
    """Write what is known of a VM.

    Returns:
        A call that tells ``None``, or, with nothing written, the name of the living node that already has this vmid.
    """
    return script(_PUBLISH, vm.vmid, vm.account, vm.node, flat(encode(vm)), load=load_name)


def remove(vmid: int, node: str, *, with_results: bool = True) -> Call[None]:
    """Forget a VM, if this node is the one that carries it.

    Args:
        vmid: The VM.
        node: The node.
        with_results: Whether its commands are forgotten too, with their output: those under way when they end.
    """
    return script(_REMOVE, vmid, node, int(with_results), load=nothing)


def read(vmid: int, sight: Sight = EVERYTHING) -> Call[VmView | None]:
    """Read one VM with whether its node is alive; ``None``: there is none to be seen."""
    return script(_READ, vmid, sight.text, load=_load_view)


def is_still(view: VmView) -> Call[bool]:
    """Tell whether all that matters to who sends a command is as it was read: whose the VM is, and its ``Reach``.

    A node that didn't beat counts as changed.
    """
    known = encode({name: getattr(view.vm, name) for name in _GLANCE})
    return script(_IS_STILL, view.vm.vmid, *known.values(), load=bool)


def list_seen(sight: Sight) -> Call[tuple[VmView, ...]]:
    """Read all VMs, by vmid."""
    return script(_LIST, sight.text, load=_load_views)


def list_page(sight: Sight, *, after: int, limit: int) -> Call[tuple[VmView, ...]]:
    """Read the next VMs, by vmid, from the first one above ``after`` on."""
    return script(_LIST_PAGE, sight.text, after, limit, load=_load_views)


def list_vmids(sight: Sight) -> Call[frozenset[int]]:
    """List vmids, and nothing else of the VMs."""
    return script(f"{_SEEN_VMIDS} return seen_vmids()", sight.text, load=lambda reply: frozenset(map(int, reply)))


def load_reach(reply: Any) -> Reach | None:
    """Read what ``reach`` of a script tells, or that there is no VM to be seen."""
    return Reach(*(told == b"1" for told in reply)) if reply else None


def _load_view(reply: Any) -> VmView | None:
    if not reply:
        return None
    pid = int(reply[2]) if reply[2] else None
    return VmView(unpack(Vm, reply[0]), node_alive=bool(reply[1]), last_pid=pid)


def _load_views(reply: Any) -> tuple[VmView, ...]:
    views = (view for view in map(_load_view, reply) if view)
    return tuple(sorted(views, key=lambda view: view.vm.vmid))
