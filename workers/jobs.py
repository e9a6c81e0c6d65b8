"""The coroutine jobs that travel through RQ, by the names that ``app.core.queues`` gives them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping

from app.core import store
from app.core.clock import now
from app.core.errors import PowerError
from app.core.queues import KILL_COMMAND, RUN_POWER_JOB, START_COMMAND
from app.core.records import Job, JobState, PowerAction, VmStatus
from workers.commands.outcome import Outcomes
from workers.commands.start import Starter
from workers.commands.watch import Watcher
from workers.node_worker import Coroutine
from workers.vms.power import Power
from workers.vms.vm import Vm

_log = logging.getLogger(__name__)

_TRANSITIONS: Mapping[PowerAction, VmStatus | None] = {
    PowerAction.START: VmStatus.STARTING,
    PowerAction.STOP: VmStatus.STOPPING,
    PowerAction.SHUTDOWN: VmStatus.STOPPING,
    PowerAction.RESTART: None,
}
"""What a VM is said to be while the action is under way."""


def job_table(starter: Starter, watcher: Watcher, power_jobs: "PowerJobs") -> Mapping[str, Coroutine]:
    """List every job this worker knows; a job of any other name fails."""

    async def kill_command(command_id: str) -> None:
        watcher.kill(command_id)

    return {START_COMMAND: starter.start, KILL_COMMAND: kill_command, RUN_POWER_JOB: power_jobs.run}


class PowerJobs:
    """Carries out power jobs: one at a time on a VM, any number at once on a node."""

    def __init__(self, outcomes: Outcomes, power: Power, find_vm: Callable[[int], Vm | None]) -> None:
        self._outcomes = outcomes
        self._power = power
        self._find_vm = find_vm
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self, job_id: str) -> None:
        """Carry out one power job, whatever comes of it: the outcome is in its record.

        Effect: what the job's action does to the VM, at most once.
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
            except PowerError as exc:
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

        vm.announce(_TRANSITIONS[job.action])
        try:
            return await self._power.run(job.action, vm, force=job.force, report=report)
        finally:
            vm.announce(None)

    async def _finish(self, job: Job, state: JobState, message: str) -> None:
        await self._outcomes.persist(store.jobs.finish(job.id, state, message, now()))
        extra = {"job_id": job.id, "vmid": job.vmid, "action": job.action, "state": state, "outcome": message}
        _log.info("job_ended", extra=extra)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
