"""Starting many commands at once, one for each VM given."""

import asyncio
from collections.abc import Sequence

from bench.client import AsyncClient, exec_path
from bench.scene import Scene

_CLIENTS = 25

Started = list[tuple[int, int]]
"""VM and pid of each."""


async def start(scene: Scene, vmids: Sequence[int], line: str) -> Started:
    """Start a command in each VM; doesn't wait for any end."""
    wanted = iter(vmids)
    started: Started = []

    async def starter() -> None:
        async with AsyncClient(scene.port, scene.key) as client:
            for vmid in wanted:
                pid = (await client.post(exec_path(vmid), command=line))["pid"]
                started.append((vmid, pid))

    await asyncio.gather(*(starter() for _ in range(_CLIENTS)))
    return started


async def kill(scene: Scene, commands: Started) -> None:
    """Kill commands and wait for their ends."""
    left = iter(commands)

    async def killer() -> None:
        async with AsyncClient(scene.port, scene.key) as client:
            for vmid, pid in left:
                await client.delete(f"{exec_path(vmid)}?pid={pid}")

    await asyncio.gather(*(killer() for _ in range(_CLIENTS)))
