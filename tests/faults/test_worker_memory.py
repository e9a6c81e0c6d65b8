"""What a worker needs while it works: no more after ten thousand commands than after one thousand."""

import contextlib
import tempfile
import threading
import time
from pathlib import Path

import pytest

from app.core.records import CommandState
from tests.conftest import RedisServer
from tests.faults.peers import MIB, Customer, Worker, real_agent
from tests.faults.test_hostile_guests import MEMORY_BOUND_BYTES

VMIDS = range(100, 106)
COMMANDS = 10_000
WARM_UP = 1_000
AT_ONCE = 8
LEAK_BYTES = 12 * MIB
"""A leak of 2 kB for each of the other 9,000 commands would be more."""

LARGE = 24
LARGE_BYTES = 8_000_000


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


def run_many(redis_url, count, lines=("echo {0}",), at_once=AT_ONCE):
    """Run ``count`` commands, some at a time in each VM; answer what was wrong with any of them."""
    wrong = []

    def serve(vmid, numbers):
        with Customer(redis_url) as customer:
            for start in range(0, len(numbers), at_once):
                batch = [(number, customer.start(vmid, f"echo {number}")) for number in numbers[start : start + at_once]]
                for number, command_id in batch:
                    result = customer.result(customer.wait(command_id, 60, 0.01))
                    if (result.command.state, result.stdout) != (CommandState.EXITED, f"{number}\n".encode()):
                        wrong.append((number, result))

    threads = [
        threading.Thread(target=serve, args=(vmid, range(index, count, len(VMIDS)))) for index, vmid in enumerate(VMIDS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def test_ten_thousand_commands_leave_nothing_behind(worker, redis_url):
    assert run_many(redis_url, WARM_UP) == []
    before_bytes, began_s = worker.rss_bytes(), time.monotonic()
    assert run_many(redis_url, COMMANDS - WARM_UP) == []
    after_bytes, took_s = worker.rss_bytes(), time.monotonic() - began_s
    rate = (COMMANDS - WARM_UP) / took_s
    print(f"\nRSS after {WARM_UP}: {before_bytes / MIB:.1f} MiB, after {COMMANDS}: {after_bytes / MIB:.1f} MiB; {rate:.0f}/s")
    assert after_bytes - before_bytes < LEAK_BYTES
