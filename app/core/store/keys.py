"""API keys in the store; their secrets never get here.

An account's keys are two indices: those that count or may count again, and the latest of those that are revoked. Both
are bounded, so that nobody who makes and revokes keys all day long can fill the store.
"""

from datetime import datetime
from typing import Any

from app.core.codec import decode, encode
from app.core.records import ApiKey
from app.core.store.calls import Call, flat, load_record, nothing, pairs, script

MOST_OF_AN_ACCOUNT = 1000
"""How many keys an account may have that aren't revoked, and how many revoked ones of it are remembered."""

_FILE = f"""
local function file(id)
  local facts = redis.call('HMGET', 'ownup:key:' .. id, 'account', 'revoked_at')
  if not facts[1] then return end
  local of_account = 'ownup:account:' .. facts[1]
  redis.call('SADD', 'ownup:accounts', facts[1])
  redis.call('SREM', of_account .. ':keys', id)
  redis.call('ZREM', of_account .. ':revoked', id)
  if not facts[2] then return redis.call('SADD', of_account .. ':keys', id) end
  redis.call('ZADD', of_account .. ':revoked', facts[2], id)
  for i, oldest in ipairs(redis.call('ZRANGE', of_account .. ':revoked', 0, -1 - {MOST_OF_AN_ACCOUNT})) do
    redis.call('DEL', 'ownup:key:' .. oldest)
    redis.call('ZREM', of_account .. ':revoked', oldest)
  end
end
for i, id in ipairs(redis.call('SMEMBERS', 'ownup:keys')) do file(id) end
redis.call('DEL', 'ownup:keys')
"""
"""Start of a script that needs the indices. Versions that had none kept all ids in ``ownup:keys``."""

_ADD = f"""
{_FILE}
local key = 'ownup:key:' .. ARGV[1]
if redis.call('SCARD', 'ownup:account:' .. ARGV[2] .. ':keys') >= {MOST_OF_AN_ACCOUNT} then return 0 end
redis.call('HSET', key, unpack(cjson.decode(ARGV[3])))
file(ARGV[1])
return 1
"""

_SAVE = f"""
{_FILE}
redis.call('DEL', 'ownup:key:' .. ARGV[1])
redis.call('HSET', 'ownup:key:' .. ARGV[1], unpack(cjson.decode(ARGV[2])))
file(ARGV[1])
"""

_REPLACE = f"""
{_FILE}
local key = 'ownup:key:' .. ARGV[1]
local present = redis.call('HMGET', key, 'id', 'version', 'last_used_at')
if not present[1] or (present[2] or '0') ~= ARGV[2] then return 0 end
redis.call('DEL', key)
redis.call('HSET', key, unpack(cjson.decode(ARGV[3])))
if present[3] then redis.call('HSET', key, 'last_used_at', present[3]) end
file(ARGV[1])
return 1
"""
"""A key may be used while it is changed: when it was used last is not part of the change."""

_NOTE_USE = """
local key = 'ownup:key:' .. ARGV[1]
if redis.call('EXISTS', key) == 0 then return 0 end
return redis.call('HSET', key, 'last_used_at', ARGV[2])
"""

_FIND_OWNED = """
local key = 'ownup:key:' .. ARGV[1]
local facts = redis.call('HMGET', key, 'account', 'revoked_at')
if not facts[1] or (ARGV[2] ~= '' and ARGV[2] ~= facts[1]) or facts[2] then return false end
return redis.call('HGETALL', key)
"""

_LIST = f"""
{_FILE}
local found = {{}}
local function read(ids)
  for i, id in ipairs(ids) do
    local key = redis.call('HGETALL', 'ownup:key:' .. id)
    if #key > 0 then found[#found + 1] = key end
  end
end
for i, account in ipairs(ARGV[1] == '' and redis.call('SMEMBERS', 'ownup:accounts') or {{ARGV[1]}}) do
  read(redis.call('SMEMBERS', 'ownup:account:' .. account .. ':keys'))
  if ARGV[2] == '1' then read(redis.call('ZRANGE', 'ownup:account:' .. account .. ':revoked', 0, -1)) end
end
return found
"""


def add(key: ApiKey) -> Call[bool]:
    """Store a new API key; tells ``False``, and stores nothing, if its account has as many as it may."""
    return script(_ADD, key.id, key.account, flat(encode(key)), load=bool)


def save(key: ApiKey) -> Call[None]:
    """Store an API key, whatever there is of that id."""
    return script(_SAVE, key.id, flat(encode(key)), load=nothing)


def replace(before: ApiKey, after: ApiKey) -> Call[bool]:
    """Change an API key that is still as it was read; tells ``False``, and changes nothing, if it isn't any more."""
    fields = encode(after) | {"version": str(before.version + 1)}
    return script(_REPLACE, before.id, before.version, flat(fields), load=bool)


def find(key_id: str) -> Call[ApiKey | None]:
    """Read one API key by its public id."""
    return Call(("HGETALL", f"ownup:key:{key_id}"), lambda reply: load_record(ApiKey, reply))


def find_owned(key_id: str, account: str | None) -> Call[ApiKey | None]:
    """Read one API key, if it isn't revoked and belongs to the account, or to any if that is ``None``."""
    return script(_FIND_OWNED, key_id, account or "", load=lambda reply: load_record(ApiKey, reply))


def note_use(key_id: str, used_at: datetime) -> Call[None]:
    """Note when a key was last used, if it is still there."""
    return script(_NOTE_USE, key_id, repr(used_at.timestamp()), load=nothing)


def list_owned(account: str | None) -> Call[tuple[ApiKey, ...]]:
    """Read the API keys of an account, or of all accounts, that aren't revoked, oldest first."""
    return script(_LIST, account or "", 0, load=_load_keys)


def list_all() -> Call[tuple[ApiKey, ...]]:
    """Read the API keys of all accounts, revoked ones too, oldest first."""
    return script(_LIST, "", 1, load=_load_keys)


def _load_keys(reply: Any) -> tuple[ApiKey, ...]:
    return tuple(sorted((decode(ApiKey, pairs(fields)) for fields in reply), key=lambda key: (key.created_at, key.id)))
