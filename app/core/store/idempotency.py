"""Idempotency keys in the store: which command a repeated request means."""

from dataclasses import dataclass
from typing import Any

from app.core.store.calls import Call, script

TTL_S = 24 * 3600
"""How long a key is remembered."""

_RESERVE = """
local key = 'ownup:idem:' .. ARGV[1] .. ':' .. ARGV[2] .. ':' .. ARGV[3]
if redis.call('EXISTS', key) == 0 then
  redis.call('HSET', key, 'fingerprint', ARGV[4], 'command', ARGV[5])
  redis.call('EXPIRE', key, ARGV[6])
end
return redis.call('HMGET', key, 'fingerprint', 'command', 'recorded')
"""

_MARK_RECORDED = """
local key = 'ownup:idem:' .. ARGV[1] .. ':' .. ARGV[2] .. ':' .. ARGV[3]
local id = redis.call('HGET', key, 'command')
if not id or redis.call('EXISTS', 'ownup:cmd:' .. id) == 0 then return 0 end
return redis.call('HSET', key, 'recorded', '1')
"""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What an idempotency key stands for.

    Attributes:
        fingerprint: Digest of the request that used the key first.
        command_id: The command that request made, or was about to make.
        recorded: Whether it was made: then it must not be made again, even where its record is gone by now.
    """

    fingerprint: str
    command_id: str
    recorded: bool


def reserve(account: str, vmid: int, key_sha256: str, *, fingerprint: str, command_id: str) -> Call[Reservation]:
    """Reserve a key for a command, or tell what it was reserved for before."""
    return script(_RESERVE, account, vmid, key_sha256, fingerprint, command_id, TTL_S, load=_load)


def mark_recorded(account: str, vmid: int, key_sha256: str) -> Call[bool]:
    """Note that the command a key stands for is made; belongs in one transaction with its making, after it."""
    return script(_MARK_RECORDED, account, vmid, key_sha256, load=bool)


def _load(reply: Any) -> Reservation:
    return Reservation(fingerprint=reply[0].decode(), command_id=reply[1].decode(), recorded=reply[2] is not None)
