"""`hung.*`: a fifth of the fleet is silent and is asked all the time; what the others' clients notice of it."""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence

from bench.agents import Fakes
from bench.client import AsyncClient, exec_path
from bench.figures import quantile
from bench.scene import Scene

_PHASE_S = 10.0
_SETTLE_S = 6.0
"""By then every silent agent has been asked, and the first of those who asked have been told that it doesn't answer."""
_ASK_AGAIN_S = 5.0
_LINE = "true"
_WAIT_S = 30
_SHARE = 0.95


def measure(scene: Scene, healthy: Sequence[int], hung: Fakes) -> Iterator[tuple[str, float]]:
    """Run commands on the healthy agents: while all answer, while some are silent, and when they answer again."""
    clean = asyncio.run(_phase(scene, healthy, hung.vmids))
    hung.go_silent()
    beside = asyncio.run(_phase(scene, healthy, hung.vmids))
    hung.speak_again()
    scene.await_agents(hung.vmids)
    clean += asyncio.run(_phase(scene, healthy, hung.vmids))
    print(
        f"    clean p95 {quantile(clean, _SHARE) * 1000:.1f} ms, beside hung {quantile(beside, _SHARE) * 1000:.1f} ms"
    )
    yield "hung.p95_over_clean", quantile(beside, _SHARE) / quantile(clean, _SHARE)


async def _phase(scene: Scene, healthy: Sequence[int], asked: Sequence[int]) -> list[float]:
    """Ask the others at the same pace whether they answer or not, so that they are all that differs."""
    askers = [asyncio.create_task(_ask(scene, vmid, number / len(asked))) for number, vmid in enumerate(asked)]
    await asyncio.sleep(_SETTLE_S)
    times = await _times_s(scene, healthy)
    for asker in askers:
        asker.cancel()
    await asyncio.gather(*askers, return_exceptions=True)
    return times


async def _ask(scene: Scene, vmid: int, share: float) -> None:
    """Ask every few seconds, each at a moment of its own."""
    await asyncio.sleep(share * _ASK_AGAIN_S)
    while True:
        async with AsyncClient(scene.port, scene.key) as client:
            asked = asyncio.create_task(client.try_post(exec_path(vmid), command=_LINE))
            await asyncio.gather(asked, asyncio.sleep(_ASK_AGAIN_S))


async def _times_s(scene: Scene, vmids: Sequence[int]) -> list[float]:
    times, ends_s = [], time.perf_counter() + _PHASE_S
    async with AsyncClient(scene.port, scene.key) as client:
        for vmid in itertools.cycle(vmids):
            began_s = time.perf_counter()
            if began_s > ends_s:
                break
            await client.post(exec_path(vmid), command=_LINE, wait=_WAIT_S)
            times.append(time.perf_counter() - began_s)
    return times
