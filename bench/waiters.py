"""`waiters.*`: whether hundreds of clients that wait for results slow down somebody who just reads one."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Self

from bench import crowd
from bench.client import AsyncClient, exec_path
from bench.figures import quantile
from bench.scene import Scene
from lab import LabError

COUNT = 500
WAIT_S = 60

_COMMAND = "exec sleep 90"
_SETTLE_S = 22.0
"""By then a command is polled once a second; a younger one is polled more often, which is no matter of who waits."""
_READ_S = 4.0
_READ_PAUSE_S = 0.005
_SHARE = 0.95


def measure(scene: Scene, vmids: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Read a finished result again and again: on an idle system, beside all who wait, and after they have left."""
    yield from asyncio.run(_measure(scene, vmids)).items()


async def _measure(scene: Scene, vmids: Sequence[int]) -> dict[str, float]:
    async with AsyncClient(scene.port, scene.key) as client:
        pid = (await client.post(exec_path(vmids[0]), command="echo hi", wait=30))["pid"]
        path = f"{exec_path(vmids[0])}?pid={pid}"
        idle = await _reads_s(client, path)
        commands = await crowd.start(scene, _spread(vmids), _COMMAND)
        async with _Waiters(scene) as waiters:
            await waiters.wait_for(commands)
            await asyncio.sleep(_SETTLE_S)
            waiting = await _reads_s(client, path)
            waiters.insist_that_all_wait()
        await crowd.kill(scene, commands)
        idle += await _reads_s(client, path)
    print(
        f"    idle p95 {quantile(idle, _SHARE) * 1000:.2f} ms, beside waiters {quantile(waiting, _SHARE) * 1000:.2f} ms"
    )
    return {
        "waiters.count": len(commands),
        "waiters.get_p95_over_idle": quantile(waiting, _SHARE) / quantile(idle, _SHARE),
    }


async def _reads_s(client: AsyncClient, path: str) -> list[float]:
    times, ends_s = [], time.perf_counter() + _READ_S
    while (began_s := time.perf_counter()) < ends_s:
        await client.get(path)
        times.append(time.perf_counter() - began_s)
        await asyncio.sleep(_READ_PAUSE_S)
    return times


def _spread(vmids: Sequence[int]) -> list[int]:
    return [vmids[number % len(vmids)] for number in range(COUNT)]


class _Waiters:
    """Clients that wait for results, one a command."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._clients = AsyncExitStack()
        self._waits: list[asyncio.Task[object]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for wait in self._waits:
            wait.cancel()
        await asyncio.gather(*self._waits, return_exceptions=True)
        await self._clients.aclose()

    async def wait_for(self, commands: crowd.Started) -> None:
        """Let a client wait for each command."""
        for vmid, pid in commands:
            client = await self._clients.enter_async_context(AsyncClient(self._scene.port, self._scene.key))
            question = client.get(f"{exec_path(vmid)}?pid={pid}&wait={WAIT_S}")
            self._waits.append(asyncio.create_task(question))

    def insist_that_all_wait(self) -> None:
        """Make sure that nobody was answered.

        Raises:
            LabError: Somebody was.
        """
        answered = [wait for wait in self._waits if wait.done()]
        if answered:
            raise LabError(f"{len(answered)} of {len(self._waits)} don't wait any more: {answered[0]}")
