"""The RQ worker of a node: takes jobs from its one queue and awaits them on one event loop, hundreds at once.

RQ's own worker runs one job at a time, in a fork. This one keeps RQ's books the way RQ does (births, heartbeats,
executions, registries, counters: ``rq info`` tells the truth) and leaves out the rest. Redis is asked from two threads,
one that waits for jobs and one that keeps the books, so that the loop never waits for Redis on RQ's behalf.

A job's function is looked up in the table this worker was given, never imported by the name that stands in Redis.
"""

import asyncio
import contextlib
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis
import redis.exceptions
from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text, now
from rq.worker import BaseWorker, WorkerStatus

_log = logging.getLogger(__name__)

Coroutine = Callable[..., Awaitable[None]]

_WORKER_TTL_S = 30
DEQUEUE_TIMEOUT_S = 1
"""How long Redis is asked to wait for a job."""
_HEARTBEAT_S = 5.0
_LONG_JOB_S = 20.0
_RECONNECT_S = 0.5
_DRAIN_TIMEOUT_S = 10.0


@dataclass(slots=True)
class _Taken:
    """A job that was taken from the queue.

    Attributes:
        job: RQ's job.
        queue: Where it came from.
        execution: RQ's note that it is being executed; set by the bookkeeper.
    """

    job: Job
    queue: Queue
    execution: Execution | None = None


class NodeWorker(BaseWorker):
    """Awaits the coroutine jobs of one node's queue."""

    def __init__(self, queue_name: str, *, name: str, connection: "redis.Redis", jobs: Mapping[str, Coroutine]) -> None:
        """Describe the worker; nothing is registered before ``serve``.

        Args:
            queue_name: The queue it consumes.
            name: Its name among all RQ workers.
            connection: A blocking Redis client, used from this worker's threads only.
            jobs: The coroutine function for each function name that may stand in a job.
        """
        super().__init__(
            [queue_name],
            name=name,
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=_WORKER_TTL_S,
            prepare_for_work=False,  # it would ask Redis, which may be away: ``_register`` does it
        )
        self._jobs = jobs
        self._stopping = threading.Event()
        self._books: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._under_way: set[asyncio.Task[None]] = set()
        self._long: dict[str, _Taken] = {}

    def _set_connection(self, connection: "redis.Redis") -> "redis.Redis":
        # RQ would make the time-outs of its connection longer; this one has been given the right ones.
        return connection

    async def serve(self, stop: asyncio.Event) -> None:
        """Take and await jobs until ``stop`` is set; then finish what is under way, for a while."""
        loop = asyncio.get_running_loop()
        if not await self._enter(stop):
            return
        bookkeeper = threading.Thread(target=self._keep_books, name="rq-books", daemon=True)
        dequeuer = threading.Thread(target=self._dequeue, args=(loop,), name="rq-dequeue", daemon=True)
        bookkeeper.start()
        dequeuer.start()
        try:
            await stop.wait()
        finally:
            self._stopping.set()
            await asyncio.to_thread(dequeuer.join)
            await self._drain()
            self._books.put(None)
            await asyncio.to_thread(bookkeeper.join)
            await asyncio.to_thread(self._unregister)

    async def _enter(self, stop: asyncio.Event) -> bool:
        """Register with RQ, as soon as Redis is there; ``False`` if it is to stop before that."""
        while not stop.is_set():
            try:
                await asyncio.to_thread(self._register)
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                await asyncio.sleep(_RECONNECT_S)
            else:
                return True
        return False

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _launch(self, taken: _Taken) -> None:
        task = asyncio.create_task(self._run(taken))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _run(self, taken: _Taken) -> None:
        job = taken.job
        try:
            coroutine = self._jobs[job.func_name or ""]
            async with asyncio.timeout(job.timeout):
                await coroutine(*job.args)
        except Exception:  # noqa: BLE001 - whatever a job raises, RQ's books must say that it failed
            _log.exception("rq_job_failed", extra={"rq_job": job.id})
            trouble = sys.exc_info()
            self._books.put(lambda: self._book_failure(taken, trouble))
        else:
            self._books.put(lambda: self._book_success(taken))

    async def _drain(self) -> None:
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way, timeout=_DRAIN_TIMEOUT_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    # --- in the dequeuing thread --------------------------------------------------------------------------------------

    def _dequeue(self, loop: asyncio.AbstractEventLoop) -> None:
        beaten = 0.0
        while not self._stopping.is_set():
            try:
                if loop.time() - beaten > _HEARTBEAT_S:
                    beaten = loop.time()
                    self._books.put(self._book_heartbeat)
                self._dequeue_one(loop)
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as exc:
                _log.warning("rq_redis_away", extra={"reason": str(exc)})
                self._stopping.wait(_RECONNECT_S)

    def _dequeue_one(self, loop: asyncio.AbstractEventLoop) -> None:
        found = self._queue.connection.blmove(
            self._queue.key, self._queue.intermediate_queue_key, DEQUEUE_TIMEOUT_S, "LEFT", "RIGHT"
        )
        if found is None:
            return
        job_id = as_text(found)
        job = self._queue.fetch_job(job_id)
        if job is None:
            self.connection.lrem(self._queue.intermediate_queue_key, 1, job_id)
            return
        taken = _Taken(job, self._queue)
        self._books.put(lambda: self._book_start(taken))
        loop.call_soon_threadsafe(self._launch, taken)

    @property
    def _queue(self) -> Queue:
        return self.queues[0]

    # --- in the bookkeeping thread ------------------------------------------------------------------------------------

    def _keep_books(self) -> None:
        while (entry := self._books.get()) is not None:
            while not self._try_entry(entry):
                if self._stopping.wait(_RECONNECT_S):
                    break

    def _try_entry(self, entry: Callable[[], None]) -> bool:
        try:
            entry()
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            return False
        except Exception:  # noqa: BLE001 - one entry that can't be booked must not end the bookkeeping
            _log.exception("rq_bookkeeping_failed")
        return True

    def _register(self) -> None:
        for worker in BaseWorker.all(queue=self._queue, serializer=JSONSerializer):
            worker.register_death()
        # What a dead worker took and never began goes back to the queue; records see to it that nothing runs twice.
        while self.connection.lmove(self._queue.intermediate_queue_key, self._queue.key, "RIGHT", "LEFT"):
            continue
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self._set_ip_address(self.connection)
        self.register_birth()
        self.set_state(WorkerStatus.IDLE)

    def _unregister(self) -> None:
        with contextlib.suppress(redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            self.register_death()

    def _book_heartbeat(self) -> None:
        self.heartbeat()
        for taken in self._long.values():
            if taken.execution is not None and (now() - taken.execution.created_at).total_seconds() > _LONG_JOB_S:
                self.maintain_heartbeats(taken.job, taken.execution)
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()

    def _book_start(self, taken: _Taken) -> None:
        taken.execution = self.prepare_execution(taken.job)
        self._long[taken.execution.id] = taken
        self.prepare_job_execution(taken.job, remove_from_intermediate_queue=True)
        taken.job.started_at = now()

    def _book_success(self, taken: _Taken) -> None:
        execution = self._close_execution(taken)
        self.handle_job_success(taken.job, taken.queue, taken.queue.started_job_registry, execution)
        self._rest()

    def _book_failure(self, taken: _Taken, trouble: Any) -> None:
        execution = self._close_execution(taken)
        self.handle_job_failure(taken.job, taken.queue, exc_string=f"{trouble[0].__name__}", execution=execution)
        self._rest()

    def _close_execution(self, taken: _Taken) -> Execution:
        if taken.execution is None:
            self._book_start(taken)
        execution = taken.execution
        assert execution is not None  # noqa: S101 - _book_start has just set it
        self._long.pop(execution.id, None)
        taken.job.ended_at = now()
        return execution

    def _rest(self) -> None:
        if not self.executions:
            self.set_state(WorkerStatus.IDLE)
