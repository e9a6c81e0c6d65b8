"""Public SSH keys of accounts in the store: kept until they are removed, put into guests on request.

An account's keys are one hash, by fingerprint, so that no key is kept twice.
"""

import json
from typing import Any

from app.core.codec import decode, encode
from app.core.records import SshKey
from app.core.store.calls import Call, nothing, script

_ADD = """
local keys = 'ownup:account:' .. ARGV[1] .. ':sshkeys'
if redis.call('HEXISTS', keys, ARGV[2]) == 1 then return false end
local fields = cjson.decode(ARGV[3])
fields.id = tostring(redis.call('INCR', 'ownup:sshkeys:last'))
redis.call('HSET', keys, ARGV[2], cjson.encode(fields))
return fields.id
"""

_RENAME = """
local keys = 'ownup:account:' .. ARGV[1] .. ':sshkeys'
local body = redis.call('HGET', keys, ARGV[2])
if not body then return 0 end
local fields = cjson.decode(body)
fields.name = ARGV[3]
return redis.call('HSET', keys, ARGV[2], cjson.encode(fields))
"""


def add(key: SshKey, fingerprint: str) -> Call[int | None]:
    """Store a key and tell the number it got; ``None``: the account has it already. Its own ``id`` doesn't count."""
    fields = json.dumps(encode(key))
    return script(_ADD, key.account, fingerprint, fields, load=lambda reply: int(reply) if reply else None)


def rename(account: str, fingerprint: str, name: str) -> Call[None]:
    """Give a key another name, if the account has it."""
    return script(_RENAME, account, fingerprint, name, load=nothing)


def remove(account: str, fingerprint: str) -> Call[None]:
    """Forget a key, if the account has it."""
    return Call(("HDEL", f"ownup:account:{account}:sshkeys", fingerprint), nothing)


def list_owned(account: str) -> Call[tuple[SshKey, ...]]:
    """Read all keys of an account, by number."""
    return Call(("HVALS", f"ownup:account:{account}:sshkeys"), _load_keys)


def _load_keys(reply: Any) -> tuple[SshKey, ...]:
    fields = (json.loads(body) for body in reply)
    keys = (decode(SshKey, {name.encode(): value.encode() for name, value in each.items()}) for each in fields)
    return tuple(sorted(keys, key=lambda key: key.id))
