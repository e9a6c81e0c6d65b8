"""Commands that are killed: on request or at their run deadline, the whole group, with what they had written."""

import asyncio
import contextlib
import subprocess
import tempfile
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
import redis.asyncio

from app.core import store
from app.core.clock import now
from app.core.records import Command, CommandRequest, CommandState
from lab.fake_agent import FakeAgent
from workers.commands.outcome import Outcomes
from workers.commands.spool import Spool
from workers.commands.start import Starter
from workers.commands.watch import Watcher
from workers.qga.channel import Channel

BLOCKED = (
    "guest-shutdown,guest-set-time,guest-set-user-password,guest-set-vcpus,guest-set-memory-blocks,guest-suspend-disk,"
    "guest-suspend-ram,guest-suspend-hybrid,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,"
    "guest-fstrim,guest-ssh-add-authorized-keys,guest-ssh-remove-authorized-keys"
)
VMID = 10001


class Guest:
    """A guest that is there, with an agent and nothing else."""

    def __init__(self, path):
        self.channel = Channel(path, sync_timeout_s=2, rpc_timeout_s=2, idle_close_s=0, on_end=lambda: None)
        self.lacks_setsid = False
        self.stopped = False

    async def changed(self, timeout_s):
        await asyncio.sleep(min(timeout_s, 0.05))


@contextlib.asynccontextmanager
async def real_agent(path):
    process = subprocess.Popen(  # noqa: ASYNC220 - the agent listens as soon as its socket is there
        ["qemu-ga", "-m", "unix-listen", "-p", path, "-t", path.parent, "-b", BLOCKED]
    )
    try:
        while not path.exists():  # noqa: ASYNC110 - what is polled is the world outside of this loop
            await asyncio.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.wait()


class Node:
    """A node with one guest: starts commands and reads their results as the web half does."""

    def __init__(self, redis_url, client, guest, spool):
        self.store = store.AsyncStore(client)
        large_store = store.Store(redis.Redis.from_url(redis_url))
        outcomes = Outcomes(self.store, large_store, spool, ttl_s=60, output_limit_bytes=2**24)
        self.watcher = Watcher(outcomes, agent_lost_s=5, kill_grace_s=0.4)
        self.starter = Starter(outcomes, self.watcher, lambda _vmid: guest, rpc_timeout_s=2)

    async def start(self, line, *, timeout_s=None, **request):
        command = Command(
            id=str(uuid.uuid4()),
            vmid=VMID,
            account="acme",
            node="node-1",
            state=CommandState.QUEUED,
            created_at=now(),
            deliver_by=now() + timedelta(seconds=9),
            timeout_s=timeout_s,
        )
        call = store.commands.create(command, CommandRequest(line=line, **request), deliver_within_s=9)
        assert await self.store.run(call)
        await self.starter.start(command.id, VMID)
        return await self.store.run(store.commands.find(command.id))

    async def result(self, command, within_s=8):
        async with asyncio.timeout(within_s):
            while True:
                result = (await self.store.run(store.commands.read_result(VMID, command.pid))).result
                if result.command.state.ended:
                    return result if result.whole else await self.store.run(store.commands.fetch_output(result))
                await asyncio.sleep(0.01)


@pytest.fixture(params=["real", "fake"])
async def node(request, redis_url, tmp_path):
    with tempfile.TemporaryDirectory(prefix="qga") as name:
        path = Path(name) / "agent"
        async with real_agent(path) if request.param == "real" else FakeAgent(path):
            client = redis.asyncio.Redis.from_url(redis_url)
            guest = Guest(path)
            node = Node(redis_url, client, guest, Spool(tmp_path))
            yield node
            await node.watcher.close()
            await guest.channel.close()
            await node.store.close()
            await client.aclose()


def is_alive(pid):
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def gone(pid):
    async with asyncio.timeout(3):
        while is_alive(pid):  # noqa: ASYNC110 - what is polled is the world outside of this loop
            await asyncio.sleep(0.01)
    return True


async def test_a_command_past_its_timeout_ends_timed_out_with_what_it_wrote(node):
    command = await node.start("echo before; sleep 60; echo after", timeout_s=0.3)
    result = await node.result(command)
    assert result.command.state is CommandState.TIMED_OUT
    assert result.stdout == b"before\n"
    assert "timeout of 0.3 s" in result.command.message


async def test_a_command_within_its_timeout_is_left_alone(node):
    result = await node.result(await node.start("sleep 0.2; echo done; exit 3", timeout_s=5))
    assert (result.command.state, result.command.exit_code) == (CommandState.EXITED, 3)
    assert result.stdout == b"done\n"


async def test_a_kill_on_request_reaches_the_whole_group(node):
    command = await node.start("sleep 61 & echo $!; sleep 62")
    await asyncio.sleep(0.2)  # until the shell has started its children
    node.watcher.kill(command.id)
    result = await node.result(command)
    assert result.command.state is CommandState.CANCELLED
    assert await gone(int(result.stdout))
    assert await gone(command.pid)


async def test_a_command_that_ignores_term_is_killed_by_force(node):
    command = await node.start("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    await asyncio.sleep(0.2)
    node.watcher.kill(command.id)
    result = await node.result(command)
    assert (result.command.state, result.command.signal) == (CommandState.CANCELLED, 9)
    assert result.stdout == b"ready\n"


async def test_a_grandchild_that_alone_holds_the_output_is_killed_too(node):
    command = await node.start("sleep 63 & echo $!; exit 0")
    assert await gone(command.pid)
    running = await node.store.run(store.commands.find(command.id))
    assert running.state is CommandState.RUNNING
    node.watcher.kill(command.id)
    result = await node.result(command)
    assert result.command.state is CommandState.CANCELLED
    assert await gone(int(result.stdout))


async def test_a_process_that_left_the_group_is_not_waited_for_for_ever(node):
    command = await node.start("setsid sleep 3.7 & echo early; exit 0")
    assert await gone(command.pid)
    node.watcher.kill(command.id)
    result = await node.result(command)
    assert result.command.state in {CommandState.CANCELLED, CommandState.EXITED}
    if result.command.state is CommandState.CANCELLED:
        assert "holds its output open" in result.command.message


async def test_killing_what_has_ended_changes_nothing(node):
    command = await node.start("exit 4")
    before = await node.result(command)
    node.watcher.kill(command.id)
    assert await node.result(command) == before


async def test_stdin_env_and_cwd_reach_the_command(node):
    line = "cat; echo; echo $GREETING; echo $HOME; pwd"
    request = {"stdin": "one\ntwo é", "env": {"GREETING": "a b=c'\""}, "cwd": "/usr"}
    result = await node.result(await node.start(line, **request))
    assert result.stdout.decode() == "one\ntwo é\na b=c'\"\n/root\n/usr\n"


async def test_a_directory_that_is_not_there_is_said_by_the_shell(node):
    result = await node.result(await node.start("echo never", cwd="/not/there"))
    assert (result.command.exit_code, result.stdout) == (125, b"")
    assert b"/not/there" in result.stderr


async def test_a_recycled_pid_ends_the_older_command_as_lost(node):
    older = await node.start("sleep 5")
    newer = await node.start("sleep 0.5; echo mine")
    follow = node.watcher._follows[newer.id]
    node.watcher._lose_namesakes(
        type(follow.running)(
            command_id="another", vmid=VMID, pid=older.pid, agent_identity=None, started_at=now(), timeout_s=None
        )
    )
    assert (await node.result(older)).command.state is CommandState.LOST
    assert (await node.result(newer)).stdout == b"mine\n"


async def test_a_frozen_guest_keeps_its_commands_until_it_is_thawed(redis_url, tmp_path):
    """A frozen guest refuses guest-exec-status with the class of an RPC that is switched off, and forgets nothing."""
    with tempfile.TemporaryDirectory(prefix="qga") as name:
        async with FakeAgent(Path(name) / "agent") as agent:
            client = redis.asyncio.Redis.from_url(redis_url)
            guest = Guest(Path(name) / "agent")
            node = Node(redis_url, client, guest, Spool(tmp_path))
            command = await node.start("sleep 0.2; echo thawed")
            agent.disabled |= {"guest-exec", "guest-exec-status"}
            asked = agent.received("guest-exec-status")
            while agent.received("guest-exec-status") < asked + 3:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            assert (await node.store.run(store.commands.find(command.id))).state is CommandState.RUNNING
            agent.disabled.clear()
            assert (await node.result(command)).stdout == b"thawed\n"
            await node.watcher.close()
            await guest.channel.close()
            await client.aclose()
