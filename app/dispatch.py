"""The web half's road of a command and of a power job: record, enqueue, wait for the outcome, read it later.

Knows records, the RQ queue of a node and wake-ups. Doesn't know HTTP, and never talks to a node or a guest.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from app.access import Principal
from app.core import ids, store
from app.core.clock import now
from app.core.errors import (
    IllegalMoveError,
    NodeUnavailableError,
    NotFoundError,
    StartExpiredError,
    StartRefusedError,
    StartUnknownError,
    StoreUnavailableError,
    VmNotRunningError,
)
from app.core.queues import RUN_POWER_JOB, START_COMMAND, queue_name
from app.core.records import Command, CommandEnd, CommandRequest, CommandState, Job, JobState, PowerAction
from app.core.store import Call, Store, commands, jobs, vms
from app.core.store.commands import Result
from app.guard import Guard
from app.inventory import VmView, owned
from app.settings import WebSettings
from app.wakeups import Wakeups

__all__ = ["Dispatch", "Result"]

T = TypeVar("T")

REPLY_GRACE_S = 5.0
"""How much longer than the delivery deadline a claimed command's pid is waited for."""
REREAD_S = 1.0
"""A waiter reads the record at least this often, whatever wake-ups come."""
START_JOB_TIMEOUT_S = 60
"""When RQ may consider a ``start_command`` job stuck; the worker's own deadlines are shorter."""
POWER_JOB_TIMEOUT_S = 600
"""When RQ may consider a ``run_power_job`` job stuck."""
RQ_RESULT_TTL_S = 60
"""The records hold every result; RQ keeps its own trace this long, for ``rq info``."""
RQ_FAILURE_TTL_S = 24 * 3600

_UNDELIVERED = "No worker took the command within {:g} s; it has not run and will not run"
_NOT_STARTED = "No worker started the job in time; it was not carried out and will not be"
_NO_REPLY = "The command was sent to the guest agent and no reply came; it may have run"
_STORE_LOST = "The data store went away while the command was being delivered; it may have run"


@dataclass(frozen=True)
class Dispatch:
    """Starts commands and power jobs, and tells what became of them.

    Attributes:
        store: Where records are.
        client: The same Redis, for RQ.
        guard: Refuses catastrophic commands.
        wakeups: Tells when a record has changed.
        settings: Deadlines and times to live.
        clock: The time.
    """

    store: Store
    client: redis.Redis
    guard: Guard
    wakeups: Wakeups
    settings: WebSettings
    clock: Callable[[], datetime] = field(default=now)

    def start(self, principal: Principal, view: VmView, line: str, request_id: str) -> Command:
        """Start a command and wait until its pid is known.

        Effect: the line may run in the guest, at most once.

        Raises:
            CommandBlockedError: The guard refuses the line.
            NodeUnavailableError: No worker listens on the VM's node.
            VmNotRunningError: The VM is not running.
            StartRefusedError: The worker or the agent refused it; it has not run.
            StartExpiredError: No worker took it in time; it has not run and will not.
            StartUnknownError: It was handed over and its fate isn't known; it may have run.
        """
        self.guard.check_line(line)
        _insist_on_node(view)
        if not view.vm.running:
            raise VmNotRunningError(view.vm.vmid, view.vm.status)
        command = self._new_command(principal, view, request_id)
        with self.wakeups.expect(command.id) as woken:
            self._hand_over(command, line)
            return self._await_pid(command.id, woken)

    def result(self, principal: Principal, vmid: int, pid: int) -> tuple[VmView, Result]:
        """Read what is known of a command, in one round trip; the guest isn't asked.

        Raises:
            NotFoundError: The principal has no such VM, or no command with this pid is known in it.
        """
        view, result = self.store.run_both(vms.read(vmid), commands.read_result(vmid, pid))
        known = owned(principal, view)
        if result is None or result.command.account != principal.account:
            raise NotFoundError("Command")
        return known, result

    def power(self, principal: Principal, view: VmView, action: PowerAction, *, force: bool) -> Job:
        """Queue a power action.

        Effect: the VM may change its power state, once.

        Raises:
            NodeUnavailableError: No worker listens on the VM's node.
            StoreUnavailableError: Redis went away; the job may have been queued.
        """
        _insist_on_node(view)
        job = self._new_job(principal, view, action, force=force)
        while not self._queue_job(job):
            created_at = job.created_at + timedelta(milliseconds=1)
            job = replace(job, id=ids.job_id(action, job.vmid, created_at), created_at=created_at)
        return job

    def job(self, principal: Principal, job_id: str) -> Job:
        """Read a power job. One that no worker has started in time is ended first, so that nobody polls it for ever.

        Raises:
            NotFoundError: There is no such job, or it belongs to another account.
        """
        moment, job = self.store.run_both(store.time(), jobs.find(job_id))
        if job is None or job.account != principal.account:
            raise NotFoundError("Job")
        if job.state is JobState.QUEUED and job.start_by < moment:  # read after the time: it can't be started any more
            self.store.run(jobs.finish(job_id, JobState.FAILED, _NOT_STARTED, self.clock()))
            return self.job(principal, job_id)
        return job

    def _new_command(self, principal: Principal, view: VmView, request_id: str) -> Command:
        created_at = self.clock()
        return Command(
            id=ids.command_id(),
            vmid=view.vm.vmid,
            account=view.vm.account,
            node=view.vm.node,
            state=CommandState.QUEUED,
            created_at=created_at,
            deliver_by=created_at + timedelta(seconds=self.settings.exec_start_timeout_s),
            key_id=principal.key_id,
            request_id=request_id,
        )

    def _new_job(self, principal: Principal, view: VmView, action: PowerAction, *, force: bool) -> Job:
        created_at = self.clock()
        return Job(
            id=ids.job_id(action, view.vm.vmid, created_at),
            vmid=view.vm.vmid,
            account=principal.account,
            node=view.vm.node,
            action=action,
            force=force,
            state=JobState.QUEUED,
            created_at=created_at,
            start_by=created_at + timedelta(seconds=self.settings.job_start_timeout_s),
        )

    def _hand_over(self, command: Command, line: str) -> None:
        """Record and enqueue a command, both or neither.

        Raises:
            StartUnknownError: Redis went away meanwhile, so whether it was recorded can't be known.
        """
        call = commands.create(command, CommandRequest(line=line), deliver_within_s=self.settings.exec_start_timeout_s)
        try:
            self._enqueue(call, command.node, START_COMMAND, (command.id, command.vmid), START_JOB_TIMEOUT_S)
        except StoreUnavailableError as exc:
            raise StartUnknownError(_STORE_LOST) from exc

    def _queue_job(self, job: Job) -> bool:
        call = jobs.create(job, start_within_s=self.settings.job_start_timeout_s)
        return self._enqueue(call, job.node, RUN_POWER_JOB, (job.id,), POWER_JOB_TIMEOUT_S)

    def _enqueue(self, create: Call[T], node: str, job_name: str, args: tuple[str | int, ...], timeout_s: int) -> T:
        """Write a record and the RQ job that carries its ids, in one transaction and one round trip.

        Raises:
            StoreUnavailableError: Redis is away; whether it took the transaction isn't known.
        """
        try:
            with self.client.pipeline(transaction=True) as pipe:
                queue = Queue(queue_name(node), connection=self.client, serializer=JSONSerializer)
                pipe.multi()  # before the first command: RQ would open the transaction only after it
                pipe.execute_command(*create.args)  # type: ignore[no-untyped-call]
                queue.enqueue_call(
                    job_name,
                    args=args,
                    description=job_name.rpartition(".")[2],
                    timeout=timeout_s,
                    result_ttl=RQ_RESULT_TTL_S,
                    failure_ttl=RQ_FAILURE_TTL_S,
                    pipeline=pipe,
                )
                return create.load(pipe.execute()[0])
        except (redis.ConnectionError, redis.TimeoutError) as exc:
            raise StoreUnavailableError from exc

    def _await_pid(self, command_id: str, woken: threading.Event) -> Command:
        deliver_by_s = time.monotonic() + self.settings.exec_start_timeout_s
        give_up_s = deliver_by_s + REPLY_GRACE_S
        while (left_s := give_up_s - time.monotonic()) > 0:
            woken.wait(min(REREAD_S, left_s))
            woken.clear()
            command = self._look(command_id, late=time.monotonic() >= deliver_by_s)
            if command is not None:
                return command
        raise StartUnknownError(_NO_REPLY)

    def _look(self, command_id: str, *, late: bool) -> Command | None:
        """Look once at a command that is being delivered; an absence of Redis is sat out.

        Returns:
            The command once it has a pid, else ``None``.
        """
        try:
            command = self.store.run(commands.find(command_id))
            started = _started(command)
            if started is None and late:
                self._expire(command_id)
        except StoreUnavailableError:
            return None
        return started

    def _expire(self, command_id: str) -> None:
        """End a command that nobody took in time.

        Raises:
            StartExpiredError: It is ended.
        """
        if not self.store.run(commands.is_undelivered(command_id)):
            return
        reason = _UNDELIVERED.format(self.settings.exec_start_timeout_s)
        end = CommandEnd(state=CommandState.EXPIRED, ended_at=self.clock(), message=reason)
        try:
            self.store.run(commands.end(command_id, end, ttl_s=self.settings.exec_ttl_s))
        except IllegalMoveError:
            return
        raise StartExpiredError(reason)


def _insist_on_node(view: VmView) -> None:
    if not view.node_alive:
        raise NodeUnavailableError(view.vm.node)


def _started(command: Command | None) -> Command | None:
    """Tell a command that has a pid from one that may still get one.

    Raises:
        StartRefusedError: It was refused.
        StartExpiredError: It expired.
        StartUnknownError: It was sent without a reply, or its record is gone.
    """
    if command is None:
        raise StartUnknownError(_STORE_LOST)
    if command.pid is not None:
        return command
    match command.state:
        case CommandState.QUEUED:
            return None
        case CommandState.UNKNOWN:
            raise StartUnknownError(command.message or _NO_REPLY)
        case CommandState.EXPIRED:
            raise StartExpiredError(command.message or "Nobody took the command in time; it has not run")
        case _:
            raise StartRefusedError(command.message or "The command was refused; it has not run")
