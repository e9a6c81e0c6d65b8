"""Which errors of the Redis client mean that Redis can't be used for now."""

import pytest
import redis.exceptions
from redis._parsers.base import BaseParser

from app.core.store import is_away


@pytest.mark.parametrize(
    "reply",
    [
        "LOADING Redis is loading the dataset in memory",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "MISCONF Errors writing to the AOF file: No space left on device",
    ],
)
def test_redis_that_takes_nothing_is_away(reply: str) -> None:
    assert is_away(BaseParser.parse_error(reply))


@pytest.mark.parametrize(
    "reply", ["WRONGTYPE Operation against a key", "ERR unknown command", "NOSCRIPT No such script"]
)
def test_redis_that_refuses_what_is_wrong_is_there(reply: str) -> None:
    assert not is_away(BaseParser.parse_error(reply))


@pytest.mark.parametrize("exc", [redis.exceptions.ConnectionError("gone"), redis.exceptions.TimeoutError("late")])
def test_redis_that_does_not_answer_is_away(exc: redis.RedisError) -> None:
    assert is_away(exc)
