"""Calls on the asyncio store that are made together travel together, and each gets its own answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis
import redis.asyncio

from app.core import store
from app.core.errors import StoreUnavailableError
from app.core.store.calls import script
from tests.conftest import RedisServer
from tests.redis_counts import commands_served


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[store.AsyncStore]:
    async with redis.asyncio.Redis.from_url(url, socket_timeout=2) as client:
        calls = store.AsyncStore(client)
        yield calls
        await calls.close()


def echo(text: str) -> store.Call[str]:
    return store.Call(("ECHO", text), bytes.decode)


async def test_each_caller_gets_its_own_answer(redis_url: str) -> None:
    async with connected(redis_url) as calls:
        answers = await asyncio.gather(*(calls.run(echo(str(number))) for number in range(500)))
    assert answers == [str(number) for number in range(500)]


async def test_five_hundred_calls_take_a_few_trips(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        async with connected(redis_url) as calls:
            await calls.run(store.ping())
            before = client.info("stats")["total_reads_processed"]
            await asyncio.gather(*(calls.run(echo("x" * 10)) for _ in range(500)))
            assert client.info("stats")["total_reads_processed"] - before < 50


async def test_error_of_one_call_is_no_other_s(redis_url: str) -> None:
    async with connected(redis_url) as calls:
        good, bad, last = await asyncio.gather(
            calls.run(echo("a")),
            calls.run(store.Call(("NO-SUCH-COMMAND",), bytes.decode)),
            calls.run(echo("b")),
            return_exceptions=True,
        )
    assert (good, last) == ("a", "b")
    assert isinstance(bad, redis.ResponseError)


async def test_scripts_that_redis_has_forgotten_are_sent_in_full(redis_url: str) -> None:
    known, forgotten = (script(f"return '{name}' .. ARGV[1]", "!", load=bytes.decode) for name in ("a", "b"))
    with redis.Redis.from_url(redis_url) as client:
        async with connected(redis_url) as calls:
            client.script_flush()
            assert await calls.run(known) == "a!"
            before = commands_served(client)["eval"]
            answers = await asyncio.gather(
                *(calls.run(call) for call in (known, forgotten, echo("c"), forgotten, known))
            )
            assert answers == ["a!", "b!", "c", "b!", "a!"]
            assert commands_served(client)["eval"] - before == 2


async def test_bulky_call_travels_alone(redis_url: str) -> None:
    async with connected(redis_url) as calls:
        data = bytes(1_000_000)
        kept, said = await asyncio.gather(
            calls.run(store.Call(("SET", "bulky", data), lambda reply: reply)), calls.run(echo("a"))
        )
        assert (kept, said) == (b"OK", "a")


async def test_absence_of_redis_is_told_to_every_caller(own_redis: RedisServer) -> None:
    async with connected(own_redis.url) as calls:
        await calls.run(store.ping())
        await asyncio.to_thread(own_redis.stop)
        found = await asyncio.gather(*(calls.run(echo("a")) for _ in range(20)), return_exceptions=True)
        assert {type(each) for each in found} == {StoreUnavailableError}
        await asyncio.to_thread(own_redis.start)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(StoreUnavailableError):
                    assert await calls.run(echo("a")) == "a"
                    break


async def test_who_has_gone_disturbs_nobody(redis_url: str) -> None:
    async with connected(redis_url) as calls:
        leaving, staying = (asyncio.create_task(calls.run(echo(text))) for text in "ab")
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await staying == "b"


async def test_closing_waits_for_a_trip_whose_caller_has_gone(redis_url: str) -> None:
    async with connected(redis_url) as calls:
        await calls.run(store.ping())
        leaving = asyncio.create_task(calls.run(store.Call(("BLPOP", "nothing", "0.3"), lambda reply: reply)))
        await asyncio.sleep(0.05)
        leaving.cancel()
        assert calls._under_way
        await calls.close()  # else the pool would be closed under the trip, which would connect once more
        assert not calls._under_way
