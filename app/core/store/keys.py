"""API keys in the store; their secrets never get here."""

from app.core.codec import decode, encode
from app.core.records import ApiKey
from app.core.store.calls import Call, flat, load_record, nothing, pairs, script


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


def list_all() -> Call[tuple[ApiKey, ...]]:
    """Read all API keys, oldest first."""
    return script(
        """
        local keys = {}
        for i, id in ipairs(redis.call('SMEMBERS', 'ownup:keys')) do
          keys[i] = redis.call('HGETALL', 'ownup:key:' .. id)
        end
        return keys
        """,
        load=lambda reply: tuple(
            sorted((decode(ApiKey, pairs(fields)) for fields in reply if fields), key=lambda key: key.created_at)
        ),
    )
