"""What a worker keeps of a VM's use reaches Redis, unless the VM is another node's or Redis is away."""

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis.asyncio

from app.core import clock
from app.core.records import Node
from app.core.store import AsyncStore, disks, metrics, nodes, vms
from app.core.store.disks import Disk
from app.core.store.metrics import Timeframe, Usage
from tests.web import RUNNING_VM
from workers.presence import Presence

DISK = Disk(
    name="virtio0", removable=False, size_bytes=1, used_bytes=1, read_bytes=1, written_bytes=1, reads=1, writes=1
)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[AsyncStore]:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        calls = AsyncStore(client)
        yield calls
        await calls.close()


async def keep(presence: Presence) -> None:
    await presence.add_usage("acme", 10000, Usage(cpu=0.5), 30)
    await presence.set_disks("acme", 10000, (DISK,))


async def test_what_a_vm_used_and_its_disks_are_kept(store: AsyncStore) -> None:
    presence = Presence(store)
    await presence.publish(RUNNING_VM)
    await keep(presence)
    (sample,) = await store.run(metrics.read("acme", 10000, Timeframe.HOUR))
    assert sample.usage.cpu == 0.5
    assert await store.run(disks.read("acme", 10000)) == (DISK,)


async def test_of_a_vmid_that_another_living_node_has_nothing_is_kept(store: AsyncStore) -> None:
    other = Node(name="node-2", worker="w", vms=1, broken_definitions=0, since=clock.now())
    await store.run(nodes.beat(other))
    await store.run(vms.publish(replace(RUNNING_VM, node="node-2")))
    presence = Presence(store)
    await presence.publish(RUNNING_VM)
    await keep(presence)
    assert await store.run(metrics.read("acme", 10000, Timeframe.HOUR)) == ()
    assert await store.run(disks.read("acme", 10000)) is None


async def test_a_store_that_is_away_leaves_a_gap_and_no_more(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(tmp_path / "redis.sock"))
        async with redis.asyncio.Redis.from_url(f"unix://{tmp_path}/redis.sock") as client:
            await keep(Presence(AsyncStore(client)))
