"""A command's road through one worker: sent at most once, followed to its end, and told truly whatever fails.

The worker's own parts, put together as it puts them together itself, on a real Redis; the guest is the fake agent,
which really runs programs and can be killed, restarted and silenced.
"""

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from app.core import env, store
from app.core.clock import now
from app.core.queues import KILL_COMMAND, START_COMMAND
from app.core.records import Command, CommandRequest, CommandState, Job, JobKind, JobState
from app.core.store import Call
from lab.fake_agent import FakeAgent
from lab.fake_agent.exchange import Exchange, Honest
from lab.fake_agent.misbehaviour import Late, Mute, Script
from tests.conftest import RedisServer
from tests.spooled import spooled
from workers.__main__ import _build, _Parts, _redis
from workers.commands import watch
from workers.settings import WorkerSettings
from workers.vms.vm import Vm

VMID = 10001
NODE = "node-1"


async def until(reached: Callable[[], object], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not reached():  # noqa: ASYNC110 - what is polled is the world outside of this loop
            await asyncio.sleep(0.01)


class Records:
    """Redis as the web half uses it."""

    def __init__(self, client: redis.Redis) -> None:
        self.store = store.Store(client)

    def create(self, line: str, *, deliver_within_s: float = 9) -> str:
        command = Command(
            id=str(uuid.uuid4()),
            vmid=VMID,
            account="acme",
            node=NODE,
            state=CommandState.QUEUED,
            created_at=now(),
            deliver_by=now(),
        )
        request = CommandRequest(line=line)
        assert self.store.run(store.commands.create(command, request, deliver_within_s=deliver_within_s))
        return command.id

    def find(self, command_id: str) -> Command:
        command = self.store.run(store.commands.find(command_id))
        assert command is not None
        return command

    def is_running(self, command_id: str) -> bool:
        return self.find(command_id).state is CommandState.RUNNING

    async def ended(self, command_id: str) -> Command:
        await until(lambda: self.find(command_id).state.ended)
        return self.find(command_id)

    def stdout(self, command: Command) -> bytes:
        assert command.pid is not None
        result = self.store.run(store.commands.read_result(VMID, command.pid)).result
        assert result is not None
        assert result.command.id == command.id
        whole = result if result.whole else self.store.run(store.commands.fetch_output(result))
        return whole.stdout


class Worker:
    """A worker without its RQ half: a test plays RQ, by calling the coroutine that the job's name stands for."""

    def __init__(self, parts: _Parts) -> None:
        self.adopter = parts.adopter
        self.spool_dir = parts.settings.spool_dir
        self._find_vm = parts.registry.find
        self._start = parts.rq_worker._jobs[START_COMMAND]
        self.kill = parts.rq_worker._jobs[KILL_COMMAND]

    @property
    def vm(self) -> Vm:
        vm = self._find_vm(VMID)
        assert vm is not None
        return vm

    async def start(self, command_id: str, vmid: int) -> None:
        await self._start(command_id, vmid)

    async def run(self, records: Records, line: str) -> Command:
        command_id = records.create(line)
        await self.start(command_id, VMID)
        return await records.ended(command_id)

    def spooled(self) -> list[str]:
        return spooled(self.spool_dir)


@contextlib.asynccontextmanager
async def working(folder: Path, redis_url: str) -> AsyncIterator[Worker]:
    """Let a worker live; its end is that of a killed one: nothing is waited for, nothing is written any more."""
    environ = {"REDIS_URL": redis_url, "VM_DIR": str(folder), "SPOOL_DIR": str(folder / "spool"), "NODE_NAME": NODE}
    quick = {"REDIS_TIMEOUT_S": "1", "AGENT_SYNC_TIMEOUT_S": "1", "AGENT_RPC_TIMEOUT_S": "1.5", "AGENT_PROBE_S": "0.1"}
    settings = env.load(WorkerSettings, environ | quick)
    async with _redis(settings, tries=2) as client:
        redis_store = store.AsyncStore(client)
        parts = _build(settings, redis_store, client)
        await parts.registry.scan()
        delivering = asyncio.create_task(parts.outcomes.deliver_later())
        try:
            yield Worker(parts)
        finally:
            delivering.cancel()
            await parts.watcher.close()
            await parts.registry.close()
            await redis_store.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """The node's folder: one VM, whose agent socket is in it, and the spool. Short, because it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="ownup") as name:
        definition = f'vmid = {VMID}\nname = "a"\naccount = "acme"\n[sockets]\nqga = "agent"\n'
        (Path(name) / "vm.toml").write_text(definition)
        yield Path(name)


@pytest.fixture
async def agent(folder: Path) -> AsyncIterator[FakeAgent]:
    async with FakeAgent(folder / "agent") as agent:
        yield agent


@pytest.fixture
async def worker(folder: Path, redis_url: str) -> AsyncIterator[Worker]:
    async with working(folder, redis_url) as worker:
        yield worker


@pytest.fixture
def records(redis_url: str) -> Iterator[Records]:
    with redis.Redis.from_url(redis_url) as client:
        yield Records(client)


def waiting_for(path: Path, then: str) -> str:
    """Write a line that goes on when a file is there."""
    return f"while [ ! -e {path} ]; do sleep 0.02; done; {then}"


# --- starting ---------------------------------------------------------------------------------------------------------


async def test_a_command_runs_and_its_end_is_recorded(agent: FakeAgent, worker: Worker, records: Records) -> None:
    command = await worker.run(records, "echo out; echo err >&2; exit 3")
    assert (command.state, command.exit_code, command.signal) == (CommandState.EXITED, 3, None)
    assert command.agent_identity is not None
    assert command.created_at < command.sent_at < command.started_at < command.ended_at  # type: ignore[operator]
    assert records.stdout(command) == b"out\n"
    await until(lambda: worker.spooled() == [])
    assert records.store.run(store.commands.list_open(NODE)) == ()
    assert agent.received("guest-exec") == 1


async def test_a_command_is_sent_once_though_its_job_runs_many_times(
    agent: FakeAgent, worker: Worker, records: Records, tmp_path: Path
) -> None:
    command_id = records.create(f"echo ran >>{tmp_path}/ran")
    await asyncio.gather(*(worker.start(command_id, VMID) for _ in range(20)))
    await records.ended(command_id)
    await worker.start(command_id, VMID)
    assert agent.received("guest-exec") == 1
    assert (tmp_path / "ran").read_text() == "ran\n"


async def test_no_reply_means_unknown_and_is_never_tried_again(
    agent: FakeAgent, worker: Worker, records: Records, tmp_path: Path
) -> None:
    agent.behaviour = Script({"guest-exec": Mute()})
    command_id = records.create(f"echo ran >>{tmp_path}/ran")
    await worker.start(command_id, VMID)
    command = await records.ended(command_id)
    assert (command.state, command.pid) == (CommandState.UNKNOWN, None)
    assert command.message == "The command may have run: guest-exec: no reply within 1.5 s"
    agent.behaviour = Honest()
    await worker.start(command_id, VMID)
    await worker.run(records, "true")
    assert agent.received("guest-exec") == 2
    assert (tmp_path / "ran").read_text() == "ran\n", "it had run, so unknown was the truth"


async def test_a_refusal_means_failed_and_says_why(agent: FakeAgent, worker: Worker, records: Records) -> None:
    await worker.run(records, "true")
    agent.disabled.add("guest-exec")
    command = await worker.run(records, "true")
    assert (command.state, command.pid) == (CommandState.FAILED, None)
    assert "guest-exec has been disabled" in (command.message or "")
    assert not worker.vm.lacks_setsid


class RefusesInHalfAPair(Honest):
    """Says no in words that JSON can hold and UTF-8 can't."""

    async def attend(self, exchange: Exchange) -> None:
        line = b'{"error": {"class": "GenericError", "desc": "no \\ud800 no"}, "id": "%b"}\n'
        await exchange.port.write(line % exchange.request_id.encode())


async def test_a_refusal_that_no_utf8_can_hold_is_recorded_all_the_same(
    records: Records, agent: FakeAgent, worker: Worker
):
    agent.behaviour = Script({"guest-exec": RefusesInHalfAPair()})
    command = await worker.run(records, "true")
    assert (command.state, command.message) == (CommandState.FAILED, "guest-exec: no ? no")
    assert worker.spooled() == []


async def test_a_guest_that_forbids_commands_is_not_asked(folder: Path, worker: Worker, records: Records) -> None:
    async with FakeAgent(folder / "agent", disabled={"guest-exec"}) as agent:
        command = await worker.run(records, "true")
        assert command.state is CommandState.FAILED
        assert command.message == "guest-exec is disabled in the guest's QEMU Guest Agent"
        assert agent.received("guest-exec") == 0


async def test_a_vm_that_is_off_means_failed(worker: Worker, records: Records) -> None:
    command = await worker.run(records, "true")
    assert (command.state, command.message) == (
        CommandState.FAILED,
        "the VM's agent socket is not there: the VM is off",
    )


async def test_a_vm_that_is_no_longer_here_means_failed(worker: Worker, records: Records) -> None:
    command_id = records.create("true")
    await worker.start(command_id, VMID + 1)
    command = await records.ended(command_id)
    assert (command.state, command.message) == (CommandState.FAILED, "this node no longer carries the VM")


async def test_a_command_past_its_delivery_deadline_is_not_sent(
    agent: FakeAgent, worker: Worker, records: Records
) -> None:
    command_id = records.create("true", deliver_within_s=0)
    await worker.start(command_id, VMID)
    command = await records.ended(command_id)
    assert (command.state, command.pid) == (CommandState.EXPIRED, None)
    assert command.message == "The command was not delivered in time; it has not run"
    assert agent.received("guest-exec") == 0


async def test_an_agent_that_is_busy_with_others_is_not_taken_for_silent(
    agent: FakeAgent, worker: Worker, records: Records
) -> None:
    await worker.run(records, "true")
    agent.behaviour = Script({
        "guest-exec": Late(0.2)
    })  # eight take longer than the 0.5 s in which one must be answered
    commands = await asyncio.gather(*(worker.run(records, f"exit {number}") for number in range(8)))
    assert [command.exit_code for command in commands] == list(range(8))


class WithoutSetsid(Honest):
    """The agent of a guest in whose PATH no program stands."""

    async def attend(self, exchange: Exchange) -> None:
        request: Any = exchange._request
        if exchange.rpc == "guest-exec":
            request["arguments"]["env"] = ["PATH=/none"]
        await super().attend(exchange)


async def test_a_guest_without_setsid_runs_commands_too_and_is_asked_in_vain_only_once(
    agent: FakeAgent, worker: Worker, records: Records
) -> None:
    agent.behaviour = WithoutSetsid()
    first, second = await worker.run(records, "echo first"), await worker.run(records, "echo second")
    assert (records.stdout(first), records.stdout(second)) == (b"first\n", b"second\n")
    assert worker.vm.lacks_setsid
    assert agent.received("guest-exec") == 3


# --- watching ---------------------------------------------------------------------------------------------------------


async def test_a_new_command_is_left_alone_for_half_of_what_its_start_took(
    agent: FakeAgent, worker: Worker, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LONGEST_FIRST_PAUSE_S", 5.0)
    agent.behaviour = Script({"guest-exec": Late(1.0)})
    command_id = records.create("true")
    await worker.start(command_id, VMID)
    assert records.is_running(command_id)
    assert agent.received("guest-exec-status") == 0
    assert (await records.ended(command_id)).exit_code == 0
    assert agent.received("guest-exec-status") == 1


@pytest.mark.usefixtures("agent")
async def test_a_kill_ends_the_pause_and_polling_starts_over(
    worker: Worker, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    elapsed: list[float] = []

    def pause_once(elapsed_s: float, **_: float) -> float:
        elapsed.append(elapsed_s)
        return 60.0 if len(elapsed) == 1 else 0.01

    monkeypatch.setattr(watch, "_LONGEST_PAUSE_S", 60.0)
    monkeypatch.setattr(watch, "poll_pause_s", pause_once)
    command_id = records.create("trap 'sleep 0.2; exit' TERM; sleep 60")
    await worker.start(command_id, VMID)
    await until(lambda: elapsed)
    await asyncio.sleep(1)
    await worker.kill(command_id)
    assert (await records.ended(command_id)).state is CommandState.CANCELLED
    assert max(elapsed) < 1


async def test_a_restarted_agent_means_lost(agent: FakeAgent, worker: Worker, records: Records) -> None:
    command_id = records.create("sleep 60")
    await worker.start(command_id, VMID)
    agent.restart()
    await worker.vm.channel.reset()  # what a VM does when QEMU's monitor says that the guest closed the agent's port
    command = await records.ended(command_id)
    assert (command.state, command.exit_code) == (CommandState.LOST, None)
    assert (command.message or "").startswith("The result can't be known: the guest agent ")


async def test_a_rebooted_guest_means_lost(agent: FakeAgent, worker: Worker, records: Records) -> None:
    command_id = records.create("sleep 60")
    await worker.start(command_id, VMID)
    await agent.reboot()
    await worker.vm.channel.reset()
    assert (await records.ended(command_id)).state is CommandState.LOST


async def test_a_vm_that_goes_away_means_lost(folder: Path, worker: Worker, records: Records) -> None:
    command_id = records.create("sleep 60")
    async with FakeAgent(folder / "agent"):
        await worker.start(command_id, VMID)
        assert records.is_running(command_id)
    command = await records.ended(command_id)
    assert command.state is CommandState.LOST
    assert command.message in (  # by whoever sees it first
        "The result can't be known: the VM was stopped",
        "The result can't be known: the VM stopped while the command ran",
    )


async def test_a_recycled_pid_never_brings_another_commands_result(
    folder: Path, worker: Worker, records: Records, tmp_path: Path
) -> None:
    async with FakeAgent(folder / "agent", reuse_pids=True) as agent:
        older = records.create(waiting_for(tmp_path / "go", "echo older"))
        await worker.start(older, VMID)
        agent.restart()
        await worker.vm.channel.reset()
        newer = await worker.run(records, "echo newer")
        lost = await records.ended(older)
        assert lost.pid == newer.pid
        assert (lost.state, newer.state) == (CommandState.LOST, CommandState.EXITED)
        assert records.stdout(newer) == b"newer\n"


async def test_an_agent_that_stands_still_for_a_while_does_not_end_what_runs(
    agent: FakeAgent, worker: Worker, records: Records, tmp_path: Path
) -> None:
    command_id, other = records.create(waiting_for(tmp_path / "go", "echo done")), records.create("true")
    await worker.start(command_id, VMID)
    agent.go_silent()
    await worker.start(other, VMID)  # it gives up, and with that the connection is closed
    assert (await records.ended(other)).state is CommandState.UNKNOWN
    assert records.is_running(command_id)
    agent.speak_again()
    # What was asked on the closed connection is answered first; an end told there would be lost, and would read so.
    await until(lambda: worker.vm.channel.facts is not None)
    (tmp_path / "go").touch()
    command = await records.ended(command_id)
    assert (command.state, records.stdout(command)) == (CommandState.EXITED, b"done\n")


# --- Redis away -------------------------------------------------------------------------------------------------------


async def test_a_result_outlives_the_absence_of_redis(
    folder: Path, agent: FakeAgent, own_redis: RedisServer, tmp_path: Path
) -> None:
    async with working(folder, own_redis.url) as worker:
        with own_redis.client() as client:
            records = Records(client)
            command_id = records.create(waiting_for(tmp_path / "go", "echo kept"))
            await worker.start(command_id, VMID)
            await asyncio.to_thread(own_redis.stop)
            (tmp_path / "go").touch()
            await until(lambda: f"{command_id}.result" in worker.spooled())
            await asyncio.to_thread(own_redis.start)
            command = await records.ended(command_id)
            assert (command.state, records.stdout(command)) == (CommandState.EXITED, b"kept\n")
            await until(lambda: f"{command_id}.result" not in worker.spooled())
            assert agent.received("guest-exec") == 1


async def test_what_a_killed_worker_left_in_the_spool_is_delivered_by_the_next(
    folder: Path, agent: FakeAgent, own_redis: RedisServer, tmp_path: Path
) -> None:
    with own_redis.client() as client:
        records = Records(client)
        command_id = records.create(waiting_for(tmp_path / "go", "echo kept"))
        async with working(folder, own_redis.url) as worker:
            await worker.start(command_id, VMID)
            await asyncio.to_thread(own_redis.stop)
            (tmp_path / "go").touch()
            await until(lambda: f"{command_id}.result" in worker.spooled())
        await asyncio.to_thread(own_redis.start)
        assert records.is_running(command_id)
        async with working(folder, own_redis.url) as worker:
            await worker.adopter.adopt()
            command = await records.ended(command_id)
            assert (command.state, records.stdout(command)) == (CommandState.EXITED, b"kept\n")
            await until(lambda: f"{command_id}.result" not in worker.spooled())
    assert agent.received("guest-exec") == 1


async def test_a_start_that_redis_never_heard_of_is_told_by_the_next_worker(
    folder: Path, agent: FakeAgent, own_redis: RedisServer
) -> None:
    agent.behaviour = Script({"guest-exec": Late(0.4)})
    with own_redis.client() as client:
        records = Records(client)
        command_id = records.create("echo kept")
        async with working(folder, own_redis.url) as worker:
            starting = asyncio.create_task(worker.start(command_id, VMID))
            await until(lambda: records.find(command_id).sent_at is not None)
            await asyncio.to_thread(own_redis.stop)
            await until(lambda: {f"{command_id}.start", f"{command_id}.result"} <= set(worker.spooled()))
            starting.cancel()
            await asyncio.wait([starting])
        await asyncio.to_thread(own_redis.start)
        async with working(folder, own_redis.url) as worker:
            await worker.adopter.adopt()
            command = await records.ended(command_id)
            assert (command.state, records.stdout(command)) == (CommandState.EXITED, b"kept\n")
            await until(lambda: not [name for name in worker.spooled() if command_id in name])


# --- taking over ------------------------------------------------------------------------------------------------------


async def test_a_running_command_is_taken_over_and_followed_to_its_end(
    folder: Path, agent: FakeAgent, redis_url: str, records: Records, tmp_path: Path
) -> None:
    command_id = records.create(waiting_for(tmp_path / "go", "echo taken over"))
    async with working(folder, redis_url) as worker:
        await worker.start(command_id, VMID)
    assert records.is_running(command_id)
    async with working(folder, redis_url) as worker:
        await worker.adopter.adopt()
        (tmp_path / "go").touch()
        command = await records.ended(command_id)
    assert (command.state, records.stdout(command)) == (CommandState.EXITED, b"taken over\n")
    assert agent.received("guest-exec") == 1


async def test_a_command_that_is_taken_over_is_not_polled_as_if_it_were_young(
    agent: FakeAgent, folder: Path, redis_url: str, records: Records
) -> None:
    async with working(folder, redis_url) as worker:
        command_id = records.create("sleep 60")
        await worker.start(command_id, VMID)
    began_at = (now() - timedelta(minutes=5)).isoformat()
    records.store.run(Call(("HSET", f"ownup:cmd:{command_id}", "started_at", began_at), int))
    async with working(folder, redis_url) as worker:
        polled_before = agent.received("guest-exec-status")
        await worker.adopter.adopt()
        await until(lambda: agent.received("guest-exec-status") > polled_before)
        await asyncio.sleep(1.2)
        assert agent.received("guest-exec-status") - polled_before <= 6  # a young one is polled a hundred times


async def test_a_command_whose_agent_was_restarted_between_two_workers_is_lost(
    folder: Path, agent: FakeAgent, redis_url: str, records: Records
) -> None:
    command_id = records.create("sleep 60")
    async with working(folder, redis_url) as worker:
        await worker.start(command_id, VMID)
    agent.restart()
    async with working(folder, redis_url) as worker:
        await worker.adopter.adopt()
        assert (await records.ended(command_id)).state is CommandState.LOST


async def test_what_ran_in_a_vm_that_was_being_taken_back_to_a_snapshot_is_lost_to_the_next_worker_unasked(
    folder: Path, agent: FakeAgent, redis_url: str, records: Records
) -> None:
    command_id = records.create("sleep 60")
    async with working(folder, redis_url) as worker:
        await worker.start(command_id, VMID)
    rollback = Job(
        id="snapshot_rollback-10001-1",
        vmid=VMID,
        account="acme",
        node=NODE,
        kind=JobKind.SNAPSHOT_ROLLBACK,
        snapshot="s",
        state=JobState.QUEUED,
        created_at=now(),
        start_by=now(),
    )
    assert records.store.run(store.jobs.create(rollback, start_within_s=9))
    assert records.store.run(store.jobs.start(rollback.id))
    polls = agent.received("guest-exec-status")
    async with working(folder, redis_url) as worker:
        await worker.adopter.adopt()
        command = await records.ended(command_id)
    assert command.state is CommandState.LOST
    assert "was being taken back to a snapshot when the worker stopped" in (command.message or "")
    assert agent.received("guest-exec-status") == polls
    job = records.store.run(store.jobs.find(rollback.id))
    assert job is not None
    assert job.state is JobState.FAILED


async def test_a_command_that_was_sent_and_has_no_pid_is_unknown_to_the_next_worker(
    agent: FakeAgent, worker: Worker, records: Records
) -> None:
    command_id = records.create("true")
    assert records.store.run(store.commands.claim(command_id)) is not None
    await worker.adopter.adopt()
    command = await records.ended(command_id)
    assert (command.state, command.message) == (
        CommandState.UNKNOWN,
        "The worker died while sending it: it may have run",
    )
    assert agent.received("guest-exec") == 0


async def test_a_command_that_was_never_sent_is_delivered_by_the_next_worker(
    agent: FakeAgent, worker: Worker, records: Records
) -> None:
    command_id, late = records.create("echo delivered"), records.create("true", deliver_within_s=0)
    await worker.adopter.adopt()
    command = await records.ended(command_id)
    assert (command.state, records.stdout(command)) == (CommandState.EXITED, b"delivered\n")
    assert (await records.ended(late)).state is CommandState.EXPIRED
    assert agent.received("guest-exec") == 1


async def test_a_sweep_ends_what_nobody_took_and_touches_nothing_else(
    agent: FakeAgent, worker: Worker, records: Records
) -> None:
    late, fresh, running = (
        records.create("true", deliver_within_s=0),
        records.create("true"),
        records.create("sleep 60"),
    )
    await worker.start(running, VMID)
    await worker.adopter.sweep()
    await records.ended(late)
    states = [records.find(command_id).state for command_id in (late, fresh, running)]
    assert states == [CommandState.EXPIRED, CommandState.QUEUED, CommandState.RUNNING]
    assert agent.received("guest-exec") == 1


@pytest.mark.parametrize("begun", [True, False])
async def test_a_power_job_is_not_carried_on_by_another_worker(
    worker: Worker, records: Records, *, begun: bool
) -> None:
    job = Job(
        id="stop-10001-1",
        vmid=VMID,
        account="acme",
        node=NODE,
        kind=JobKind.STOP,
        state=JobState.QUEUED,
        created_at=now() - timedelta(seconds=1),
        start_by=now(),
    )
    assert records.store.run(store.jobs.create(job, start_within_s=9 if begun else 0))
    if begun:
        assert records.store.run(store.jobs.start(job.id))
        await worker.adopter.adopt()
    else:
        await worker.adopter.sweep()
    found = records.store.run(store.jobs.find(job.id))
    assert found is not None
    assert found.state is JobState.FAILED
    assert ("was restarted during this action" if begun else "was not started in time") in found.message
