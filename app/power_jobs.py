"""The web half's road of a power job: record, enqueue, read it later.

Knows records and the dispatch to a node. Doesn't know HTTP, and never waits for a job to be carried out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from app.access import Principal
from app.core import ids, store
from app.core.clock import now
from app.core.errors import NotFoundError
from app.core.queues import RUN_POWER_JOB
from app.core.records import Job, JobState, PowerAction
from app.core.store import Store, jobs
from app.dispatch import Dispatch, insist_on_node
from app.inventory import VmView
from app.settings import WebSettings

RQ_TIMEOUT_S = 600
"""When RQ may consider a ``run_power_job`` job stuck."""

_NOT_STARTED = "No worker started the job in time; it was not carried out and will not be"


@dataclass(frozen=True)
class PowerJobs:
    """Queues power actions, and tells how far they have come.

    Attributes:
        store: Where records are.
        dispatch: The way to nodes.
        settings: Deadlines.
        clock: The time.
    """

    store: Store
    dispatch: Dispatch
    settings: WebSettings
    clock: Callable[[], datetime] = field(default=now)

    def create(self, principal: Principal, view: VmView, action: PowerAction, *, force: bool) -> Job:
        """Queue a power action.

        Effect: the VM may change its power state, once.

        Raises:
            NodeUnavailableError: No worker listens on the VM's node.
            StoreUnavailableError: Redis went away; the job may have been queued.
        """
        insist_on_node(view)
        job = self._new_job(principal, view, action, force=force)
        while not self._queue(job):
            created_at = job.created_at + timedelta(milliseconds=1)
            job = replace(job, id=ids.job_id(action, job.vmid, created_at), created_at=created_at)
        return job

    def get(self, principal: Principal, job_id: str) -> Job:
        """Read a power job. One that no worker has started in time is ended first, so that nobody polls it for ever.

        Raises:
            NotFoundError: There is no such job, or it belongs to another account.
        """
        moment, job = self.store.run_both(store.time(), jobs.find(job_id))
        if job is None or job.account != principal.account:
            raise NotFoundError("Job")
        if job.state is JobState.QUEUED and job.start_by < moment:  # read after the time: it can't be started any more
            self.store.run(jobs.finish(job_id, JobState.FAILED, _NOT_STARTED, self.clock()))
            return self.get(principal, job_id)
        return job

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

    def _queue(self, job: Job) -> bool:
        call = jobs.create(job, start_within_s=self.settings.job_start_timeout_s)
        (created,) = self.dispatch.put(job.node, RUN_POWER_JOB, (job.id,), timeout_s=RQ_TIMEOUT_S, together_with=[call])
        return created
