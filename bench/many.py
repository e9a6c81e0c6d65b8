"""`many.*`: commands a second with 50 clients on 50 real agents, through HTTP and over the raw sockets of 50 twins."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from bench.client import AsyncClient, exec_path
from bench.figures import median
from bench.raw import AsyncRawAgent
from bench.scene import Scene
from lab import LabError

ROUNDS = 4
ROUND_S = 3.0

_LINE = "true"
_WAIT_S = 30

Run = Callable[[], Awaitable[int]]
"""Runs one command and tells its exit code."""


def measure(scene: Scene, vmids: Sequence[int], twins: Sequence[Path]) -> Iterator[tuple[str, float]]:
    """Let both crowds work in turns."""
    http, raw = asyncio.run(_measure(scene, vmids, twins))
    yield "many.commands_per_s", http
    yield "many.raw_per_s", raw
    yield "many.over_raw", http / raw


async def _measure(scene: Scene, vmids: Sequence[int], twins: Sequence[Path]) -> tuple[float, float]:
    async with AsyncExitStack() as opened:
        http = [_http(await opened.enter_async_context(AsyncClient(scene.port, scene.key)), vmid) for vmid in vmids]
        raw = [_raw(await opened.enter_async_context(AsyncRawAgent(twin))) for twin in twins]
        await _rate(http, 1.0)
        await _rate(raw, 1.0)
        rates = [(await _rate(http, ROUND_S), await _rate(raw, ROUND_S)) for _ in range(ROUNDS)]
    return median([rate for rate, _ in rates]), median([rate for _, rate in rates])


async def _rate(runs: Sequence[Run], seconds: float) -> float:
    began_s = time.perf_counter()
    done = await asyncio.gather(*(_again_and_again(run, began_s + seconds) for run in runs))
    return sum(done) / (time.perf_counter() - began_s)


async def _again_and_again(run: Run, ends_s: float) -> int:
    done = 0
    while time.perf_counter() < ends_s:
        if (code := await run()) != 0:
            raise LabError(f"{_LINE!r} ended with {code}")
        done += 1
    return done


def _http(client: AsyncClient, vmid: int) -> Run:
    async def run() -> int:
        code: int = (await client.post(exec_path(vmid), command=_LINE, wait=_WAIT_S))["exitcode"]
        return code

    return run


def _raw(agent: AsyncRawAgent) -> Run:
    async def run() -> int:
        return (await agent.run(_LINE)).exit_code

    return run
