"""Guest calls in the store: created by the web half, performed by the worker, read by the request that waits.

A secret that goes with one has a key of its own, which is gone as soon as a worker has it, or nobody may have it any
more; it never stands in the record. All of a call is forgotten soon after, whatever has become of it.
"""

import math
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.core.codec import decode, encode
from app.core.records import GuestCall, GuestCallState
from app.core.store.calls import NOW, Call, flat, load_record, nothing, pairs, script

TTL_S = 600
"""How long the record can be looked into; the request that waits for it has gone long before."""

_CREATE = f"""
{NOW}
local call = 'ownup:call:' .. ARGV[1]
redis.call('HSET', call, 'deliver_by', string.format('%.6f', now + tonumber(ARGV[2])), unpack(cjson.decode(ARGV[3])))
redis.call('EXPIRE', call, ARGV[4])
if ARGV[6] ~= '' then redis.call('SET', call .. ':secret', ARGV[6], 'EX', ARGV[5]) end
return 1
"""

_LOOK = f"""
{NOW}
local call = 'ownup:call:' .. ARGV[1]
local state, sent_at, deliver_by, claim = unpack(redis.call('HMGET', call, 'state', 'sent_at', 'deliver_by', 'claim'))
if state == 'queued' and not sent_at and tonumber(deliver_by) < now then
  state = 'expired'
  redis.call('HSET', call, 'state', state, 'ended_at', string.format('%.6f', now))
  redis.call('DEL', call .. ':secret')
  redis.call('PUBLISH', 'ownup:wake', ARGV[1])
end
"""
"""Start of a script that looks at a call: one that nobody may claim any more is ended first."""

_CLAIM = f"""
{_LOOK}
if state ~= 'queued' or (sent_at and claim ~= ARGV[2]) then return false end
redis.call('HSET', call, 'sent_at', string.format('%.6f', now), 'claim', ARGV[2])
return {{redis.call('HGETALL', call), redis.call('GETDEL', call .. ':secret')}}
"""

_END = """
local call = 'ownup:call:' .. ARGV[1]
if redis.call('HGET', call, 'state') ~= 'queued' then return 0 end
redis.call('HSET', call, unpack(cjson.decode(ARGV[2])))
return redis.call('PUBLISH', 'ownup:wake', ARGV[1])
"""

_READ = f"{_LOOK} return redis.call('HGETALL', call)"


@dataclass(frozen=True, slots=True)
class Claim:
    """A guest call that this worker, and no other, may now send once.

    Attributes:
        call: The record.
        secret: What goes with it and stands nowhere else; ``None`` where there is none, or not any more.
    """

    call: GuestCall
    secret: str | None = field(repr=False)

    @property
    def late(self) -> bool:
        """Whether the delivery deadline had passed when the claim was run again: it must not be sent any more."""
        return self.call.sent_at is not None and self.call.sent_at > self.call.deliver_by


def create(call: GuestCall, *, secret: str | None, deliver_within_s: float) -> Call[bool]:
    """Record a queued guest call; its delivery deadline is set by Redis's clock.

    Args:
        call: The record.
        secret: What only the worker that claims it may read, once.
        deliver_within_s: From now to the delivery deadline.
    """
    fields = encode(call)
    del fields["deliver_by"]
    secret_ttl_s = math.ceil(deliver_within_s) + 1
    return script(_CREATE, call.id, deliver_within_s, flat(fields), TTL_S, secret_ttl_s, secret or "", load=bool)


def claim(call_id: str) -> Call[Claim | None]:
    """Mark a queued guest call as sent, just before sending it, and take its secret out of the store.

    The mark is what makes delivery happen at most once: ``None`` says that it must not be sent (any more). Where the
    reply was lost the same call may be run again: it finds its own mark, and no secret.
    """
    return script(_CLAIM, call_id, secrets.token_hex(8), load=_load_claim)


def end(
    call_id: str,
    state: GuestCallState,
    ended_at: datetime,
    *,
    value: dict[str, Any] | None = None,
    message: str | None = None,
) -> Call[None]:
    """Write what came of a guest call and wake whoever waits for it; the first end stands."""
    fields = {"state": state, "ended_at": ended_at, "value": value, "message": message}
    return script(_END, call_id, flat(encode(fields)), load=nothing)


def read(call_id: str) -> Call[GuestCall | None]:
    """Read a guest call. One that nobody claimed before its delivery deadline is ended first: it can't be sent now."""
    return script(_READ, call_id, load=lambda reply: load_record(GuestCall, reply))


def _load_claim(reply: Any) -> Claim | None:
    if not isinstance(reply, list):
        return None
    secret = reply[1]
    return Claim(decode(GuestCall, pairs(reply[0])), secret.decode() if secret else None)
