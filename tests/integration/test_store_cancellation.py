"""Cancelling a store call cancels its task, whatever moment it comes at."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from app.core import store

STEPS = 60
"""More turns of the loop than a call takes."""


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[store.AsyncStore]:
    async with redis.asyncio.Redis.from_url(url, socket_timeout=2) as client:
        calls = store.AsyncStore(client)
        yield calls
        await calls.close()


async def cancelled_after(calls: store.AsyncStore, turns: int) -> bool | None:
    """Cancel a call after so many turns of the loop; tell whether it is cancelled then, `None` if it came too late."""
    task = asyncio.create_task(calls.run(store.ping()))
    for _ in range(turns):
        await asyncio.sleep(0)
    if not task.cancel():
        return None
    await asyncio.wait([task])
    return task.cancelled()


async def test_a_call_is_cancelled_at_whatever_moment_that_comes(redis_url: str) -> None:
    async with connected(redis_url) as calls:
        await calls.run(store.ping())
        found = [await cancelled_after(calls, turns) for turns in range(STEPS)]
    assert found[0] is True
    assert False not in found


async def test_a_task_that_was_cancelled_before_can_still_use_the_store_to_tidy_up(redis_url: str) -> None:
    tidied: list[bool] = []

    async def work(calls: store.AsyncStore) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await calls.run(store.ping())
            tidied.append(True)

    async with connected(redis_url) as calls:
        task = asyncio.create_task(work(calls))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert tidied == [True]
