"""A worker that starts while Redis is away waits for it, and takes its node from its dead predecessor then."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.store import nodes
from tests.conftest import RedisServer
from tests.faults.peers import Customer, Worker, fake_agents, until

VMID = 10001


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ownup") as name:
        yield Path(name)


def test_a_successor_that_starts_without_redis_takes_the_node_when_it_is_back(own_redis: RedisServer, folder: Path):
    with fake_agents(folder, VMID, 1), Worker(folder, own_redis.url) as worker, Customer(own_redis.url) as customer:
        worker.carry(VMID, folder / f"{VMID}.qga")
        customer.wait_available(VMID)
        command_id = customer.start(VMID, "sleep 1; echo went on")
        customer.wait_running(command_id)
        worker.kill()
        own_redis.stop()
        worker.start()
        until(10, "it has begun", lambda: "event=vm_followed" in worker.last_words)
        own_redis.start()

        def speaks_for_its_node() -> bool:
            assert worker.process.poll() is None, worker.last_words
            return any(
                node.worker.endswith(f":{worker.process.pid}") for node in customer.store.run(nodes.list_alive())
            )

        until(8, "it speaks for its node", speaks_for_its_node, 0.05)
        assert customer.result(customer.wait(command_id)).stdout == b"went on\n"
        assert customer.run(VMID, "echo new").stdout == b"new\n"
        assert "Traceback" not in worker.last_words
