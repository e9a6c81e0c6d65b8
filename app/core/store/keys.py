"""API keys in the store; their secrets never get here."""

from datetime import datetime
from typing import Any

from app.core.codec import decode, encode
from app.core.records import ApiKey
from app.core.store.calls import Call, flat, load_record, nothing, pairs, script

_NOTE_USE = """
local key = 'ownup:key:' .. ARGV[1]
if redis.call('EXISTS', key) == 0 then return 0 end
return redis.call('HSET', key, 'last_used_at', ARGV[2])
"""

_LIST = """
local keys = {}
for i, id in ipairs(redis.call('SMEMBERS', 'ownup:keys')) do
  local key = 'ownup:key:' .. id
  local account = redis.call('HGET', key, 'account')
  if account and (ARGV[1] == '' or ARGV[1] == account) then keys[#keys + 1] = redis.call('HGETALL', key) end
end
return keys
"""


def save(key: ApiKey) -> Call[None]:
    """Store an API key, or replace it."""
    return script(
        "redis.call('SADD', 'ownup:keys', ARGV[1]); redis.call('DEL', 'ownup:key:' .. ARGV[1]); "
        "return redis.call('HSET', 'ownup:key:' .. ARGV[1], unpack(cjson.decode(ARGV[2])))",
        key.id, flat(encode(key)), load=nothing,
    )  # fmt: skip


def find(key_id: str) -> Call[ApiKey | None]:
    """Read one API key by its public id."""
    return Call(("HGETALL", f"ownup:key:{key_id}"), lambda reply: load_record(ApiKey, reply))


def note_use(key_id: str, used_at: datetime) -> Call[None]:
    """Note when a key was last used, if it is still there."""
    return script(_NOTE_USE, key_id, repr(used_at.timestamp()), load=nothing)


def list_all(account: str | None = None) -> Call[tuple[ApiKey, ...]]:
    """Read the API keys of an account, or of all accounts, oldest first."""

    def load(reply: Any) -> tuple[ApiKey, ...]:
        return tuple(sorted((decode(ApiKey, pairs(fields)) for fields in reply), key=lambda key: key.created_at))

    return script(_LIST, account or "", load=load)
