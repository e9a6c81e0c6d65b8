"""`restart.*`: the worker is killed and started again; how long until it polls what was running before."""

import asyncio
import time
from collections.abc import Iterator, Sequence

from bench import crowd
from bench.agents import Fakes
from bench.scene import Node, Scene, until

_LINE = "exec sleep 90"
_TIMEOUT_S = 60
_POLL_S = 0.02


def measure(scene: Scene, node: Node, vmids: Sequence[int], fakes: Sequence[Fakes]) -> Iterator[tuple[str, float]]:
    """Kill the worker with a command running in each VM; the fake agents tell who has been polled again."""
    asyncio.run(crowd.start(scene, vmids, _LINE))
    node.kill()
    for group in fakes:
        group.mark()
    began_s = time.perf_counter()
    node.start()
    wanted = sum(len(group.vmids) for group in fakes)
    until(_TIMEOUT_S, "all are polled", lambda: sum(group.polled() for group in fakes) >= wanted, _POLL_S)
    yield "restart.adopt_1000_s", time.perf_counter() - began_s
