"""A channel that is held: while a guest's memory is saved or replaced no call reaches its agent, and none is lost."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.core.errors import AgentSilentError
from lab.fake_agent import FakeAgent
from workers.qga.channel import Channel

TIMEOUT_S = 5


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="qga") as name:
        yield Path(name) / "agent"


@pytest.fixture
async def agent(path: Path) -> AsyncIterator[FakeAgent]:
    async with FakeAgent(path) as agent:
        yield agent


@pytest.fixture
async def channel(path: Path, agent: FakeAgent) -> AsyncIterator[Channel]:  # noqa: ARG001 - it must be there
    channel = Channel(path, sync_timeout_s=2, rpc_timeout_s=2, idle_close_s=0, on_end=lambda: None)
    yield channel
    await channel.close()


async def ping(channel: Channel) -> object:
    return await channel.call("guest-ping", timeout_s=TIMEOUT_S)


async def test_calls_wait_and_go_on_afterwards(channel: Channel, agent: FakeAgent) -> None:
    await channel.open()
    async with channel.held(TIMEOUT_S):
        calls = [asyncio.create_task(ping(channel)) for _ in range(3)]
        opening = asyncio.create_task(channel.open())
        await asyncio.sleep(0.05)
        assert agent.received("guest-ping") == 0
        assert not any(task.done() for task in (*calls, opening))
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*calls, opening)
    assert agent.received("guest-ping") == 3


async def test_a_session_that_was_closed_meanwhile_is_opened_anew(channel: Channel, agent: FakeAgent) -> None:
    await channel.open()
    infos = agent.received("guest-info")
    async with channel.held(TIMEOUT_S):
        await channel.reset()
        call = asyncio.create_task(ping(channel))
    async with asyncio.timeout(TIMEOUT_S):
        await call
    assert agent.received("guest-info") == infos + 1


async def test_calls_under_way_end_first(channel: Channel) -> None:
    await channel.open()
    call = asyncio.create_task(ping(channel))
    await asyncio.sleep(0)
    assert not call.done()
    async with channel.held(TIMEOUT_S):
        assert call.done()


async def test_a_session_that_is_being_opened_is_opened_first(channel: Channel) -> None:
    opening = asyncio.create_task(channel.open())
    await asyncio.sleep(0)
    async with channel.held(TIMEOUT_S):
        assert channel.facts is not None
    async with asyncio.timeout(TIMEOUT_S):
        await opening


async def test_a_call_that_does_not_end_is_waited_for_only_so_long(channel: Channel, agent: FakeAgent) -> None:
    await channel.open()
    agent.go_silent()
    call = asyncio.create_task(ping(channel))
    await asyncio.sleep(0)
    async with channel.held(0.1):
        assert not call.done()
        await channel.reset()
    with pytest.raises(AgentSilentError):
        await call


async def test_whatever_happens_while_it_is_held_it_is_let_go(channel: Channel) -> None:
    with pytest.raises(ValueError, match="x"):
        async with channel.held(TIMEOUT_S):
            raise ValueError("x")
    async with asyncio.timeout(TIMEOUT_S):
        await ping(channel)
