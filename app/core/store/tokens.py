"""Tokens in the store: short-lived stand-ins for an API key, for clients that log in. The tokens never get here."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.core.codec import decode
from app.core.records import ApiKey
from app.core.store.calls import NOW, Call, nothing, pairs, script

TTL_S = 3600
"""How long a token counts at the most. Source: Keystone's own default (``[token] expiration``)."""

_CREATE = f"""
{NOW}
local token, key = 'ownup:token:' .. ARGV[1], 'ownup:key:' .. ARGV[2]
if redis.call('HGET', key, 'secret_sha256') ~= ARGV[6] then return false end
local ends = now + tonumber(ARGV[4])
ends = math.min(ends, tonumber(redis.call('HGET', key, 'expires_at')) or ends, tonumber(ARGV[5]) or ends)
redis.call('HSET', token, 'key_id', ARGV[2], 'method', ARGV[3], 'key_sha256', ARGV[6],
  'issued_at', string.format('%.6f', now), 'expires_at', string.format('%.6f', ends))
redis.call('PEXPIREAT', token, string.format('%d', ends * 1000))
return {{redis.call('HGETALL', token), redis.call('HGETALL', key)}}
"""

_FIND = """
local token = redis.call('HGETALL', 'ownup:token:' .. ARGV[1])
local meant = redis.call('HMGET', 'ownup:token:' .. ARGV[1], 'key_id', 'key_sha256')
local key = 'ownup:key:' .. (meant[1] or '')
if not meant[2] or redis.call('HGET', key, 'secret_sha256') ~= meant[2] then return false end
return {token, redis.call('HGETALL', key)}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is known of a token.

    Attributes:
        key_id: The API key it stands for.
        key_sha256: Digest of the secret that key had then: with another one the token doesn't count any more.
        method: How its owner logged in, in Keystone's word.
        issued_at: When it was made, by Redis's clock.
        expires_at: From when on it doesn't count any more; never later than its key.
    """

    key_id: str
    key_sha256: str = field(repr=False)
    method: str
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token together with its key as that is now: whether the key still counts is for the reader to judge."""

    token: Token
    key: ApiKey


def create(
    token_sha256: str, key_id: str, key_sha256: str, method: str, *, not_after: datetime | None = None
) -> Call[TokenView | None]:
    """Store a token, which lives no longer than its key and the secret of that do.

    Args:
        token_sha256: Hex digest of the token.
        key_id: The API key it stands for.
        key_sha256: Hex digest of the secret that was shown for it.
        method: How its owner logged in.
        not_after: When it ends at the latest.

    Returns:
        A call that tells ``None`` where its time is over already, or its key is gone or has another secret by now: then
        there is no token.
    """
    limit = "" if not_after is None else repr(not_after.timestamp())
    return script(_CREATE, token_sha256, key_id, method, TTL_S, limit, key_sha256, load=_load_view)


def find(token_sha256: str) -> Call[TokenView | None]:
    """Read a token that counts, and its key."""
    return script(_FIND, token_sha256, load=_load_view)


def remove(token_sha256: str) -> Call[None]:
    """Forget a token."""
    return Call(("DEL", f"ownup:token:{token_sha256}"), nothing)


def _load_view(reply: Any) -> TokenView | None:
    if not reply or not all(reply):
        return None
    return TokenView(decode(Token, pairs(reply[0])), decode(ApiKey, pairs(reply[1])))
