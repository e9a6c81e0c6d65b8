"""RQ's books of one node's queue: who works, what is under way, what has ended.

Kept in batches, by a thread of its own: ``rq info`` shows what was true a moment or two ago (``_GATHER_S``), and what
began and ended in between is booked once, as ended. The thread isn't woken before that moment is over: it would take
the interpreter from the very job. Doesn't run anything, and takes nothing from a queue.
"""

import asyncio
import contextlib
import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import redis
import redis.client
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus

from app.core.store import is_away

_log = logging.getLogger(__name__)

_GATHER_S = 0.1
_HEARTBEAT_S = 5.0
_LONG_JOB_S = 20.0
_RECONNECT_S = 0.5


@dataclass(eq=False)
class Taken:
    """A job that was taken from the queue.

    Attributes:
        id: RQ's id of it.
        fields: All that stands in Redis of it.
        queue: Where it was taken from.
        began_at: When it was taken.
        ended_at: When it was over, if it is.
        error: Name of what it raised, if it failed.
        execution: RQ's note that it is being executed, once that is booked.
    """

    id: str
    fields: Mapping[bytes, bytes] = field(repr=False)
    queue: Queue = field(repr=False)
    began_at: datetime = field(default_factory=now)
    ended_at: datetime | None = None
    error: str | None = None
    execution: Execution | None = None

    @property
    def call(self) -> tuple[str, tuple[Any, ...], int]:
        """What is to be done: a function's name, its arguments, and after how many seconds it counts as stuck.

        Source: RQ 3.0, ``Job.to_dict`` and ``Job._deserialize_data``.

        Raises:
            ValueError: It can't be told.
            KeyError: It isn't there.
            TypeError: It is something else.
        """
        data = self.fields[b"data"]
        with contextlib.suppress(zlib.error):  # as RQ does: it may be compressed, or not
            data = zlib.decompress(data)
        name, _, args, _ = JSONSerializer.loads(data)
        return name, tuple(args), int(self.fields[b"timeout"])

    @property
    def leaves_nothing(self) -> bool:
        """Whether RQ is to forget it as soon as it has gone well, and it depends on no other."""
        return self.fields.get(b"result_ttl") == b"0" and b"dependency_ids" not in self.fields

    @cached_property
    def job(self) -> Job:
        """RQ's own view of it, made when it is needed: that takes ten times as long as ``call``."""
        job = Job(self.id, connection=self.queue.connection, serializer=JSONSerializer)
        try:
            job.restore(self.fields)
        except (NoSuchJobError, ValueError):
            job.origin = self.queue.name
        return job


class Books:
    """Takes note at once and writes it down soon."""

    def __init__(self, worker: BaseWorker, rq_queue: Queue) -> None:
        self._worker = worker
        self._queue = rq_queue
        self._news: deque[Taken] = deque()
        self._young: dict[Taken, None] = {}
        self._will_ring = False
        self._bell = threading.Event()
        self._unbooked: set[str] = set()
        self._under_way: set[Taken] = set()
        self._busy = False
        self._beaten_s = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="rq-books", daemon=True)

    def open(self) -> None:
        """Begin to keep them."""
        self._thread.start()

    def close(self) -> None:
        """Write down what has been noted, if Redis is there, and end."""
        self._closing.set()
        self._bell.set()
        self._thread.join()

    def note_taken(self, taken: Taken) -> None:
        """Note that a job was taken: it stands in the intermediate queue until that is booked."""
        self._unbooked.add(taken.id)
        self._note(taken)

    def note_end(self, taken: Taken, error: str | None) -> None:
        """Note that a job is over, and the name of what it raised if it failed."""
        taken.error, taken.ended_at = error, now()
        self._note(taken)

    def knows(self, job_id: str) -> bool:
        """Tell whether a job in the intermediate queue is one that was taken and just isn't booked yet."""
        return job_id in self._unbooked

    def _note(self, taken: Taken) -> None:
        self._news.append(taken)
        if not self._will_ring:
            self._will_ring = True
            asyncio.get_running_loop().call_later(_GATHER_S, self._ring)

    def _ring(self) -> None:
        self._will_ring = False
        self._bell.set()

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not (self._closing.is_set() and not self._news and not self._young):
            batch = self._gather()
            while not self._try_book(batch):
                if self._closing.wait(_RECONNECT_S):
                    return

    def _gather(self) -> list[Taken]:
        """Wait for news, but not for longer than until the next heartbeat; what has only begun is left for later."""
        self._bell.wait(_GATHER_S if self._young else _HEARTBEAT_S)
        self._bell.clear()  # before anything is taken: what is noted from now on rings again
        left, news = self._young, dict.fromkeys(self._news.popleft() for _ in range(len(self._news)))
        self._young = {each: None for each in news if each.ended_at is None and each not in left}
        return [each for each in left | news if each not in self._young]

    def _try_book(self, batch: list[Taken]) -> bool:
        try:
            self._book(batch)
            self._beat()
        except Exception as exc:  # noqa: BLE001 - what can't be booked must not end the bookkeeping
            if isinstance(exc, redis.RedisError) and is_away(exc):
                return False
            _log.exception("rq_bookkeeping_failed")
        return True

    def _book(self, news: Iterable[Taken]) -> None:
        batch = [(taken, taken.ended_at is not None) for taken in news]  # it may end while it is being booked
        started: list[tuple[Taken, Execution]] = []
        with self._worker.connection.pipeline() as pipe:
            for taken, ended in batch:
                if taken.execution is None:
                    pipe.lrem(self._queue.intermediate_queue_key, 1, taken.id)
                if not ended or taken.error is not None:
                    started += self._book_start(taken, pipe)
            self._book_successes([taken for taken, ended in batch if ended and taken.error is None], pipe)
            pipe.execute()
        for taken, execution in started:
            taken.execution = execution
        for taken, ended in batch:
            if ended and taken.error is not None:
                self._book_failure(taken, taken.error)
        self._unbooked -= {taken.id for taken, _ in batch}
        self._under_way |= {taken for taken, ended in batch if not ended}
        self._under_way -= {taken for taken, ended in batch if ended}
        self._tell_state()

    def _book_start(self, taken: Taken, pipe: redis.client.Pipeline) -> list[tuple[Taken, Execution]]:
        if taken.execution is not None:
            return []
        job, ttl_s = taken.job, self._worker.get_heartbeat_ttl(taken.job)
        execution = Execution.create(job, ttl_s, pipeline=pipe, worker_name=self._worker.name)
        job.prepare_for_execution(self._worker.name, pipeline=pipe)
        job.started_at = taken.began_at
        pipe.persist(job.key)
        return [(taken, execution)]

    def _book_successes(self, ended: Sequence[Taken], pipe: redis.client.Pipeline) -> None:
        """Book jobs that went well; where RQ adds one to a count for each of them, their number is added."""
        if not ended:
            return
        pipe.hincrby(self._worker.key, "successful_job_count", len(ended))
        times = [taken.ended_at - taken.began_at for taken in ended if taken.ended_at is not None]
        self._worker.increment_total_working_time(sum(times, timedelta()), pipe)
        forgotten = [key for taken in ended for key in self._book_success(taken, pipe)]
        if forgotten:
            pipe.delete(*forgotten)

    def _book_success(self, taken: Taken, pipe: redis.client.Pipeline) -> tuple[str, ...]:
        """Book what is one job's own; answer which keys are to be deleted."""
        execution = taken.execution
        if execution is not None:
            execution.delete(taken.job, pipeline=pipe)
        if taken.leaves_nothing:
            # Not by RQ's Job.delete: it would ask Redis which registries the job is in.
            return (Job.key_for(taken.id), Job.dependents_key_for(taken.id))
        job = taken.job
        job.started_at, job.ended_at = taken.began_at, taken.ended_at
        ttl_s = job.get_result_ttl(self._worker.default_result_ttl)
        job._handle_success(  # noqa: SLF001 - what RQ's own workers call
            ttl_s,
            pipeline=pipe,
            worker_name=self._worker.name,
            execution_id=execution.id if execution else None,
            execution_started_at=taken.began_at,
            execution_ended_at=taken.ended_at,
        )
        job.cleanup(ttl_s, pipeline=pipe, remove_from_queue=False)
        return ()

    def _book_failure(self, taken: Taken, error: str) -> None:
        job = taken.job
        job.started_at, job.ended_at = taken.began_at, taken.ended_at
        self._worker.handle_job_failure(job, self._queue, exc_string=error, execution=taken.execution)

    def _tell_state(self) -> None:
        if self._busy != bool(self._under_way):
            self._busy = bool(self._under_way)
            self._worker.set_state(WorkerStatus.BUSY if self._busy else WorkerStatus.IDLE)

    def _beat(self) -> None:
        if time.monotonic() - self._beaten_s < _HEARTBEAT_S:
            return
        self._beaten_s = time.monotonic()
        self._worker.heartbeat()
        for taken in self._under_way:
            if taken.execution is not None and (now() - taken.began_at).total_seconds() > _LONG_JOB_S:
                self._worker.maintain_heartbeats(taken.job, taken.execution)
        if self._worker.should_run_maintenance_tasks:
            self._worker.run_maintenance_tasks()
