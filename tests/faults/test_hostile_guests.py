"""A guest's agent belongs to the customer: whatever it sends, the worker's memory is bounded and other VMs go on.

One worker for all cases, with a healthy VM (a real qemu-ga) in which commands run all the time, small ones and ones
with a long result. Beside it come, for each case, more hostile agents than long replies are read at the same time.
"""

import contextlib
import tempfile
import time
from pathlib import Path

import pytest

from lab.fake_agent.hostility import MARK
from tests.conftest import RedisServer
from tests.faults.peers import MIB, Customer, Pulse, Worker, fake_agents, in_ms, quantile, real_agent, until

MEMORY_BOUND_BYTES = 700 * MIB
HEALTHY, HOSTILE = 100, 200
HOSTILE_AGENTS = 3
CASE_S = 4.0
LONG_BYTES = 1_000_000


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
    timeouts = {"AGENT_PROBE_S": "0.5", "AGENT_SYNC_TIMEOUT_S": "2", "AGENT_RPC_TIMEOUT_S": "3"}
    worker = Worker(folder / "node", redis_url, **timeouts)
    worker.carry(HEALTHY, folder / "healthy.qga")
    with real_agent(folder / "healthy.qga"), worker:
        worker.wait_ready()
        yield worker
        print(f"\nworker at the end: {worker.rss_bytes() // MIB} MiB")


@pytest.fixture(scope="module")
def customer(redis_url, worker):
    with Customer(redis_url) as customer:
        customer.wait_available(HEALTHY)
        yield customer


@pytest.fixture(scope="module")
def pulses(redis_url, customer):
    line = f"head -c {LONG_BYTES} /dev/zero"
    with (
        Pulse(redis_url, HEALTHY) as short,
        Pulse(redis_url, HEALTHY, line=line, size=LONG_BYTES) as long,
    ):
        time.sleep(3)
        yield short, long
        assert not short.wrong
        assert not long.wrong


CASES = {
    "endless line": ("guest-exec-status=endless-line", b"x" * 64),
    "endless line to guest-info": ("guest-info=endless-line", b"x" * 64),
    "200 MB of JSON": ("guest-exec-status=huge-json", b"A" * 64),
    "JSON 100,000 deep": ("guest-exec-status=deep-json", b"[" * 64),
    "64 MiB of [],[]": ("guest-exec-status=many-values", MARK),
    "64 MiB of [],[] to guest-info": ("guest-info=many-values", MARK),
    "flood of small lines": ("guest-ping=flood", MARK),
    "flood of small lines at once": ("guest-info=flood", MARK),
    "events that seem to be replies": ("guest-exec-status=events-for-ever", MARK),
    "junk before the sync": ("guest-sync-delimited=junk-for-ever", MARK),
    "newlines before the sync": ("guest-sync-delimited=newlines-for-ever", MARK),
    "60 MB of base64": ("guest-exec-status=giant-result", MARK),
    "long file for a short read": ("guest-file-read=fat-file", MARK),
    "bad base64": ("guest-exec-status=bad-result", MARK),
    "trickle": ("guest-exec-status=trickle", MARK),
    "error without class": ("guest-exec-status=error-without-class", b"something went wrong"),
    "refusal": ("guest-exec-status=refusal-with-text", MARK),
    "refusal of guest-info": ("guest-info=refusal-with-text", MARK),
    "silence": ("guest-exec-status=mute", MARK),
}


@pytest.mark.parametrize("case", CASES)
def test_case(folder, worker, customer, pulses, case):
    rule, planted = CASES[case]
    short, long = pulses
    worker.forget_peak()
    began = time.monotonic()
    cpu = worker.cpu_s()
    first = HOSTILE + list(CASES).index(case) * 10
    vmids = range(first, first + HOSTILE_AGENTS)
    with fake_agents(folder, first, HOSTILE_AGENTS, "--misbehave", rule):
        for vmid in vmids:
            worker.carry(vmid, folder / f"{vmid}.qga")
        until(10, "carried", lambda: all(customer.vm(vmid) for vmid in vmids))
        commands = [customer.start(vmid, "echo mine") for vmid in vmids for _ in range(3)]
        time.sleep(CASE_S)
        ended = time.monotonic()
        cpu = (worker.cpu_s() - cpu) / (ended - began)
        states = [str(customer.find(c).state) for c in commands]
        for vmid in vmids:
            worker.drop(vmid)
        until(40, "gone", lambda: all(customer.vm(vmid) is None for vmid in vmids))
    print(
        f"\n{case}: short {in_ms(short.beats_s(began, ended))}; long {in_ms(long.beats_s(began, ended))}; "
        f"RSS {worker.rss_bytes() // MIB}, peak {worker.peak_bytes() // MIB} MiB; cpu {cpu:.0%}; {set(states)}"
    )
    for c in commands[:3]:
        print("   ", customer.find(c).message)
    assert planted not in worker.log_path.read_bytes()
