"""Jobs in the store: created by the web half, carried out by the worker, polled by clients."""

import secrets
from collections.abc import Collection
from datetime import datetime
from typing import Any

from app.core.codec import encode
from app.core.records import Job, JobState
from app.core.store.calls import NOW, Call, flat, load_names, load_record, nothing, script
from app.core.store.sight import EVERYTHING, Sight, sees

TTL_S = 24 * 3600
"""How long an ended job can be polled."""

_CREATE = f"""
{NOW}
local job = 'ownup:job:' .. ARGV[1]
if redis.call('EXISTS', job) == 1 then return 0 end
redis.call('HSET', job, 'start_by', string.format('%.6f', now + tonumber(ARGV[3])), unpack(cjson.decode(ARGV[4])))
redis.call('SADD', 'ownup:node:' .. ARGV[2] .. ':jobs', ARGV[1])
return 1
"""

_START = f"""
{NOW}
local job = 'ownup:job:' .. ARGV[1]
local present = redis.call('HMGET', job, 'state', 'start_by', 'claim')
local again = present[1] == 'running' and present[3] == ARGV[2]
if not again and (present[1] ~= 'queued' or tonumber(present[2]) < now) then return false end
redis.call('HSET', job, 'state', 'running', 'started_at', string.format('%.6f', now), 'claim', ARGV[2])
redis.call('PUBLISH', 'ownup:wake', ARGV[1])
return redis.call('HGETALL', job)
"""

_UPDATE = """
local job = 'ownup:job:' .. ARGV[1]
local present = redis.call('HMGET', job, 'state', 'node')
if present[1] ~= 'queued' and present[1] ~= 'running' then return 0 end
redis.call('HSET', job, unpack(cjson.decode(ARGV[2])))
if ARGV[3] ~= '' then
  redis.call('EXPIRE', job, tonumber(ARGV[3]))
  redis.call('SREM', 'ownup:node:' .. present[2] .. ':jobs', ARGV[1])
end
redis.call('PUBLISH', 'ownup:wake', ARGV[1])
return 1
"""

_FIND = f"""
{sees(2)}
local job = 'ownup:job:' .. ARGV[1]
if not sees(unpack(redis.call('HMGET', job, 'account', 'vmid'))) then return {{}} end
return redis.call('HGETALL', job)
"""


def create(job: Job, *, start_within_s: float) -> Call[bool]:
    """Record a queued job. ``False`` says that the id is taken."""
    fields = encode(job)
    del fields["start_by"]
    return script(_CREATE, job.id, job.node, start_within_s, flat(fields), load=bool)


def find(job_id: str, sight: Sight = EVERYTHING) -> Call[Job | None]:
    """Read one job; ``None``: there is none to be seen."""
    return script(_FIND, job_id, sight.text, load=lambda reply: load_record(Job, reply))


def start(job_id: str) -> Call[Job | None]:
    """Move a queued job to ``running``. ``None`` says that it must not be started (any more).

    Where the reply was lost the same call may be run again; the job's ``started_at`` tells whether that was too late.
    """
    return script(_START, job_id, secrets.token_hex(8), load=_load_started)


def progress(job_id: str, progress: int, message: str) -> Call[None]:
    """Say how far a job has come, in percent."""
    return script(_UPDATE, job_id, flat(encode({"progress": progress, "message": message})), "", load=nothing)


def finish(job_id: str, state: JobState, message: str, finished_at: datetime) -> Call[None]:
    """Move a job to its end; a job that has ended already stays as it is."""
    fields = {"state": state, "message": message, "finished_at": finished_at}
    if state is JobState.COMPLETED:
        fields["progress"] = 100
    return script(_UPDATE, job_id, flat(encode(fields)), TTL_S, load=nothing)


def list_open(node: str) -> Call[tuple[str, ...]]:
    """List the ids of a node's jobs that have not ended."""
    return Call(("SMEMBERS", f"ownup:node:{node}:jobs"), load_names)


def list_open_on(nodes: Collection[str]) -> Call[tuple[str, ...]]:
    """List the ids of the jobs of several nodes that have not ended."""
    return Call(("SUNION", *(f"ownup:node:{node}:jobs" for node in nodes)), load_names)


def _load_started(reply: Any) -> Job | None:
    return load_record(Job, reply) if isinstance(reply, list) else None
