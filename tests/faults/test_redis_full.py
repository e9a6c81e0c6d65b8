"""A Redis that takes nothing more, because its memory is full: as bad as none, and over when there is room."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.records import CommandState
from tests.conftest import RedisServer
from tests.faults.peers import Customer, Worker, fake_agents

VMID = 100
LARGE_BYTES = 1_000_000


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="own") as name:
        yield Path(name)


@pytest.fixture
def customer(own_redis: RedisServer) -> Iterator[Customer]:
    with Customer(own_redis.url) as customer:
        yield customer


@pytest.fixture
def worker(folder: Path, own_redis: RedisServer, customer: Customer) -> Iterator[Worker]:
    worker = Worker(folder / "worker", own_redis.url)
    worker.carry(VMID, folder / f"{VMID}.qga")
    with fake_agents(folder, VMID, 1), worker:
        worker.wait_ready()
        customer.wait_available(VMID)
        yield worker


@pytest.mark.parametrize("size_bytes", [5, LARGE_BYTES])
def test_what_ends_meanwhile_is_told_when_there_is_room(worker: Worker, customer: Customer, size_bytes: int):
    line = f"sleep 1; base64 /dev/urandom | head -c {size_bytes}"  # nothing is gained by compression
    command = customer.wait_running(customer.start(VMID, line))
    customer.client.config_set("maxmemory", 1)
    time.sleep(3)
    assert size_bytes < LARGE_BYTES or customer.find(command.id).state is CommandState.RUNNING, "there was room"
    customer.client.config_set("maxmemory", 0)
    ended = customer.wait(command.id, timeout_s=15)
    assert (ended.state, len(customer.result(ended).stdout)) == (CommandState.EXITED, size_bytes)
    assert worker.process.poll() is None
    assert "Traceback" not in worker.log


def test_the_worker_goes_on_when_there_is_room(worker: Worker, customer: Customer):
    customer.client.config_set("maxmemory", 1)
    time.sleep(12)  # longer than its heartbeat counts
    customer.client.config_set("maxmemory", 0)
    customer.wait_available(VMID)
    ended = customer.wait(customer.start(VMID, "echo hello"))
    assert (ended.state, customer.result(ended).stdout) == (CommandState.EXITED, b"hello\n")
    assert "Traceback" not in worker.log


def test_a_worker_that_is_started_meanwhile_waits_for_room(worker: Worker, customer: Customer):
    assert worker.stop() == 0
    customer.client.config_set("maxmemory", 1)
    worker.start()
    time.sleep(3)
    assert worker.process.poll() is None, worker.last_words
    customer.client.config_set("maxmemory", 0)
    worker.wait_ready()
    customer.wait_available(VMID)
    assert "Traceback" not in worker.log
