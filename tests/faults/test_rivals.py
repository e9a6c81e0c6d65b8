"""Two that want the same: workers with one node's name, workers with one agent socket, a foreign client on a socket.

The one that was there goes on untouched, the other says clearly what is wrong, and no reply goes to the wrong one.
"""

import contextlib
import json
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from app.core.records import CommandState
from tests.faults.peers import Customer, Pulse, Worker, fake_agents, in_ms, until

VMID = 100
NODE_TTL_S = 10
GIVE_UP_S = 30
OTHER_HOST = ("unshare", "--uts", "sh", "-c", 'hostname other-host && exec "$@"', "-")


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="own") as name:
        yield Path(name)


@pytest.fixture
def customer(redis_url):
    with Customer(redis_url) as customer:
        yield customer


@pytest.fixture
def agent(folder):
    """An agent behind a port that serves one client after the other, as QEMU's does.

    A real one that listens by itself won't do: it ends when a client breaks off without having read its reply.
    """
    with fake_agents(folder, VMID, 1):
        yield folder / f"{VMID}.qga"


@pytest.fixture
def first(folder, redis_url, customer, agent):
    """A worker with one VM, at work."""
    worker = Worker(folder / "first", redis_url, AGENT_PROBE_S="0.5", AGENT_SYNC_TIMEOUT_S="1")
    worker.carry(VMID, agent)
    with worker:
        worker.wait_ready()
        customer.wait_available(VMID)
        yield worker


@contextlib.contextmanager
def untouched(first, redis_url):
    """What happens in the block must not be noticed by the customers of the first worker."""
    with Pulse(redis_url, VMID) as pulse:
        began_s = time.monotonic()
        until(10, "commands run", lambda: len(pulse.beats_s(began_s)) > 5)
        yield
        ended_s = time.monotonic()
        until(10, "commands go on", lambda: len(pulse.beats_s(ended_s)) > 5)
    print(f"\nmeanwhile with the first worker: {in_ms(pulse.beats_s(began_s))}")
    assert not pulse.wrong
    assert first.process.poll() is None
    assert "level=error" not in first.log


def test_a_second_worker_with_the_same_spool_ends_at_once(folder, redis_url, first):
    spool = str(folder / "first" / "spool")
    with untouched(first, redis_url), Worker(folder / "second", redis_url, SPOOL_DIR=spool) as second:
        assert second.process.wait(10) == 1
    assert second.log == f"ownup worker: another worker already runs with SPOOL_DIR={spool}\n"


def test_workers_with_the_same_node_name_give_up_here_and_on_another_host(folder, redis_url, agent, first):
    here = Worker(folder / "here", redis_url)
    elsewhere = Worker(folder / "elsewhere", redis_url, prefix=OTHER_HOST)
    with untouched(first, redis_url):
        for rival in (here, elsewhere):
            rival.carry(VMID, agent)
        with here, elsewhere:
            for rival in (here, elsewhere):
                assert rival.process.wait(GIVE_UP_S) == 1
                name = f"node-1@{socket.gethostname()}:{first.process.pid}"
                assert f"ownup worker: worker {name} already speaks for NODE_NAME=node-1" in rival.log
                assert "vm_followed" not in rival.log


def test_a_worker_that_was_killed_is_replaced_at_once(first, customer):
    command_id = customer.start(VMID, "sleep 2; echo done")
    customer.wait_running(command_id)
    first.kill()
    began_s = time.monotonic()
    first.start()
    first.wait_ready()
    took_s = time.monotonic() - began_s
    print(f"\nready {took_s:.1f} s after the start of the second life")
    assert took_s < NODE_TTL_S
    result = customer.result(customer.wait(command_id))
    assert (result.command.state, result.command.message, result.stdout) == (CommandState.EXITED, None, b"done\n")


def test_a_worker_on_another_host_takes_over_when_the_heartbeat_has_ended(folder, redis_url, agent, first, customer):
    """Nobody can tell from there whether the first one still lives."""
    command_id = customer.start(VMID, "sleep 2; echo done")
    customer.wait_running(command_id)
    first.kill()
    with Worker(folder / "elsewhere", redis_url, prefix=OTHER_HOST) as second:
        second.carry(VMID, agent)
        second.wait_ready(GIVE_UP_S)
        assert customer.result(customer.wait(command_id)).stdout == b"done\n"


def test_two_nodes_with_one_agent_socket(folder, redis_url, agent, first):
    """Such as a definition file that was copied to the wrong place."""
    second = Worker(folder / "second", redis_url, node="node-2", AGENT_PROBE_S="0.5")
    second.carry(VMID + 1, agent)
    with untouched(first, redis_url), second, Customer(redis_url, node="node-2") as other:
        second.wait_ready()
        command = other.wait(other.start(VMID + 1, "echo never"))
        assert command.state is CommandState.FAILED
        assert f"{agent} is already used by another OwnUp process with pid" in str(command.message)


# --- somebody else's program on the socket ----------------------------------------------------------------------------


@contextlib.contextmanager
def foreign_client(path):
    """Connect as another program does; the block has the socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        yield client


def ask(client, line):
    """Start a program the way a program without manners does, with an id that others use too."""
    request = {"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", line], "capture-output": True}}
    client.sendall(json.dumps({**request, "id": "__qmp#00000"}).encode())


def test_a_foreign_client_that_waits_is_not_noticed(agent, first, customer):
    with foreign_client(agent) as client:
        ask(client, "echo foreign")
        for number in range(20):
            assert customer.run(VMID, f"echo {number}").stdout == f"{number}\n".encode()
    assert first.process.poll() is None


def test_while_a_foreign_client_holds_the_socket_commands_fail_clearly_and_then_go_on(agent, first, customer):
    before = customer.start(VMID, "sleep 1; echo before")
    customer.wait_running(before)
    with foreign_client(agent) as client:
        ask(client, "echo foreign")
        first.kill()  # the foreign client is the next in the row
        until(10, "it has its pid", lambda: b'"pid"' in client.recv(4096))  # after what the worker had asked, perhaps
        first.start()
        first.wait_ready()
        until(10, "the VM says so", lambda: not customer.vm(VMID).vm.agent_available)
        command = customer.wait(customer.start(VMID, "echo never"))
        assert (command.state, command.message) == (CommandState.FAILED, "QEMU Guest Agent does not answer")
        for number in range(3):
            ask(client, f"echo foreign {number}")  # and leaves without the replies
    began_s = time.monotonic()
    customer.wait_available(VMID)
    print(f"\navailable {time.monotonic() - began_s:.1f} s after the foreign client left")
    for number in range(20):
        assert customer.run(VMID, f"echo {number}").stdout == f"{number}\n".encode()
    assert customer.result(customer.wait(before)).stdout == b"before\n"


def test_a_socket_that_too_many_want_is_said_to_be_so(agent, first, customer):
    with contextlib.ExitStack() as crowd:
        for _ in range(8):
            client = crowd.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                client.connect(os.fspath(agent))
        first.kill()
        first.start()
        first.wait_ready()
        command = customer.wait(customer.start(VMID, "echo never"))
        assert command.state is CommandState.FAILED
    customer.wait_available(VMID)
    assert customer.run(VMID, "echo again").stdout == b"again\n"
