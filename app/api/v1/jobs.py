"""v1 route about jobs: how far one has come."""

from typing import Any

from app.access import Principal, Scope
from app.api.requires import requires
from app.api.v1 import bodies
from app.api.v1.face import V1Blueprint, example
from app.api.v1.schemas import JobSchema
from app.services import services

blueprint = V1Blueprint("Jobs", __name__, description="Power actions and work on snapshots, on their way")

_EXAMPLE = {
    "jobId": "start-10000-1768986364277",
    "queueType": "vm-power",
    "type": "start",
    "state": "completed",
    "status": "completed",
    "progress": 100,
    "progressTextKey": "jobs.progress.start",
    "progressDetails": {"percentage": 100, "message": "VM is running", "current": 100, "total": 100},
    "progressMessage": "VM is running",
    "message": "VM is running",
    "result": {
        "success": True,
        "type": "start",
        "result": {"message": "VM is running"},
        "timestamp": "2026-02-10T00:00:03.000Z",
    },
    "isCompleted": True,
    "isFailed": False,
    "isRunning": False,
    "isWaiting": False,
    "createdAt": "2026-02-10T00:00:00.000Z",
    "finishedAt": "2026-02-10T00:00:03.000Z",
    "jobName": "start VM 10000",
    "vmId": "10000",
    "isScheduled": False,
    "delay": 0,
    "statusKey": "jobs.status.completed",
}


@blueprint.route("/jobs/<job_id>", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.fails(401, 403, 404, 503)
@blueprint.response(200, JobSchema, example=example(_EXAMPLE))
def get_job(principal: Principal, job_id: str) -> dict[str, Any]:
    """Tell how far a job has come."""
    return bodies.job_status(services().jobs.get(principal, job_id))
