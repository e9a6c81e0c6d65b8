"""The web half's road of a job: record, enqueue, read it later.

Knows records and the dispatch to a node. Doesn't know HTTP, nor when a job makes sense, and never waits for one to be
carried out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from app.access import Principal
from app.core import ids, store
from app.core.clock import now
from app.core.errors import NotFoundError
from app.core.queues import RUN_JOB
from app.core.records import Job, JobKind, JobState, PowerAction
from app.core.store import Store, jobs
from app.dispatch import Dispatch, insist_on_node
from app.inventory import VmView
from app.settings import WebSettings

RQ_TIMEOUT_S = 3600
"""When RQ may consider a ``run_job`` job stuck; each wait in one has its own end, long before."""

_NOT_STARTED = "No worker started the job in time; it was not carried out and will not be"


@dataclass(frozen=True)
class Jobs:
    """Queues jobs, and tells how far they have come.

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
        return self._put(view, replace(self._new_job(principal, view, JobKind(action)), force=force))

    def create_for_snapshot(
        self, principal: Principal, view: VmView, kind: JobKind, snapshot: str, description: str | None = None
    ) -> Job:
        """Queue something to be done to a snapshot.

        Effect: as the kind says, once.

        Raises:
            NodeUnavailableError: No worker listens on the VM's node.
            StoreUnavailableError: Redis went away; the job may have been queued.
        """
        job = replace(self._new_job(principal, view, kind), snapshot=snapshot, description=description)
        return self._put(view, job)

    def get(self, principal: Principal, job_id: str) -> Job:
        """Read a job. One that no worker has started in time is ended first, so that nobody polls it for ever.

        Raises:
            NotFoundError: There is no such job, or it is about a VM that the principal doesn't see.
        """
        moment, job = self.store.run_both(store.time(), jobs.find(job_id, principal.sight))
        if job is None:
            raise NotFoundError("Job")
        if job.state is JobState.QUEUED and job.start_by < moment:  # read after the time: it can't be started any more
            self.store.run(jobs.finish(job_id, JobState.FAILED, _NOT_STARTED, self.clock()))
            return self.get(principal, job_id)
        return job

    def under_way(self, views: Iterable[VmView]) -> dict[int, JobKind]:
        """Tell, by vmid, what is queued for VMs or under way on them; of several jobs the one that comes first."""
        nodes = {view.vm.node for view in views if view.node_alive}
        ids_ = self.store.run(jobs.list_open_on(nodes)) if nodes else ()
        latest_first = sorted(map(ids.parse_job_id, ids_), key=lambda parts: parts[2], reverse=True)
        return {vmid: JobKind(kind) for kind, vmid, _ in latest_first}

    def _new_job(self, principal: Principal, view: VmView, kind: JobKind) -> Job:
        created_at = self.clock()
        return Job(
            id=ids.job_id(kind, view.vm.vmid, created_at),
            vmid=view.vm.vmid,
            account=view.vm.account,
            node=view.vm.node,
            kind=kind,
            state=JobState.QUEUED,
            created_at=created_at,
            start_by=created_at + timedelta(seconds=self.settings.job_start_timeout_s),
            key_id=principal.key_id,
        )

    def _put(self, view: VmView, job: Job) -> Job:
        insist_on_node(view)
        while not self._queue(job):
            created_at = job.created_at + timedelta(milliseconds=1)
            job = replace(job, id=ids.job_id(job.kind, job.vmid, created_at), created_at=created_at)
        return job

    def _queue(self, job: Job) -> bool:
        call = jobs.create(job, start_within_s=self.settings.job_start_timeout_s)
        (created,) = self.dispatch.put(job.node, RUN_JOB, (job.id,), timeout_s=RQ_TIMEOUT_S, only_if=[call])
        return created
