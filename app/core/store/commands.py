"""Commands in the store: created by the web half, moved by the worker, read by both."""

import functools
import json
import secrets
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import zstandard

from app.core.codec import decode, encode, unpack
from app.core.errors import IllegalMoveError, NotFoundError, TooManyCommandsError
from app.core.records import COMMAND_MOVES, Command, CommandEnd, CommandRequest, CommandStart, CommandState
from app.core.store.calls import NOW, PACK, Call, flat, load_names, load_record, nothing, pairs, script
from app.core.store.sight import EVERYTHING, Sight, sees
from app.core.store.vms import REACH, Reach, load_reach

MOST_LISTED = 10_000
"""How many commands of a VM can be listed; older ones can still be read by their ids."""
_LISTED_AT_ONCE = 100

_CREATE = f"""
{NOW}
local cmd = 'ownup:cmd:' .. ARGV[1]
if redis.call('EXISTS', cmd) == 1 then return 0 end
local of_vm, of_key = 'ownup:vm:' .. ARGV[6] .. ':open', 'ownup:key:' .. ARGV[8] .. ':open'
if redis.call('SCARD', of_vm) >= tonumber(ARGV[9]) then return 'vm' end
if redis.call('SCARD', of_key) >= tonumber(ARGV[10]) then return 'key' end
redis.call('SADD', of_vm, ARGV[1])
redis.call('SADD', of_key, ARGV[1])
redis.call('HSET', cmd, 'deliver_by', string.format('%.6f', now + tonumber(ARGV[3])), unpack(cjson.decode(ARGV[4])))
redis.call('HSET', cmd .. ':request', unpack(cjson.decode(ARGV[5])))
redis.call('EXPIRE', cmd .. ':request', string.format('%d', math.ceil(tonumber(ARGV[3])) + 1))
redis.call('SADD', 'ownup:node:' .. ARGV[2] .. ':open', ARGV[1])
local list = 'ownup:vm:' .. ARGV[6] .. ':commands'
for i, id in ipairs(redis.call('ZRANGE', list, 0, 1)) do
  if redis.call('EXISTS', 'ownup:cmd:' .. id) == 0 then redis.call('ZREM', list, id) end
end
redis.call('ZADD', list, string.format('%.6f', now), ARGV[1])
redis.call('ZREMRANGEBYRANK', list, 0, -1 - tonumber(ARGV[7]))
return 1
"""
"""The list loses at each turn what has expired of its two oldest, so that it can't outgrow what there is. What is to be
run may hold secrets, and is gone when nobody may claim it any more, whatever becomes of web and worker.
"""

_CLAIM = f"""
{NOW}
{PACK}
local cmd = 'ownup:cmd:' .. ARGV[1]
local present = redis.call('HMGET', cmd, 'state', 'sent_at', 'deliver_by', 'claim')
if present[1] ~= 'queued' or (present[2] and present[4] ~= ARGV[2]) then return false end
if not present[2] and tonumber(present[3]) < now then return 'late' end
redis.call('HSET', cmd, 'sent_at', string.format('%.6f', now), 'claim', ARGV[2])
return {{pack(cmd), redis.call('HGETALL', cmd .. ':request')}}
"""

_TOLD_BYTES = 4 * 1024
"""An end tells its output to every web process up to this size, compressed; what is longer is read by who wants it."""

_NEWS_FORMAT = "2"
"""To be changed with what the news of an end tell: while workers are upgraded, both versions come."""

_MOVE = f"""
{PACK}
{REACH}
local cmd = 'ownup:cmd:' .. ARGV[1]
local present = redis.call('HGET', cmd, 'state')
local legal = cjson.decode(ARGV[2])
if not present or not legal[present] then
  redis.call('DEL', cmd .. ':parts:new')
  return present
end
local function told(cmd, vm, account)
  local known = glance(vm)
  if known[1] ~= account then return '' end
  return '\\n' .. cmsgpack.pack({{'{_NEWS_FORMAT}', {{reach(known), {{pack(cmd), ARGV[5], ARGV[6]}}}}}})
end
local function keep(key, output, ttl)
  if output ~= '' then redis.call('SET', key, output, 'EX', ttl) end
end
redis.call('DEL', cmd .. ':request')
redis.call('HSET', cmd, unpack(cjson.decode(ARGV[3])))
local now = redis.call('HMGET', cmd, 'state', 'vmid', 'pid', 'node', 'key_id', 'vm_gone', 'account')
local result = ''
if now[1] == 'running' then
  if now[3] then
    redis.call('SET', 'ownup:pid:' .. now[2] .. ':' .. now[3], ARGV[1])
    redis.call('SET', 'ownup:vm:' .. now[2] .. ':pid', now[3])
  end
else
  local ttl, by_pid = tonumber(ARGV[4]), 'ownup:pid:' .. now[2] .. ':' .. (now[3] or '')
  if redis.call('GET', by_pid) == ARGV[1] then redis.call('EXPIRE', by_pid, now[6] and 0 or ttl) end
  if now[6] then
    redis.call('DEL', cmd, cmd .. ':parts:new')
    redis.call('ZREM', 'ownup:vm:' .. now[2] .. ':commands', ARGV[1])
  else
    redis.call('EXPIRE', cmd, ttl)
    keep(cmd .. ':out', ARGV[5], ttl)
    keep(cmd .. ':err', ARGV[6], ttl)
    local in_parts = redis.call('EXISTS', cmd .. ':parts:new') == 1
    if in_parts then
      redis.call('RENAME', cmd .. ':parts:new', cmd .. ':parts')
      redis.call('EXPIRE', cmd .. ':parts', ttl)
      redis.call('HSET', cmd, 'in_parts', '1')
    elseif #ARGV[5] + #ARGV[6] <= {_TOLD_BYTES} then
      result = told(cmd, 'ownup:vm:' .. now[2], now[7])
    end
  end
  redis.call('SREM', 'ownup:node:' .. now[4] .. ':open', ARGV[1])
  redis.call('SREM', 'ownup:vm:' .. now[2] .. ':open', ARGV[1])
  redis.call('SREM', 'ownup:key:' .. (now[5] or '') .. ':open', ARGV[1])
end
redis.call('PUBLISH', 'ownup:wake', ARGV[1] .. ' ' .. now[1] .. ' ' .. (now[3] or '') .. result)
return 1
"""

"""Who waits for an end needn't read it: it is told with all that a reader would see, unless its VM has been given away
meanwhile; then it takes a reader's own eyes.
"""

_BEGIN_PARTS = """
redis.call('HSET', ARGV[1], 'out', ARGV[3], 'err', ARGV[4])
redis.call('EXPIRE', ARGV[1], ARGV[2])
"""
"""How many parts each stream has; the parts themselves are ``out0``, ``out1`` …, ``err0`` …"""

_IS_UNDELIVERED = f"""
{NOW}
local cmd = 'ownup:cmd:' .. ARGV[1]
local present = redis.call('HMGET', cmd, 'state', 'sent_at', 'deliver_by')
if present[1] ~= 'queued' or present[2] or tonumber(present[3]) > now then return 0 end
return 1
"""

_REQUEST_KILL = f"""
{NOW}
{sees(3)}
local id = redis.call('GET', 'ownup:pid:' .. ARGV[1] .. ':' .. ARGV[2])
if not id then return false end
local cmd = 'ownup:cmd:' .. id
local present = redis.call('HMGET', cmd, 'state', 'account', 'vmid', 'key_id')
if not sees(present[2], present[3], present[4]) then return false end
if present[1] == 'running' then redis.call('HSETNX', cmd, 'kill_requested_at', string.format('%.6f', now)) end
return redis.call('HGETALL', cmd)
"""

_REQUEST_CANCEL = f"""
{NOW}
{sees(3)}
local cmd = 'ownup:cmd:' .. ARGV[2]
local present = redis.call('HMGET', cmd, 'state', 'account', 'vmid', 'key_id')
if not sees(present[2], present[3], present[4]) or present[3] ~= ARGV[1] then return false end
if present[1] == 'running' or present[1] == 'queued' then
  redis.call('HSETNX', cmd, 'kill_requested_at', string.format('%.6f', now))
end
return redis.call('HGETALL', cmd)
"""

_LIST_PAGE = f"""
{sees(2)}
local list = 'ownup:vm:' .. ARGV[1] .. ':commands'
local at, found = 0, {{}}
if ARGV[3] ~= '' then
  at = redis.call('ZRANK', list, ARGV[3])
  if not at then return false end
  at = at + 1
end
while #found < tonumber(ARGV[4]) do
  local ids = redis.call('ZRANGE', list, at, at + {_LISTED_AT_ONCE - 1})
  if #ids == 0 then break end
  for i, id in ipairs(ids) do
    local record = redis.call('HGETALL', 'ownup:cmd:' .. id)
    if #record == 0 then
      redis.call('ZREM', list, id)
    else
      at = at + 1
      local seen = sees(unpack(redis.call('HMGET', 'ownup:cmd:' .. id, 'account', 'vmid', 'key_id')))
      if seen and #found < tonumber(ARGV[4]) then found[#found + 1] = record end
    end
  end
end
return found
"""

_BULKY_BYTES = 64 * 1024
"""More output than this, compressed, travels alone, in parts: what passes through a script is copied twice."""
_PART_BYTES = 1024 * 1024
"""Redis puts each argument into memory that is as large, and so do its append-only file and its reader: 8 MiB at once
take three times as long as eight parts, for which the same memory serves again.
"""

_SHORT_BYTES = 128
_WORTH_IT = 0.9
_COMPRESSION = -1
"""Text becomes an eighth longer than by level 1, and what can't be made much shorter costs next to no time."""

_FOUND = f"""
{PACK}
{REACH}
{sees(3)}
local function result(cmd)
  local account, vmid, key, in_parts = unpack(redis.call('HMGET', cmd, 'account', 'vmid', 'key_id', 'in_parts'))
  if not sees(account, vmid, key) then return false end
  if in_parts then return {{pack(cmd)}} end
  return {{pack(cmd), redis.call('GET', cmd .. ':out'), redis.call('GET', cmd .. ':err')}}
end
local function found(vmid, id)
  local known = glance('ownup:vm:' .. vmid)
  return {{sees(known[1], vmid) and reach(known) or false, id and result('ownup:cmd:' .. id)}}  -- nil ends a list
end
"""

_READ_RESULT = f"""
{_FOUND}
return found(ARGV[1], redis.call('GET', 'ownup:pid:' .. ARGV[1] .. ':' .. ARGV[2]))
"""

_FIND_RESULT = f"""
{_FOUND}
return found(ARGV[1], ARGV[2])
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many commands may be under way at the same time, files included.

    Attributes:
        per_vm: In one VM.
        per_key: Started with one API key.
    """

    per_vm: int
    per_key: int


UNBOUNDED = Bounds(sys.maxsize, sys.maxsize)


@dataclass(frozen=True, slots=True)
class Result:
    """A command and the output that is kept of it.

    Attributes:
        command: The record.
        stdout: Bytes of standard output.
        stderr: Bytes of standard error.
        whole: Whether both are here; if not, ``fetch_output`` gets them.
    """

    command: Command
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)
    whole: bool = True


class Found(NamedTuple):
    """What a reader sees of a command.

    Attributes:
        reach: Whether another one would reach its VM's guest; ``None``: there is no VM to be seen.
        result: Of the command; ``None``: there is none to be seen.
    """

    reach: Reach | None
    result: Result | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A command that this worker, and no other, may now send once.

    Attributes:
        command: The record.
        request: What is to be run.
    """

    command: Command
    request: CommandRequest

    @property
    def late(self) -> bool:
        """Whether the delivery deadline had passed when the claim was run again: it must not be sent any more."""
        return self.command.sent_at is not None and self.command.sent_at > self.command.deliver_by


def create(
    command: Command, request: CommandRequest, *, deliver_within_s: float, bounds: Bounds = UNBOUNDED
) -> Call[bool]:
    """Record a queued command; its delivery deadline is set by Redis's clock. ``False``: it is there already.

    Raises:
        TooManyCommandsError: (when the reply is read) its VM or its key has as many as it may; it isn't recorded.
    """
    fields = encode(command)
    del fields["deliver_by"]

    def load(reply: Any) -> bool:
        if reply in {b"vm", b"key"}:
            raise TooManyCommandsError(reply.decode(), bounds.per_vm if reply == b"vm" else bounds.per_key)
        return bool(reply)

    return script(
        _CREATE,
        command.id,
        command.node,
        deliver_within_s,
        flat(fields),
        flat(encode(request)),
        command.vmid,
        MOST_LISTED,
        command.key_id or "",
        bounds.per_vm,
        bounds.per_key,
        load=load,
    )


def find(command_id: str) -> Call[Command | None]:
    """Read one command record by its id."""
    return Call(("HGETALL", f"ownup:cmd:{command_id}"), lambda reply: load_record(Command, reply))


def claim(command_id: str) -> Call[Claim | None]:
    """Mark a queued command as sent, just before sending it.

    The mark is what makes delivery happen at most once: ``None`` says that the command is not queued any more, was
    claimed before, or is past its delivery deadline, and must not be sent. Where the reply was lost the same call may
    be run again: it finds its own mark.
    """
    return script(_CLAIM, command_id, secrets.token_hex(8), load=_load_claim)


def start(command_id: str, start: CommandStart) -> Call[None]:
    """Move a command to ``running`` with its pid and wake whoever waits for it.

    Raises:
        IllegalMoveError: (when the reply is read) the command is not queued.
    """
    return _move(command_id, CommandState.RUNNING, {"state": CommandState.RUNNING, **encode(start)})


def begin(command_id: str, started_at: datetime) -> Call[None]:
    """Move a command that gets no pid, which is a file's, to ``running`` and wake whoever waits for it.

    Raises:
        IllegalMoveError: (when the reply is read) it isn't queued any more.
    """
    return _move(command_id, CommandState.RUNNING, {"state": CommandState.RUNNING, "started_at": started_at})


def end(command_id: str, end: CommandEnd, *, ttl_s: int) -> Call[None]:
    """Move a command to its end, with its output, and wake whoever waits for it.

    Raises:
        IllegalMoveError: (when the reply is read) the end can't follow the present state.
    """
    return _end(command_id, end, ttl_s, out=_pack(end.stdout), err=_pack(end.stderr))


def end_in_parts(command_id: str, end: CommandEnd, *, ttl_s: int) -> Iterator[Call[None]]:
    """Do as ``end`` does, in several calls that must be run in this order: bulky output goes ahead, part by part.

    They can be run anew from the first, and by two at the same time: each part is put where it belongs.

    Raises:
        IllegalMoveError: As for ``end``; then what went ahead is gone again.
    """
    out, err = _pack_in_parts(end.stdout), _pack_in_parts(end.stderr)
    if sum(map(len, (*out, *err))) <= _BULKY_BYTES:
        yield _end(command_id, end, ttl_s, out=_pack(end.stdout), err=_pack(end.stderr))
        return
    key = f"ownup:cmd:{command_id}:parts:new"
    yield script(_BEGIN_PARTS, key, ttl_s, len(out), len(err), load=nothing)
    for stream, parts in ("out", out), ("err", err):
        for i, part in enumerate(parts):
            yield Call(("HSET", key, f"{stream}{i}", part), nothing)
    yield _end(command_id, end, ttl_s)


def _end(command_id: str, end: CommandEnd, ttl_s: int, *, out: bytes = b"", err: bytes = b"") -> Call[None]:
    return _move(command_id, end.state, _end_fields(end), ttl_s=ttl_s, out=out, err=err)


def _end_fields(end: CommandEnd) -> dict[str, Any]:
    return {
        "state": end.state,
        "ended_at": end.ended_at,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "out_truncated": end.out_truncated,
        "err_truncated": end.err_truncated,
        "message": end.message,
    }


def request_kill(vmid: int, pid: int, sight: Sight = EVERYTHING) -> Call[Command | None]:
    """Note that somebody wants a running command killed; one that has ended stays as it is. Tells its record."""
    return script(_REQUEST_KILL, vmid, pid, sight.text, load=lambda reply: load_record(Command, reply))


def request_cancel(vmid: int, command_id: str, sight: Sight = EVERYTHING) -> Call[Command | None]:
    """Note that somebody wants a command of a VM stopped, as it is now; one that has ended stays as it is.

    One that is still queued then isn't sent any more, unless it is being sent this moment. Tells its record.
    """
    return script(_REQUEST_CANCEL, vmid, command_id, sight.text, load=lambda reply: load_record(Command, reply))


def list_page(vmid: int, sight: Sight, *, after: str | None, limit: int) -> Call[tuple[Command, ...] | None]:
    """Read the next commands that were started in a VM, whatever their face and kind, oldest first.

    Args:
        vmid: The VM.
        sight: Whose commands are shown.
        after: Id of the command that the page before ended with; ``None`` for the first page.
        limit: How many are read at most.

    Returns:
        The commands; ``None`` where nobody knows of the one before.
    """

    def load(reply: Any) -> tuple[Command, ...] | None:
        return None if reply is None else tuple(decode(Command, pairs(fields)) for fields in reply)

    return script(_LIST_PAGE, vmid, sight.text, after or "", limit, load=load)


def is_undelivered(command_id: str) -> Call[bool]:
    """Tell whether a command is past its delivery deadline and was never claimed, so that it can't have run."""
    return script(_IS_UNDELIVERED, command_id, load=bool)


def read_result(vmid: int, pid: int, sight: Sight = EVERYTHING) -> Call[Found]:
    """Read the latest command that got this pid in this VM, with its output."""
    return script(_READ_RESULT, vmid, pid, sight.text, load=_load_found)


def find_result(vmid: int, command_id: str, sight: Sight = EVERYTHING) -> Call[Found]:
    """Read one command by its id, with its output. Unlike a pid, an id never comes to mean another command."""
    return script(_FIND_RESULT, vmid, command_id, sight.text, load=_load_found)


def load_told(told: bytes) -> Found:
    """Read what the news of an end tell of it, as it was at that very moment; those of another version tell nothing."""
    told_format, found = msgpack.unpackb(told, raw=True)
    return _load_found(found) if told_format == _NEWS_FORMAT.encode() else Found(None, None)


def fetch_output(result: Result) -> Call[Result]:
    """Read the output of a command whose result was too bulky to come at once.

    Raises:
        NotFoundError: (when the reply is read) it has just been forgotten.
    """

    def load(reply: Any) -> Result:
        parts = pairs(reply)
        if not parts:
            raise NotFoundError("Command")
        return Result(result.command, _join(parts, "out"), _join(parts, "err"))

    return Call(("HGETALL", f"ownup:cmd:{result.command.id}:parts"), load)


def list_open(node: str) -> Call[tuple[str, ...]]:
    """List the ids of a node's commands that have not ended."""
    return Call(("SMEMBERS", f"ownup:node:{node}:open"), load_names)


def _move(
    command_id: str,
    wanted: CommandState,
    fields: Mapping[str, Any],
    *,
    ttl_s: int = 0,
    out: bytes = b"",
    err: bytes = b"",
) -> Call[None]:
    def load(reply: Any) -> None:
        if reply != 1:
            raise IllegalMoveError(command_id, reply.decode() if reply else "gone", wanted)

    return script(_MOVE, command_id, _legal_before(wanted), flat(encode(fields)), ttl_s, out, err, load=load)


@functools.cache
def _legal_before(wanted: CommandState) -> str:
    return json.dumps({present.value: True for present, following in COMMAND_MOVES.items() if wanted in following})


def _pack(output: bytes | memoryview) -> bytes:
    """Compress output; what is short or doesn't get shorter stays as it is, unless it looks compressed already."""
    must = output[: len(zstandard.FRAME_HEADER)] == zstandard.FRAME_HEADER
    if len(output) <= _SHORT_BYTES and not must:
        return bytes(output)
    packed = zstandard.ZstdCompressor(level=_COMPRESSION).compress(output)
    return packed if must or len(packed) < len(output) * _WORTH_IT else bytes(output)


def _pack_in_parts(output: bytes) -> list[bytes]:
    view = memoryview(output)
    return [_pack(view[i : i + _PART_BYTES]) for i in range(0, len(output), _PART_BYTES)]


def _join(parts: Mapping[bytes, bytes], stream: str) -> bytes:
    """Put the parts of a stream together."""
    return b"".join(_unpack(parts[f"{stream}{i}".encode()]) for i in range(int(parts[stream.encode()])))


def _unpack(stored: bytes | None) -> bytes:
    if stored and stored.startswith(zstandard.FRAME_HEADER):
        return zstandard.ZstdDecompressor().decompress(stored)
    return stored or b""


def _load_claim(reply: Any) -> Claim | None:
    if not isinstance(reply, list):
        return None
    return Claim(unpack(Command, reply[0]), decode(CommandRequest, pairs(reply[1])))


def _load_found(reply: Any) -> Found:
    reach, result = reply
    return Found(load_reach(reach), _load_result(result))


def _load_result(reply: Any) -> Result | None:
    if not reply:
        return None
    command = unpack(Command, reply[0])
    if len(reply) == 1:
        return Result(command, b"", b"", whole=False)
    return Result(command, _unpack(reply[1]), _unpack(reply[2]))
