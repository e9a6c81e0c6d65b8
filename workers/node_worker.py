"""The RQ worker of a node: takes jobs from its one queue and awaits them on one event loop, hundreds at once.

RQ's own worker runs one job at a time, in a fork. This one takes what is there at once, awaits all of it, and keeps
RQ's books the way RQ does (see ``rq_books``): ``rq info`` tells the truth. The rest of RQ's worker is left out.

A job's function is looked up in the table this worker was given, never imported by the name that stands in Redis.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

import redis
import redis.asyncio
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker, WorkerStatus

from app.core.store import Lines, is_away
from workers.rq_books import Books, Taken

_log = logging.getLogger(__name__)

Coroutine = Callable[..., Awaitable[None]]

_WORKER_TTL_S = 30
DEQUEUE_TIMEOUT_S = 1
"""How long Redis is asked to wait for a job."""
_RECONNECT_S = 0.5
_DRAIN_TIMEOUT_S = 10.0
_AT_ONCE = 100
_TURNS_FIRST = 2
"""What was taken goes first, with its first question to Redis: a store call is sent one turn of the loop later."""

_TAKE_MORE = """
local taken, id = {}, redis.call('LINDEX', ARGV[2], -1)
while id do
  local fields = redis.call('HGETALL', ARGV[3] .. id)
  if #fields == 0 then redis.call('LREM', ARGV[2], -1, id) end
  taken[#taken + 1] = {id, fields}
  id = #taken < tonumber(ARGV[4]) and redis.call('LMOVE', ARGV[1], ARGV[2], 'LEFT', 'RIGHT')
end
return taken
"""
"""Reads the job that was taken last, and takes and reads what else waits. A job without fields has vanished."""


class NodeWorker(BaseWorker):
    """Awaits the coroutine jobs of one node's queue."""

    def __init__(
        self,
        queue_name: str,
        *,
        name: str,
        connection: redis.Redis,
        source: redis.asyncio.Redis,
        jobs: Mapping[str, Coroutine],
    ) -> None:
        """Describe the worker; nothing is registered before ``serve``.

        Args:
            queue_name: The queue it consumes.
            name: Its name among all RQ workers.
            connection: A blocking Redis client for the books.
            source: An asyncio Redis client, for the queue.
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
        self._source = Lines(source)
        self._books = Books(self, self._queue)
        self._under_way: set[asyncio.Task[None]] = set()

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        # RQ would make the time-outs of its connection longer; this one has been given the right ones.
        return connection

    async def serve(self, stop: asyncio.Event) -> None:
        """Take and await jobs until ``stop`` is set; then finish what is under way, for a while."""
        if not await self._enter(stop):
            return
        self._books.open()
        try:
            await self._take_until(stop)
        finally:
            await self._drain()
            await asyncio.to_thread(self._books.close)
            await asyncio.to_thread(self._unregister)

    async def _enter(self, stop: asyncio.Event) -> bool:
        """Register with RQ, as soon as Redis is there; ``False`` if it is to stop before that.

        Raises:
            RedisError: Redis is there, and refuses.
        """
        while not stop.is_set():
            try:
                await asyncio.to_thread(self._register)
            except redis.RedisError as exc:
                if not is_away(exc):
                    raise
                await asyncio.sleep(_RECONNECT_S)
            else:
                return True
        return False

    async def _take_until(self, stop: asyncio.Event) -> None:
        # One that is being taken is never broken off: the job would be nobody's.
        sure = True
        while not stop.is_set():
            try:
                if not sure:
                    await asyncio.to_thread(self._put_back)
                    sure = True
                for taken in await self._take():
                    self._launch(taken)
                for _ in range(_TURNS_FIRST):
                    await asyncio.sleep(0)
            except redis.RedisError as exc:
                if not is_away(exc):
                    raise
                sure = False  # a job may have been taken, and the reply that says so was lost
                _log.warning("rq_redis_away", extra={"reason": str(exc)})
                await asyncio.sleep(_RECONNECT_S)

    async def _take(self) -> list[Taken]:
        """Wait a while for a job, and take with it what else waits, in one round trip.

        Source: Redis docs, BLMOVE: it blocks its client, so what was sent behind it is carried out after it.
        """
        waiting, held = self._queue.key, self._queue.intermediate_queue_key
        replies = await self._source.ask([
            ("BLMOVE", waiting, held, "LEFT", "RIGHT", DEQUEUE_TIMEOUT_S),
            ("EVAL", _TAKE_MORE, 0, waiting, held, Job.redis_job_namespace_prefix, _AT_ONCE),
        ])
        for refusal in replies:
            if isinstance(refusal, redis.RedisError):
                raise refusal
        first, rows = replies
        news = rows if rows and rows[0][0] == first else rows[1:]  # where none came in time an old one is read again
        return [self._note(job_id.decode(), fields) for job_id, fields in news if fields]

    def _note(self, job_id: str, fields: list[bytes]) -> Taken:
        taken = Taken(job_id, dict(zip(fields[::2], fields[1::2], strict=True)), self._queue)
        self._books.note_taken(taken)
        return taken

    def _launch(self, taken: Taken) -> None:
        task = asyncio.create_task(self._run(taken))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _run(self, taken: Taken) -> None:
        try:
            name, args, timeout_s = taken.call
            coroutine = self._jobs[name]
            async with asyncio.timeout(timeout_s):
                await coroutine(*args)
        except Exception as exc:  # noqa: BLE001 - whatever a job raises, RQ's books must say that it failed
            _log.exception("rq_job_failed", extra={"rq_job": taken.id})
            self._books.note_end(taken, type(exc).__name__)
        else:
            self._books.note_end(taken, None)

    async def _drain(self) -> None:
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way, timeout=_DRAIN_TIMEOUT_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    @property
    def _queue(self) -> Queue:
        return self.queues[0]

    # --- in threads ---------------------------------------------------------------------------------------------------

    def _register(self) -> None:
        for worker in BaseWorker.all(queue=self._queue, serializer=JSONSerializer):
            worker.register_death()
        self._put_back()
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self._set_ip_address(self.connection)
        self.register_birth()
        self.set_state(WorkerStatus.IDLE)

    def _put_back(self) -> None:
        """Put back what was taken and never reached a worker; records see to it that nothing runs twice."""
        for job_id in reversed(self._queue.intermediate_queue.get_job_ids()):
            if not self._books.knows(job_id) and self.connection.lrem(self._queue.intermediate_queue_key, 1, job_id):
                self.connection.lpush(self._queue.key, job_id)

    def _unregister(self) -> None:
        with contextlib.suppress(redis.RedisError):
            self.register_death()
