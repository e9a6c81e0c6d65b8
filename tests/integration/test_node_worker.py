"""The RQ worker of a node on a real Redis: hundreds of coroutines at once, and books that tell the truth."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import DefaultSerializer, JSONSerializer
from rq.worker import BaseWorker

from tests.conftest import RedisServer
from workers import rq_books
from workers.node_worker import Coroutine, NodeWorker

QUEUE = "node-n1"
MANY = 300


async def until(reached: Callable[[], object], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not reached():  # noqa: ASYNC110 - what is polled is the world outside of this loop
            await asyncio.sleep(0.01)


class Books:
    """A queue and what RQ knows of it, as the web half and `rq info` see them."""

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection
        self.queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)

    def enqueue(self, name: str, *args: object, timeout_s: int = 60) -> Job:
        return self.queue.enqueue_call(
            name, args=args, timeout=timeout_s, result_ttl=60, failure_ttl=60, description=name.rpartition(".")[2]
        )

    def has_ended(self, job: Job) -> bool:
        return job.get_status() in {JobStatus.FINISHED, JobStatus.FAILED}

    def workers(self) -> list[str]:
        return sorted(worker.name for worker in BaseWorker.all(queue=self.queue, serializer=JSONSerializer))

    def state(self, worker: NodeWorker) -> str:
        state: Any = self.connection.hget(worker.key, "state")
        return str(state, "ascii")

    def is_at_rest(self) -> bool:
        left = (self.queue.count, self.queue.started_job_registry.count, len(self.intermediate()))
        return left == (0, 0, 0)

    def intermediate(self) -> list[str]:
        return self.queue.intermediate_queue.get_job_ids()


@pytest.fixture
def books(redis_url: str) -> Iterator[Books]:
    with redis.Redis.from_url(redis_url) as connection:
        yield Books(connection)


@contextlib.asynccontextmanager
async def connections(url: str) -> AsyncIterator[tuple[redis.Redis, redis.asyncio.Redis]]:
    source = redis.asyncio.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
    try:
        with redis.Redis.from_url(url) as connection:
            yield connection, source
    finally:
        await source.aclose()


@contextlib.asynccontextmanager
async def serving(url: str, jobs: Mapping[str, Coroutine], name: str = "n1@here:1") -> AsyncIterator[NodeWorker]:
    stop = asyncio.Event()
    async with connections(url) as (connection, source):
        worker = NodeWorker(QUEUE, name=name, connection=connection, source=source, jobs=jobs)
        task = asyncio.create_task(worker.serve(stop))
        try:
            yield worker
        finally:
            stop.set()
            await task


async def nothing(*_args: object) -> None:
    """Do nothing."""


class Gate:
    """A job that waits until it is let go, and remembers who came."""

    def __init__(self) -> None:
        self.entered: list[object] = []
        self.opened = asyncio.Event()

    async def enter(self, visitor: object) -> None:
        self.entered.append(visitor)
        await self.opened.wait()


async def test_hundreds_of_jobs_are_under_way_at_the_same_time(redis_url: str, books: Books) -> None:
    gate = Gate()
    jobs = [books.enqueue("enter", number) for number in range(MANY)]
    async with serving(redis_url, {"enter": gate.enter}):
        await until(lambda: len(gate.entered) == MANY)
        assert gate.entered == list(range(MANY))
        await until(lambda: books.queue.started_job_registry.count == MANY)
        gate.opened.set()
        await until(books.is_at_rest)
    assert {job.get_status() for job in jobs} == {JobStatus.FINISHED}
    assert books.queue.finished_job_registry.count == MANY


async def test_a_job_is_booked_as_started_and_then_as_finished(redis_url: str, books: Books) -> None:
    gate = Gate()
    async with serving(redis_url, {"enter": gate.enter}) as worker:
        job = books.enqueue("enter", "id-1")
        await until(lambda: books.queue.started_job_registry.get_job_ids() == [job.id])
        await until(lambda: job.get_status() is JobStatus.STARTED)
        await until(lambda: books.state(worker) == "busy")
        [seen] = BaseWorker.all(connection=books.connection, serializer=JSONSerializer)
        assert (seen.name, seen.get_state(), seen.queue_names()) == (worker.name, "busy", [QUEUE])
        assert seen.get_current_job_id() == job.id
        gate.opened.set()
        await until(lambda: books.queue.finished_job_registry.get_job_ids() == [job.id])
        await until(lambda: books.state(worker) == "idle")
        seen.refresh()  # type: ignore[no-untyped-call]
        assert (seen.successful_job_count, seen.failed_job_count) == (1, 0)
        assert seen.get_current_executions(refresh=True) == []
        assert books.is_at_rest()


async def test_a_job_that_began_just_now_is_booked_a_moment_later(
    redis_url: str, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rq_books, "_GATHER_S", 2.0)
    gate = Gate()
    async with serving(redis_url, {"nothing": nothing, "enter": gate.enter}):
        short = books.enqueue("nothing")
        await until(lambda: books.intermediate() == [short.id])
        await asyncio.sleep(0.5)
        long = books.enqueue("enter", "id-1")
        await until(lambda: books.queue.finished_job_registry.get_job_ids() == [short.id])
        assert books.intermediate() == [long.id]
        assert books.queue.started_job_registry.count == 0
        await until(lambda: books.queue.started_job_registry.get_job_ids() == [long.id])
        assert books.intermediate() == []
        gate.opened.set()


async def test_arguments_arrive_as_they_were_sent(redis_url: str, books: Books) -> None:
    taken: list[object] = []

    async def take(*args: object) -> None:
        taken.extend(args)

    async with serving(redis_url, {"take": take}):
        books.enqueue("take", "3f0c", 10000)
        await until(lambda: taken)
    assert taken == ["3f0c", 10000]


async def test_a_job_that_raises_is_booked_as_failed_without_what_it_said(redis_url: str, books: Books) -> None:
    async def fail() -> None:
        raise LookupError("a secret")

    async with serving(redis_url, {"fail": fail, "nothing": nothing}):
        job, next_one = books.enqueue("fail"), books.enqueue("nothing")
        await until(lambda: books.has_ended(job) and books.has_ended(next_one))
        assert books.queue.failed_job_registry.get_job_ids() == [job.id]
        result = job.latest_result()
        assert result is not None
        assert result.exc_string == "LookupError"
        assert next_one.get_status() is JobStatus.FINISHED


async def test_a_job_that_takes_too_long_is_ended_and_booked_as_failed(redis_url: str, books: Books) -> None:
    gate = Gate()
    async with serving(redis_url, {"enter": gate.enter}):
        job = books.enqueue("enter", 1, timeout_s=1)
        await until(lambda: books.queue.failed_job_registry.get_job_ids() == [job.id])
        assert books.is_at_rest()


async def test_an_unknown_name_fails_and_is_not_imported(redis_url: str, books: Books) -> None:
    async with serving(redis_url, {"nothing": nothing}):
        job = books.enqueue("this.s")
        await until(lambda: books.queue.failed_job_registry.get_job_ids() == [job.id])
    assert "this" not in sys.modules


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


async def test_a_pickle_in_the_queue_is_not_opened(redis_url: str, books: Books, tmp_path: Path) -> None:
    path = tmp_path / "opened"
    pickling = Queue(QUEUE, connection=books.connection, serializer=DefaultSerializer)
    async with serving(redis_url, {"nothing": nothing}):
        job = pickling.enqueue_call("nothing", args=(Bomb(path),), description="bomb", failure_ttl=60)
        await until(lambda: books.queue.failed_job_registry.get_job_ids() == [job.id])
    assert not path.exists()
    DefaultSerializer.loads(DefaultSerializer.dumps(Bomb(path)))
    assert path.exists(), "this bomb does go off"


async def test_a_job_that_has_vanished_is_passed_over(redis_url: str, books: Books) -> None:
    books.connection.rpush(books.queue.key, "no-such-job")
    job = books.enqueue("nothing")
    async with serving(redis_url, {"nothing": nothing}):
        await until(lambda: books.has_ended(job))
        await until(books.is_at_rest)


async def test_what_a_dead_worker_took_and_never_began_is_taken_again(redis_url: str, books: Books) -> None:
    gate = Gate()
    first, second = books.enqueue("enter", "first"), books.enqueue("enter", "second")
    books.connection.lmove(books.queue.key, books.queue.intermediate_queue_key, "LEFT", "RIGHT")
    assert books.intermediate() == [first.id]
    gate.opened.set()
    async with serving(redis_url, {"enter": gate.enter}):
        await until(lambda: books.has_ended(first) and books.has_ended(second))
    assert gate.entered == ["first", "second"]
    assert books.intermediate() == []


async def test_a_dead_worker_of_the_queue_is_struck_off(redis_url: str, books: Books) -> None:
    async with connections(redis_url) as (connection, source):
        for queue, name in (QUEUE, "n1@dead:1"), ("node-n2", "n2@other:1"):
            NodeWorker(queue, name=name, connection=connection, source=source, jobs={})._register()
        assert books.workers() == ["n1@dead:1"]
        async with serving(redis_url, {}, name="n1@here:2"):
            await until(lambda: books.workers() == ["n1@here:2"])
        assert books.workers() == []
        alive = [worker.name for worker in BaseWorker.all(connection=books.connection, serializer=JSONSerializer)]
        assert alive == ["n2@other:1"]


async def test_a_worker_that_stops_beating_is_forgotten(redis_url: str, books: Books) -> None:
    async with serving(redis_url, {}) as worker:
        await until(lambda: books.workers() == [worker.name])
        ttl_s = books.connection.ttl(worker.key)
        assert isinstance(ttl_s, int)
        assert 10 < ttl_s <= 120


async def test_stopping_waits_for_what_is_under_way_and_takes_nothing_new(redis_url: str, books: Books) -> None:
    gate, stop = Gate(), asyncio.Event()
    async with connections(redis_url) as (connection, source):
        jobs = {"enter": gate.enter}
        worker = NodeWorker(QUEUE, name="n1@here:1", connection=connection, source=source, jobs=jobs)
        serve = asyncio.create_task(worker.serve(stop))
        job = books.enqueue("enter", "early")
        await until(lambda: gate.entered == ["early"])
        stop.set()
        late: list[Job] = []
        for _ in range(2):  # one may still be taken by the read that is under way
            late.append(books.enqueue("enter", "late"))
            await until(lambda: not books.intermediate())
        assert not serve.done()
        gate.opened.set()
        await serve
    assert job.get_status() is JobStatus.FINISHED
    assert late[-1].get_status() is JobStatus.QUEUED
    assert books.workers() == []
    assert books.queue.started_job_registry.count == 0


async def test_a_worker_goes_on_after_redis_was_away(own_redis: RedisServer) -> None:
    gate = Gate()
    with own_redis.client() as connection:
        books = Books(connection)
        async with serving(own_redis.url, {"enter": gate.enter, "nothing": nothing}) as worker:
            under_way = books.enqueue("enter", 1)
            await until(lambda: under_way.get_status() is JobStatus.STARTED)
            await asyncio.to_thread(own_redis.stop)
            gate.opened.set()
            await asyncio.to_thread(own_redis.start)
            later = books.enqueue("nothing")
            await until(lambda: books.has_ended(later) and books.has_ended(under_way))
            assert (under_way.get_status(), later.get_status()) == (JobStatus.FINISHED, JobStatus.FINISHED)
            await until(books.is_at_rest)
            assert books.workers() == [worker.name]


async def test_a_worker_that_starts_before_redis_registers_when_it_comes(own_redis: RedisServer) -> None:
    await asyncio.to_thread(own_redis.stop)
    async with serving(own_redis.url, {"nothing": nothing}) as worker:
        await asyncio.to_thread(own_redis.start)
        with own_redis.client() as connection:
            books = Books(connection)
            job = books.enqueue("nothing")
            await until(lambda: books.has_ended(job))
            assert books.workers() == [worker.name]
