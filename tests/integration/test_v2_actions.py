"""Power actions over v2: operations, and gates that are published by reads and insisted on by writes."""

import re
from dataclasses import replace

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from app.access import Scope
from app.core import clock, ids
from app.core.queues import RUN_JOB
from app.core.records import Job, JobKind, JobState, PowerAction, Vm, VmStatus
from app.core.store import jobs
from tests.web import RUNNING_VM, STOPPED_VM, Web

VPS = f"/api/v2/vps/{ids.vps_id(10000)}"
BEFORE = dict.fromkeys(PowerAction, RUNNING_VM) | {PowerAction.START: STOPPED_VM}


def queued(web: Web) -> list[object]:
    waiting = Queue("node-node-1", connection=web.client, serializer=JSONSerializer).jobs
    return [job.args for job in waiting if job.func_name == RUN_JOB]


@pytest.mark.parametrize("action", PowerAction)
def test_action_is_an_operation_that_can_be_polled(web: Web, action: PowerAction):
    web.publish(BEFORE[action])
    response = web.post(f"{VPS}/actions/{action}")
    assert (response.status_code, response.mimetype) == (202, "application/json")
    assert set(response.json) == {"operation"}
    operation = response.json["operation"]
    job_id = operation["jobId"]
    assert re.fullmatch(rf"{action}-10000-\d{{13}}", job_id)
    assert operation == {"status": "queued", "jobId": job_id, "pollUrl": f"/api/jobs/{job_id}", "result": None}
    (rq_job,) = Queue("node-node-1", connection=web.client, serializer=JSONSerializer).jobs
    assert (rq_job.func_name, rq_job.args) == (RUN_JOB, [job_id])
    assert web.get(operation["pollUrl"]).json["data"]["state"] == "queued"
    job = web.store.run(jobs.start(job_id))
    assert isinstance(job, Job)
    assert (job.kind, job.force, job.vmid, job.account) == (JobKind(action), False, 10000, "acme")
    web.store.run(jobs.finish(job_id, JobState.COMPLETED, "done", clock.now()))
    assert web.get(operation["pollUrl"]).json["data"]["isCompleted"] is True


@pytest.mark.parametrize(
    ("body", "force"), [(None, False), ({}, False), ({"force": False}, False), ({"force": True}, True)]
)
def test_restart_may_be_forced(web: Web, body: dict[str, bool] | None, force: bool):  # noqa: FBT001 - a parameter
    response = web.post(f"{VPS}/actions/restart", **({} if body is None else {"json": body}))
    job = web.store.run(jobs.find(response.json["operation"]["jobId"]))
    assert job is not None
    assert (job.kind, job.force) == (JobKind.RESTART, force)


@pytest.mark.parametrize("body", [{"force": "yes"}, {"force": None}, {"force": 1}, {"mode": "hard"}])
def test_restart_takes_nothing_else(web: Web, body: dict[str, object]):
    response = web.post(f"{VPS}/actions/restart", json=body)
    assert (response.status_code, response.json["code"]) == (400, "invalid_request")
    assert queued(web) == []


GATES = [
    (RUNNING_VM, {PowerAction.START: "vps_running"}),
    (STOPPED_VM, dict.fromkeys(set(PowerAction) - {PowerAction.START}, "vps_stopped")),
    (replace(RUNNING_VM, status=VmStatus.STARTING), {PowerAction.START: "vps_starting"}),
    (
        replace(RUNNING_VM, status=VmStatus.STOPPING),
        dict.fromkeys((PowerAction.START, PowerAction.SHUTDOWN, PowerAction.RESTART), "vps_stopping"),
    ),
    (
        replace(RUNNING_VM, status=VmStatus.PAUSED),
        dict.fromkeys((PowerAction.START, PowerAction.SHUTDOWN, PowerAction.RESTART), "vps_paused"),
    ),
    (replace(RUNNING_VM, status=VmStatus.ERROR), {PowerAction.START: "vps_error"}),
    (replace(RUNNING_VM, status=VmStatus.UNKNOWN), {}),
    (
        replace(STOPPED_VM, startable=False),
        dict.fromkeys(PowerAction, "vps_stopped") | {PowerAction.START: "not_startable"},
    ),
    (
        replace(RUNNING_VM, has_monitor=False, startable=False),
        {PowerAction.START: "not_startable"}
        | dict.fromkeys((PowerAction.STOP, PowerAction.RESTART, PowerAction.RESET), "no_monitor"),
    ),
]


@pytest.mark.parametrize(("vm", "closed"), GATES)
def test_writes_are_refused_exactly_where_reads_say_so(web: Web, vm: Vm, closed: dict[PowerAction, str]):
    web.publish(vm)
    for read in ("", "/status"):
        published = web.get(VPS + read).json["actions"]
        assert {name: gate["code"] for name, gate in published.items() if not gate["allowed"]} == {
            f"can{action.capitalize()}": code for action, code in closed.items()
        }
    for action in PowerAction:
        response = web.post(f"{VPS}/actions/{action}")
        if action not in closed:
            assert response.status_code == 202
            continue
        gate = f"can{action.capitalize()}"
        assert (response.status_code, response.mimetype) == (409, "application/problem+json")
        assert (response.json["code"], response.json["title"]) == ("vps_not_ready", "VPS not ready")
        assert response.json["actions"] == {gate: published[gate]}
        assert response.json["detail"] == published[gate]["reason"]
    assert len(queued(web)) == len(PowerAction) - len(closed)


def test_a_forced_restart_needs_what_a_reset_needs(web: Web):
    web.publish(replace(RUNNING_VM, status=VmStatus.PAUSED))
    assert web.post(f"{VPS}/actions/restart").status_code == 409
    assert web.post(f"{VPS}/actions/restart", json={"force": True}).status_code == 202


def test_worker_away(web: Web):
    web.client.delete("ownup:node:node-1")
    response = web.post(f"{VPS}/actions/stop")
    assert (response.status_code, response.json["code"]) == (503, "upstream_unavailable")
    assert queued(web) == []


@pytest.mark.parametrize("action", PowerAction)
def test_others_cannot(web: Web, action: PowerAction):
    web.publish(BEFORE[action])
    path = f"{VPS}/actions/{action}"
    assert web.post(path, web.make_key(Scope.READ_VM, Scope.WRITE_VM)).status_code == 403
    assert web.post(path, web.make_key(account="other")).json["code"] == "vps_not_found"
    assert web.get(path).status_code == 405
    assert queued(web) == []
