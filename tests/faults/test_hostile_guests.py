"""A guest's agent belongs to the customer: whatever it sends, the worker's memory is bounded and other VMs go on.

One worker for all cases. In its healthy VM (a real qemu-ga) commands run all the time, short ones and ones with a long
result; beside it comes, for each case, a group of agents that mean harm, with commands under way in each.
"""

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.core.records import CommandState
from lab.fake_agent.hostility import MARK
from tests.conftest import RedisServer
from tests.faults.peers import MIB, Customer, Pulse, Worker, fake_agents, in_ms, quantile, real_agent, until
from workers.qga import wire

MEMORY_BOUND_BYTES = 512 * MIB
"""What a worker may ever occupy: 40 MiB of its own, one long line with its parts, and two results being delivered."""

SHORT_P95_S = 1.0
LONG_P95_S = 3.0
HEALTHY = 100
AGENTS = 3
COMMANDS = 3
CASE_S = 2.5
LONG_BYTES = 1_000_000

NOT_RUN = {CommandState.FAILED}
EXITED = {CommandState.EXITED}
# A command that comes when the agent has shown already what it is finds it shunned, and has not run.
LOST = {CommandState.LOST} | NOT_RUN
NOT_KNOWN = {CommandState.RUNNING, CommandState.LOST, CommandState.UNKNOWN} | NOT_RUN


@dataclass(frozen=True)
class Case:
    """What the agents do; what they plant in it; which states their commands may be in when the time is up."""

    rule: str
    planted: bytes
    states: set[CommandState]


CASES = {
    "endless line": Case("guest-exec-status=endless-line", b"x" * 64, NOT_KNOWN),
    "endless line to a short question": Case("guest-info=endless-line", b"x" * 64, NOT_RUN),
    "200 MB of JSON": Case("guest-exec-status=huge-json", b"A" * 64, NOT_KNOWN),
    "JSON 100,000 deep": Case("guest-exec-status=deep-json", b"[" * 64, NOT_KNOWN),
    "64 MiB of [],[]": Case("guest-exec-status=many-values", MARK, NOT_KNOWN),
    "64 MiB of [],[] to a short question": Case("guest-info=many-values", MARK, NOT_RUN),
    "flood of small lines while idle": Case("guest-ping=flood", MARK, EXITED),
    "flood of small lines from the start": Case("guest-info=flood", MARK, NOT_RUN),
    "events that seem to be replies": Case("guest-exec-status=events-for-ever", MARK, NOT_KNOWN),
    "junk before the sync": Case("guest-sync-delimited=junk-for-ever", MARK, NOT_RUN),
    "newlines before the sync": Case("guest-sync-delimited=newlines-for-ever", MARK, NOT_RUN),
    "60 MB of base64": Case("guest-exec-status=giant-result", MARK, EXITED | {CommandState.RUNNING}),
    "60 MB of something like base64": Case("guest-exec-status=bad-result", MARK, LOST | {CommandState.RUNNING}),
    "27 MB of words for 512 bytes": Case("guest-file-read=fat-file", MARK, NOT_RUN),
    "trickle": Case("guest-exec-status=trickle", MARK, NOT_KNOWN),
    "error without class": Case("guest-exec-status=error-without-class", b"something went wrong", LOST),
    "refusal with text": Case("guest-exec-status=refusal-with-text", MARK, LOST),
    "refusal of the first question": Case("guest-info=refusal-with-text", MARK, NOT_RUN),
    "silence": Case("guest-exec-status=mute", b"never sent", NOT_KNOWN),
}


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
    patience = {"AGENT_PROBE_S": "0.5", "AGENT_SYNC_TIMEOUT_S": "2", "AGENT_RPC_TIMEOUT_S": "3"}
    worker = Worker(folder / "node", redis_url, **patience)
    worker.carry(HEALTHY, folder / "healthy.qga")
    with real_agent(folder / "healthy.qga"), worker:
        worker.wait_ready()
        yield worker


@pytest.fixture(scope="module")
def customer(redis_url, worker):  # noqa: ARG001 - it serves the customer
    with Customer(redis_url) as customer:
        customer.wait_available(HEALTHY)
        yield customer


@pytest.fixture(scope="module")
def pulses(redis_url, customer):  # noqa: ARG001 - it knows that the VM is there
    line = f"head -c {LONG_BYTES} /dev/zero"
    with Pulse(redis_url, HEALTHY) as short, Pulse(redis_url, HEALTHY, line=line, size=LONG_BYTES) as long:
        began_s = time.monotonic()
        until(30, "the healthy VM is at work", lambda: len(long.beats_s(began_s)) >= 30)
        print(f"\nbefore: short {in_ms(short.beats_s(began_s))}; long {in_ms(long.beats_s(began_s))}")
        yield short, long


@contextlib.contextmanager
def hostile_vms(folder, worker, customer, case):
    """Carry some VMs whose agents do what the case says; numbers are not used twice."""
    first = 200 + 10 * list(CASES.values()).index(case)
    vmids = range(first, first + AGENTS)
    with fake_agents(folder, first, AGENTS, "--misbehave", case.rule):
        for vmid in vmids:
            worker.carry(vmid, folder / f"{vmid}.qga")
        until(10, "the VMs are carried", lambda: all(customer.vm(vmid) for vmid in vmids))
        yield vmids
        for vmid in vmids:
            worker.drop(vmid)
        until(10, "the VMs are dropped", lambda: not any(customer.vm(vmid) for vmid in vmids))


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_guest_costs_little_and_others_do_not_notice(folder, worker, customer, pulses, name):
    case, (short, long) = CASES[name], pulses
    worker.forget_peak()
    began_s = time.monotonic()
    with hostile_vms(folder, worker, customer, case) as vmids:
        ids = [customer.start(vmid, "echo mine") for vmid in vmids for _ in range(COMMANDS)]
        until(CASE_S + 10, "the case has had its time", lambda: time.monotonic() > began_s + CASE_S, 0.1)
        until(
            20, "its commands are where they may be", lambda: {customer.find(each).state for each in ids} <= case.states
        )
    ended_s = time.monotonic()
    shorts, longs = short.beats_s(began_s, ended_s), long.beats_s(began_s, ended_s)
    memory = f"RSS {worker.rss_bytes() // MIB} MiB, peak {worker.peak_bytes() // MIB} MiB"
    print(f"\n{name}: {memory}; short {in_ms(shorts)}; long {in_ms(longs)}")
    assert worker.peak_bytes() < MEMORY_BOUND_BYTES
    assert case.planted not in worker.log_path.read_bytes()
    print(f"tracebacks in the worker's log so far: {worker.log.count('Traceback')}")
    assert not short.wrong + long.wrong
    assert quantile(shorts, 0.95) < SHORT_P95_S
    assert quantile(longs, 0.95) < LONG_P95_S


def test_more_output_than_any_agent_keeps_is_cut_and_flagged(folder, worker, customer):
    with hostile_vms(folder, worker, customer, CASES["60 MB of base64"]) as (vmid, *_):
        result = customer.run(vmid, "echo mine")
        assert result.command.out_truncated
        assert len(result.stdout) == wire.STREAM_LIMIT_BYTES
        assert result.stdout.startswith(MARK * 1000)


def test_afterwards_the_worker_is_as_small_as_before(worker):
    assert worker.rss_bytes() < 150 * MIB
