"""The coroutine jobs that travel through RQ, by the names that ``app.core.queues`` gives them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping

from app.core import store
from app.core.clock import now
from app.core.errors import PowerError, SnapshotError
from app.core.queues import ASK_AGENT, KILL_COMMAND, MOVE_FILE, RUN_JOB, START_COMMAND
from app.core.records import Job, JobKind, JobState, PowerAction, VmStatus
from workers.commands.outcome import Outcomes
from workers.commands.start import Starter
from workers.commands.watch import Watcher
from workers.files import Files
from workers.guest_calls import GuestCalls
from workers.node_worker import Coroutine
from workers.vms.power import Power, Report
from workers.vms.snapshots import Snapshots
from workers.vms.vm import Vm

_log = logging.getLogger(__name__)

_TRANSITIONS: Mapping[JobKind, VmStatus] = {
    JobKind.START: VmStatus.STARTING,
    JobKind.STOP: VmStatus.STOPPING,
    JobKind.SHUTDOWN: VmStatus.STOPPING,
}
"""What a VM is said to be while a job is under way, where not just what it is."""


def job_table(
    starter: Starter, watcher: Watcher, runner: "JobRunner", guest_calls: GuestCalls, files: Files
) -> Mapping[str, Coroutine]:
    """List every job this worker knows; a job of any other name fails."""

    async def kill_command(command_id: str) -> None:
        watcher.kill(command_id)
        files.cancel(command_id)

    return {
        START_COMMAND: starter.start,
        KILL_COMMAND: kill_command,
        MOVE_FILE: files.move,
        RUN_JOB: runner.run,
        ASK_AGENT: guest_calls.perform,
    }


class JobRunner:
    """Carries out jobs: one at a time on a VM, any number at once on a node."""

    def __init__(
        self, outcomes: Outcomes, power: Power, snapshots: Snapshots, find_vm: Callable[[int], Vm | None]
    ) -> None:
        self._outcomes = outcomes
        self._power = power
        self._snapshots = snapshots
        self._find_vm = find_vm
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self, job_id: str) -> None:
        """Carry out one job, whatever comes of it: the outcome is in its record.

        Effect: what the job's kind does to the VM, at most once.
        """
        job = await self._outcomes.persist(store.jobs.find(job_id))
        if job is None:
            return
        async with self._turns[job.vmid]:
            started = await self._outcomes.persist(store.jobs.start(job_id))
            if started is None:  # started before, or too late: the sweep ends it then
                return
            if started.started_at is not None and started.started_at > started.start_by:  # the news of it came late
                await self._finish(job, JobState.FAILED, "The job was not started in time; nothing was done")
                return
            try:
                message = await self._act(job)
            except (PowerError, SnapshotError) as exc:
                await self._finish(job, JobState.FAILED, _sentence(str(exc)))
            except Exception:
                await self._finish(job, JobState.FAILED, "The worker failed; look at the VM's status")
                raise
            else:
                await self._finish(job, JobState.COMPLETED, _sentence(message))

    async def _act(self, job: Job) -> str:
        vm = self._find_vm(job.vmid)
        if vm is None:
            raise PowerError("this node no longer carries the VM")

        async def report(percent: int, text: str) -> None:
            await self._outcomes.persist(store.jobs.progress(job.id, percent, _sentence(text)))

        vm.announce(_transition(job, vm))
        try:
            if job.snapshot is not None:
                return await self._act_on_snapshot(job, job.snapshot, vm, report)
            return await self._power.run(PowerAction(job.kind), vm, force=job.force, report=report)
        finally:
            vm.announce(None)

    async def _act_on_snapshot(self, job: Job, name: str, vm: Vm, report: Report) -> str:
        message = await self._snapshots.run(job.kind, vm, name, report)
        if job.kind is JobKind.SNAPSHOT_CREATE:
            await self._outcomes.persist(store.snapshots.note(vm.definition.vmid, name, job.description, job.key_id))
        return message

    async def _finish(self, job: Job, state: JobState, message: str) -> None:
        await self._outcomes.persist(store.jobs.finish(job.id, state, message, now()))
        extra = {"job_id": job.id, "vmid": job.vmid, "kind": job.kind, "state": state, "outcome": message}
        _log.info("job_ended", extra=extra)


def _transition(job: Job, vm: Vm) -> VmStatus | None:
    if job.kind is JobKind.SNAPSHOT_ROLLBACK and vm.stopped:
        return VmStatus.STARTING
    return _TRANSITIONS.get(job.kind)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
