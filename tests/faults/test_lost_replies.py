"""Redis did what it was asked, and its reply was lost: what is asked again then must not count twice, nor get stuck."""

import asyncio
import contextlib
import logging
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from app.core import env, store
from app.core.clock import now
from app.core.errors import StoreUnavailableError
from app.core.queues import RUN_JOB, START_COMMAND
from app.core.records import Command, CommandRequest, CommandStart, CommandState, Job, JobKind, JobState
from lab.fake_agent import FakeAgent
from tests.spooled import spooled
from workers.__main__ import _build, _Parts, _redis
from workers.settings import WorkerSettings

VMID = 10001
NODE = "node-1"


class ForgetfulStore(store.AsyncStore):
    """Carries out every call and loses its reply: the first one, and those that come for a while after it."""

    def __init__(self, whole: store.AsyncStore, lost_for_s: float, loses: Callable[[store.Call[Any]], bool]) -> None:
        self._whole = whole
        self._lost_for_s = lost_for_s
        self._loses = loses
        self._tries: list[tuple[store.Call[Any], float]] = []

    async def run(self, call: store.Call[Any]) -> Any:
        reply = await self._whole.run(call)
        first_s = next((since_s for tried, since_s in self._tries if tried is call), None)
        if first_s is None:
            self._tries.append((call, time.monotonic()))
        if self._loses(call) and (first_s is None or time.monotonic() - first_s < self._lost_for_s):
            raise StoreUnavailableError
        return reply


class HangingStore(store.AsyncStore):
    """Never comes back from some calls, as when Redis stalls; those aren't carried out either."""

    def __init__(self, whole: store.AsyncStore, hangs: Callable[[store.Call[Any]], bool]) -> None:
        self._whole = whole
        self._hangs = hangs

    async def run(self, call: store.Call[Any]) -> Any:
        if self._hangs(call):
            await asyncio.Event().wait()
        return await self._whole.run(call)


class Worker:
    """The worker's own parts on a Redis whose replies get lost."""

    def __init__(self, redis_url: str, parts: _Parts) -> None:
        self.client = redis.Redis.from_url(redis_url)
        self.store = store.Store(self.client)
        self.jobs = parts.rq_worker._jobs
        self.adopter = parts.adopter
        self.spool = parts.settings.spool_dir

    def order(self, line: str, deliver_within_s: float = 9) -> str:
        command = Command(
            id=str(uuid.uuid4()),
            vmid=VMID,
            account="acme",
            node=NODE,
            state=CommandState.QUEUED,
            created_at=now(),
            deliver_by=now(),
        )
        create = store.commands.create(command, CommandRequest(line=line), deliver_within_s=deliver_within_s)
        assert self.store.run(create)
        return command.id

    async def run(self, command_id: str) -> Command:
        """Do what RQ does, and wait for the command's end."""
        await self.jobs[START_COMMAND](command_id, VMID)
        await until(lambda: self.find(command_id).state.ended)
        return self.find(command_id)

    def find(self, command_id: str) -> Command:
        command = self.store.run(store.commands.find(command_id))
        assert command is not None
        return command

    async def power(self, start_within_s: float) -> Job:
        job = Job(
            id="stop-10001-1",
            vmid=VMID,
            account="acme",
            node=NODE,
            kind=JobKind.STOP,
            force=False,
            state=JobState.QUEUED,
            created_at=now(),
            start_by=now(),
        )
        assert self.store.run(store.jobs.create(job, start_within_s=start_within_s))
        await self.jobs[RUN_JOB](job.id)
        return self.store.run(store.jobs.find(job.id))


def is_script(text: str) -> Callable[[store.Call[Any]], bool]:
    return lambda call: text in call.args


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ownup") as name:
        text = f'vmid = {VMID}\nname = "a"\naccount = "acme"\n[sockets]\nqga = "{name}/agent"\n'
        (Path(name) / "vm.toml").write_text(text)
        yield Path(name)


@contextlib.asynccontextmanager
async def working(
    folder: Path, redis_url: str, spoil: Callable[[store.AsyncStore], store.AsyncStore] = lambda whole: whole
) -> AsyncIterator[tuple[Worker, FakeAgent]]:
    """Let a worker live on a spoilt store; its end is that of a killed one."""
    environ = {"REDIS_URL": redis_url, "VM_DIR": str(folder), "SPOOL_DIR": str(folder / "spool"), "NODE_NAME": NODE}
    settings = env.load(WorkerSettings, environ)
    async with FakeAgent(folder / "agent") as agent, _redis(settings, tries=2) as client:
        redis_store = store.AsyncStore(client)
        parts = _build(settings, spoil(redis_store), client)
        await parts.registry.scan()
        delivering = asyncio.create_task(parts.outcomes.deliver_later())
        worker = Worker(redis_url, parts)
        try:
            yield worker, agent
        finally:
            delivering.cancel()
            await parts.watcher.close()
            await parts.registry.close()
            await redis_store.close()
            worker.client.close()


def forgetful(
    lost_for_s: float = 0.0, loses: Callable[[store.Call[Any]], bool] = lambda _call: True
) -> Callable[[store.AsyncStore], store.AsyncStore]:
    return lambda whole: ForgetfulStore(whole, lost_for_s, loses)


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110 - what is polled is the world outside of this loop
            await asyncio.sleep(0.01)


async def test_a_command_runs_once_and_ends_though_each_reply_of_redis_is_lost_once(
    folder, redis_url, tmp_path, caplog
):
    async with working(folder, redis_url, forgetful()) as (worker, agent):
        command = await worker.run(worker.order(f"echo ran >>{tmp_path}/ran; exit 3"))
        assert (command.state, command.exit_code) == (CommandState.EXITED, 3)
        assert agent.received("guest-exec") == 1
        assert (tmp_path / "ran").read_text() == "ran\n"
        await until(lambda: spooled(worker.spool) == [])
        assert worker.store.run(store.commands.list_open(NODE)) == ()
    assert not [record.message for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_claim_whose_news_comes_after_the_delivery_deadline_is_not_used(folder, redis_url):
    async with working(folder, redis_url, forgetful(1.5, is_script(store.commands._CLAIM))) as (worker, agent):
        command = await worker.run(worker.order("echo late", deliver_within_s=0.8))
        assert command.state is CommandState.EXPIRED
        assert agent.received("guest-exec") == 0


async def test_a_claim_is_found_again_by_the_one_who_made_it_and_by_nobody_else(folder, redis_url):
    async with working(folder, redis_url, forgetful()) as (worker, _):
        command_id = worker.order("true")
        mine, other = store.commands.claim(command_id), store.commands.claim(command_id)
        assert worker.store.run(mine) is not None
        assert worker.store.run(other) is None
        assert worker.store.run(mine) is not None
        worker.store.run(store.commands.start(command_id, CommandStart(pid=1, started_at=now(), agent_identity=None)))
        assert worker.store.run(mine) is None


async def test_a_power_job_ends_though_the_reply_to_its_start_is_lost(folder, redis_url):
    async with working(folder, redis_url, forgetful()) as (worker, _):
        job = await worker.power(start_within_s=9)
        assert job.state is JobState.FAILED
        assert "in time" not in job.message  # this VM can't be stopped: it has neither a monitor nor a machine


async def test_a_power_job_whose_start_becomes_known_too_late_is_not_carried_out(folder, redis_url):
    async with working(folder, redis_url, forgetful(1.5, is_script(store.jobs._START))) as (worker, agent):
        job = await worker.power(start_within_s=0.8)
        assert (job.state, job.message) == (JobState.FAILED, "The job was not started in time; nothing was done")
        assert agent.shutdowns == []


async def test_a_result_that_was_read_before_its_start_was_recorded_outlives_the_worker(folder, redis_url):
    def is_start(call: store.Call[Any]) -> bool:
        return store.commands._MOVE in call.args and '"running"' in call.args[5]

    async with working(folder, redis_url, lambda whole: HangingStore(whole, is_start)) as (worker, _):
        command_id = worker.order("echo kept; exit 4")
        starting = asyncio.create_task(worker.jobs[START_COMMAND](command_id, VMID))
        await until(lambda: f"{command_id}.result" in spooled(worker.spool))
        starting.cancel()
        assert worker.find(command_id).state is CommandState.QUEUED
    async with working(folder, redis_url) as (worker, agent):
        await worker.adopter.adopt()
        command = worker.find(command_id)
        assert (command.state, command.exit_code) == (CommandState.EXITED, 4)
        assert worker.store.run(store.commands.read_result(VMID, command.pid)).result.stdout == b"kept\n"
        assert agent.received("guest-exec") == 0
        assert spooled(worker.spool) == []
