"""What a worker needs while it works: no more after ten thousand commands than after one thousand."""

import contextlib
import tempfile
import threading
import time
from pathlib import Path

import pytest
from rq import Queue

from app.core.queues import queue_name
from tests.conftest import RedisServer
from tests.faults.peers import MIB, Customer, Worker, real_agent, until

VMIDS = range(100, 106)
COMMANDS = 10_000
WARM_UP = 1_000
AT_ONCE = 8
BATCH = 3_000
LEAK_BYTES = 6 * MIB
"""A leak of 1 kB for each of the other 9,000 commands would be more."""

LARGE = 18
LARGE_BYTES = 14_000_000


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="own") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def redis_url(folder):
    (folder / "redis").mkdir()
    server = RedisServer(folder / "redis")
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def worker(folder, redis_url):
    worker = Worker(folder / "node", redis_url, LOG_LEVEL="WARNING", EXEC_TTL_S="60")
    with contextlib.ExitStack() as agents:
        for vmid in VMIDS:
            agents.enter_context(real_agent(folder / f"{vmid}.qga"))
            worker.carry(vmid, folder / f"{vmid}.qga")
        with worker, Customer(redis_url) as customer:
            for vmid in VMIDS:
                customer.wait_available(vmid, 20)
            yield worker


def run_many(redis_url, numbers):
    """Run a command for each number, some at a time in each VM; answer what was wrong with any of them."""
    wrong = []

    def serve(vmid, own):
        with Customer(redis_url) as customer:
            for start in range(0, len(own), AT_ONCE):
                ids = {number: customer.start(vmid, f"echo {number}") for number in own[start : start + AT_ONCE]}
                for number, command_id in ids.items():
                    command = customer.wait(command_id, 60, 0.01)
                    if command.pid is None or customer.result(command).stdout != f"{number}\n".encode():
                        wrong.append((number, command))

    threads = [
        threading.Thread(target=serve, args=(vmid, numbers[index :: len(VMIDS)])) for index, vmid in enumerate(VMIDS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def settled_bytes(worker, redis_url):
    """Tell what the worker occupies when RQ's books are done, which are kept a little behind."""
    with Customer(redis_url) as customer:
        queue = Queue(queue_name("node-1"), connection=customer.client)
        until(60, "the books are done", lambda: customer.client.llen(queue.intermediate_queue_key) == 0, 0.1)
    return worker.rss_bytes()


def test_ten_thousand_commands_leave_nothing_behind(worker, redis_url):
    assert run_many(redis_url, range(WARM_UP)) == []
    before_bytes, took_s = settled_bytes(worker, redis_url), 0.0
    for first in range(WARM_UP, COMMANDS, BATCH):
        began_s = time.monotonic()
        assert run_many(redis_url, range(first, first + BATCH)) == []
        took_s += time.monotonic() - began_s
        after_bytes = settled_bytes(worker, redis_url)
    sizes = f"after {WARM_UP}: {before_bytes / MIB:.1f} MiB, after {COMMANDS}: {after_bytes / MIB:.1f} MiB"
    print(f"\nRSS {sizes}; {(COMMANDS - WARM_UP) / took_s:.0f} commands/s")
    assert after_bytes - before_bytes < LEAK_BYTES


def test_many_large_results_at_once_wait_on_disk(worker, redis_url):
    worker.forget_peak()
    line = f"sleep 1; head -c {LARGE_BYTES} /dev/urandom; head -c {LARGE_BYTES} /dev/urandom >&2"
    with Customer(redis_url) as customer:
        ids = [customer.start(vmid, line) for vmid in VMIDS for _ in range(LARGE // len(VMIDS))]
        results = [customer.result(customer.wait(each, 60, 0.05)) for each in ids]
    assert {(len(each.stdout), len(each.stderr)) for each in results} == {(LARGE_BYTES, LARGE_BYTES)}
    peak_bytes = worker.peak_bytes()
    until(10, "it has given back what it doesn't need", lambda: worker.rss_bytes() < 70 * MIB, 0.1)
    total = LARGE * LARGE_BYTES * 2 // MIB
    print(f"\n{total} MiB of results: peak {peak_bytes // MIB} MiB, then {worker.rss_bytes() // MIB} MiB")
    assert peak_bytes < 400 * MIB  # which they would not fit into
