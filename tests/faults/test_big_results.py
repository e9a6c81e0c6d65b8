"""The largest result there is, 16 MiB on each stream: whole, or said to be lost; never cut without a word.

Over the fake agent, the real one and a real VM; also with the worker killed while the result is on its way. The agent
tells a result once, so that what a killed worker had not read to its end is lost.
"""

import asyncio
import contextlib
import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from app.core.records import CommandState
from lab import accel, guest
from lab.fake_agent import FakeAgent
from lab.fake_agent.exchange import Behaviour
from lab.fake_agent.misbehaviour import Script
from tests.faults.peers import MIB, Customer, Worker, fake_agents, real_agent, running, until

VMID = 100
STREAM_BYTES = 16 * MIB
BLOCK = b"0123456789abcde\n"
STREAM_SHA256 = hashlib.sha256(BLOCK * (STREAM_BYTES // len(BLOCK))).hexdigest()
MAKE = f"yes 0123456789abcde | head -c {STREAM_BYTES}"
LINE = f"{MAKE}; {MAKE} >&2"
FETCH_TIMEOUT_S = 90
STDERR = 2


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="own") as name:
        yield Path(name)


@pytest.fixture
def customer(redis_url):
    with Customer(redis_url) as customer:
        yield customer


@contextlib.contextmanager
def fake(folder):
    with fake_agents(folder, VMID, 1):
        yield folder / f"{VMID}.qga"


@contextlib.contextmanager
def real(folder):
    with real_agent(folder / "agent"):
        yield folder / "agent"


@contextlib.contextmanager
def real_vm(folder):
    """Boot the lab guest; qemu-ga needs some 250 MB to tell such a result."""
    shared = Path(os.environ.get("VAR_DIR") or "var").resolve()
    image = guest.build(shared)
    argv = ["qemu-system-x86_64", "-accel", accel.choose(shared, image), "-m", "768", "-nodefaults", "-no-user-config"]
    argv += ["-display", "none", "-nic", "none", "-device", "virtio-serial-pci"]
    argv += ["-chardev", f"socket,id=qga,path={folder / 'vm'},server=on,wait=off"]
    argv += ["-device", "virtserialport,chardev=qga,id=agent,name=org.qemu.guest_agent.0"]
    with running([*argv, *image.qemu_args()], stdout=subprocess.DEVNULL):
        until(10, "QEMU listens", (folder / "vm").exists)
        yield folder / "vm"


@pytest.fixture(scope="module")
def vm_socket():
    """The agent socket of a VM that all tests share."""
    with tempfile.TemporaryDirectory(prefix="own") as name, real_vm(Path(name)) as socket:
        yield socket


@pytest.fixture(params=["fake", "real", "vm"])
def qga(request, folder):
    """The socket of each kind of agent."""
    if request.param == "vm":
        yield request.getfixturevalue("vm_socket")
        return
    with {"fake": fake, "real": real}[request.param](folder) as socket:
        yield socket


@contextlib.contextmanager
def at_work(folder, redis_url, customer, qga):
    worker = Worker(folder / "node", redis_url, AGENT_PROBE_S="0.5")
    worker.carry(VMID, qga)
    with worker:
        worker.wait_ready()
        customer.wait_available(VMID, 60)
        yield worker


def sums(result):
    return [hashlib.sha256(stream).hexdigest() for stream in (result.stdout, result.stderr)]


def test_two_full_streams_arrive_whole(folder, redis_url, customer, qga):
    with at_work(folder, redis_url, customer, qga) as worker:
        customer.run(VMID, "echo short")  # shows how the agent flags
        began_s = time.monotonic()
        result = customer.run(VMID, LINE, FETCH_TIMEOUT_S)
        took_s = time.monotonic() - began_s
        print(f"\n16 + 16 MiB in {took_s:.1f} s; the worker's peak is {worker.peak_bytes() // MIB} MiB")
        assert (result.command.state, result.command.exit_code) == (CommandState.EXITED, 0)
        assert sums(result) == [STREAM_SHA256] * 2
        assert not result.command.out_truncated
        assert not result.command.err_truncated


def is_fetching(worker):
    """Tell whether a worker receives a long reply: it has opened a file then that nobody else can see.

    The standard streams don't count: its output may well be such a file, of pytest's.
    """
    with contextlib.suppress(FileNotFoundError):
        opened = [fd for fd in Path(f"/proc/{worker.process.pid}/fd").iterdir() if int(fd.name) > STDERR]
        links = [fd.readlink() for fd in opened]
        return any(str(link).endswith("(deleted)") for link in links)
    return False


def test_in_a_vm_a_worker_that_is_killed_on_the_way_leaves_it_whole_or_lost(folder, redis_url, customer, vm_socket):
    with at_work(folder, redis_url, customer, vm_socket) as worker:
        command_id = customer.start(VMID, LINE)
        until(FETCH_TIMEOUT_S, "the result is on its way", lambda: is_fetching(worker), 0.001)
        worker.kill()
        worker.start()
        command = customer.wait(command_id, FETCH_TIMEOUT_S)
        print(f"\n{command.state}: {command.message}")
        assert command.state in {CommandState.EXITED, CommandState.LOST}
        if command.state is CommandState.EXITED:
            assert sums(customer.result(command)) == [STREAM_SHA256] * 2
        assert customer.run(VMID, "echo mine", FETCH_TIMEOUT_S).stdout == b"mine\n"


class StopsHalfWay(Behaviour):
    """Tells the first half of a long reply, and the rest when ``released`` is set."""

    def __init__(self):
        self.reached, self.released = asyncio.Event(), asyncio.Event()

    async def attend(self, exchange):
        line = await exchange.line()
        middle = len(line) // 2 if len(line) > MIB else len(line)
        await exchange.port.write(line[:middle])
        if middle < len(line):
            self.reached.set()
            await self.released.wait()
            await exchange.port.write(line[middle:])


async def test_a_worker_that_is_killed_within_the_reply_leaves_it_lost(folder, redis_url, customer):
    half_way = StopsHalfWay()
    async with FakeAgent(folder / "agent", behaviour=Script({"guest-exec-status": half_way})):
        worker = Worker(folder / "node", redis_url, AGENT_PROBE_S="0.5")
        worker.carry(VMID, folder / "agent")
        with worker:
            await asyncio.to_thread(worker.wait_ready)
            command_id = await asyncio.to_thread(customer.start, VMID, LINE)
            async with asyncio.timeout(30):
                await half_way.reached.wait()
            worker.kill()
            half_way.released.set()
            worker.start()
            command = await asyncio.to_thread(customer.wait, command_id)
            assert command.state is CommandState.LOST
            assert command.message
            result = await asyncio.to_thread(customer.run, VMID, "echo mine")
            assert result.stdout == b"mine\n"


def test_a_worker_that_is_killed_behind_the_reply_loses_nothing(folder, redis_url, customer, redis_server):
    """The result waits in the spool; Redis is busy with something else meanwhile."""
    with fake(folder) as qga, at_work(folder, redis_url, customer, qga) as worker:
        command_id = customer.start(VMID, f"sleep 1; {LINE}")
        customer.wait_running(command_id)
        spool = worker.folder / "spool"
        with Customer(redis_server.url) as other:
            other.client.execute_command("CLIENT", "PAUSE", 3000, "WRITE")
        until(30, "the result is in the spool", lambda: any(spool.glob("*.result")), 0.001)
        worker.kill()
        worker.start()
        result = customer.result(customer.wait(command_id, 60))
        assert result.command.state is CommandState.EXITED
        assert sums(result) == [STREAM_SHA256] * 2
        until(10, "the spool is empty", lambda: not any(spool.glob("*.result")))
