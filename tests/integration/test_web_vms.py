"""List, status, power and jobs over HTTP."""

import re
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from app.core import clock
from app.core.queues import RUN_JOB
from app.core.records import Job, JobState, PowerAction, VmStatus
from app.core.store import jobs
from app.factory import create_app
from tests.web import EXEC, RUNNING_VM, STATUS, STOPPED_VM, PlayedWorker, Web, tells_pid


class TestList:
    def test_own_vms_by_vmid(self, web: Web):
        web.publish(replace(STOPPED_VM, vmid=7, name="first"))
        web.publish(replace(RUNNING_VM, vmid=8, account="other"))
        data = web.get("/api/vm").json["data"]
        assert [vm["vmid"] for vm in data] == [7, 10000]
        assert data[1] == {
            "vmid": 10000,
            "vpsId": data[1]["vpsId"],
            "name": "web-1",
            "node": "node-1",
            "status": "running",
            "vmRunning": True,
        }
        assert re.fullmatch(r"vps_[0-9a-z]{26}", data[1]["vpsId"])

    def test_account_without_vms(self, web: Web):
        response = web.get("/api/vm", web.make_key(account="empty"))
        assert response.json["data"] == []
        assert b'"success":true' in response.data

    def test_worker_away_makes_unknown(self, web: Web):
        web.client.delete("ownup:node:node-1")
        (vm,) = web.get("/api/vm").json["data"]
        assert (vm["status"], vm["vmRunning"]) == ("unknown", False)


class TestStatus:
    def test_running(self, redis_url: str):
        web = Web(redis_url)
        web.app = create_app(
            web.settings, redis_client=web.client, clock=lambda: datetime(2026, 2, 10, 0, 1, 40, 500_000, tzinfo=UTC)
        )
        web.http, web.key = web.app.test_client(), web.make_key()
        web.publish()
        response = web.get(STATUS)
        assert response.json["timestamp"] == "2026-02-10T00:01:40.500Z"
        assert response.json["data"] == {
            "success": True,
            "vmid": 10000,
            "name": "web-1",
            "node": "node-1",
            "status": "running",
            "vmRunning": True,
            "pid": None,
            "qemuPid": 4242,
            "uptime": 100,
            "cpus": 2,
            "cpu": 0.25,
            "mem": 200_000_000,
            "maxmem": 268_435_456,
            "netin": 1,
            "netout": 2,
            "diskread": 3,
            "diskwrite": 4,
            "agent": {"available": True, "message": "QEMU Guest Agent is available", "version": "7.2.19"},
        }
        web.close()

    def test_pid_is_that_of_the_latest_command(self, web: Web, redis_url: str):
        for pid in (11, 5):
            with PlayedWorker(redis_url, tells_pid(pid)):
                web.post(EXEC, json={"command": "true"})
            assert web.get(STATUS).json["data"]["pid"] == pid

    def test_stopped_has_no_live_figures(self, web: Web):
        web.publish(STOPPED_VM)
        data = web.get(STATUS).json["data"]
        live = ("qemuPid", "uptime", "cpu", "mem", "netin", "netout", "diskread", "diskwrite")
        assert {data[name] for name in live} == {None}
        assert (data["status"], data["vmRunning"], data["cpus"], data["maxmem"]) == ("stopped", False, 2, 268_435_456)

    def test_worker_away_leaves_only_what_cannot_change(self, web: Web):
        web.client.delete("ownup:node:node-1")
        data = web.get(STATUS).json["data"]
        assert (data["status"], data["vmRunning"], data["qemuPid"], data["mem"]) == ("unknown", False, None, None)
        assert data["agent"]["available"] is False
        assert "not reachable" in data["agent"]["message"]

    @pytest.mark.parametrize("status", list(VmStatus))
    def test_every_status_can_be_told(self, web: Web, status: VmStatus):
        web.publish(replace(RUNNING_VM, status=status))
        assert web.get(STATUS).json["data"]["status"] == status


class TestPower:
    @pytest.mark.parametrize("action", [action for action in PowerAction if action is not PowerAction.RESET])
    @pytest.mark.parametrize("force", [None, True, False])
    def test_action_is_queued_for_the_node(self, web: Web, action: PowerAction, force: bool | None):  # noqa: FBT001 - a parameter
        body = {"action": action} | ({} if force is None else {"force": force})
        data = web.post(STATUS, json=body).json["data"]
        assert set(data) == {"success", "action", "jobId", "message", "estimated_time"}
        assert (data["success"], data["action"]) == (True, action)
        assert data["message"] == f"{action} operation queued"
        assert re.fullmatch(rf"{action}-10000-\d{{13}}", data["jobId"])
        assert data["estimated_time"] > 0
        (rq_job,) = Queue("node-node-1", connection=web.client, serializer=JSONSerializer).jobs
        assert (rq_job.func_name, rq_job.args, rq_job.timeout) == (RUN_JOB, [data["jobId"]], 3600)
        job = web.store.run(jobs.start(data["jobId"]))
        assert isinstance(job, Job)
        assert (job.kind, job.force, job.vmid, job.account) == (action, bool(force), 10000, "acme")

    def test_two_in_one_millisecond_are_two_jobs(self, redis_url: str):
        web = Web(redis_url)
        moment = clock.now()
        web.app = create_app(web.settings, redis_client=web.client, clock=lambda: moment)
        web.http, web.key = web.app.test_client(), web.make_key()
        web.publish()
        ids = [web.post(STATUS, json={"action": "stop"}).json["data"]["jobId"] for _ in range(3)]
        stamps = [int(job_id.rpartition("-")[2]) for job_id in ids]
        assert stamps == [stamps[0], stamps[0] + 1, stamps[0] + 2]
        web.close()


class TestJobs:
    def test_queued_running_completed(self, web: Web):
        job_id = web.post(STATUS, json={"action": "start"}).json["data"]["jobId"]
        path = f"/api/jobs/{job_id}"
        queued = web.get(path).json["data"]
        assert set(queued) == {
            "jobId", "queueType", "type", "state", "status", "progress", "progressTextKey", "progressDetails",
            "progressMessage", "message", "result", "isCompleted", "isFailed", "isRunning", "isWaiting", "createdAt",
            "finishedAt", "jobName", "vmId", "isScheduled", "delay", "statusKey",
        }  # fmt: skip
        assert (queued["state"], queued["status"], flags(queued)) == ("queued", "queued", (False, False, False, True))
        assert (queued["result"], queued["finishedAt"], queued["vmId"]) == (None, None, "10000")

        web.store.run(jobs.start(job_id))
        web.store.run(jobs.progress(job_id, 40, "waiting for the guest"))
        running = web.get(path).json["data"]
        assert (running["state"], flags(running)) == ("running", (False, False, True, False))
        assert running["progressDetails"] == {
            "percentage": 40,
            "message": "waiting for the guest",
            "current": 40,
            "total": 100,
        }

        web.store.run(jobs.finish(job_id, JobState.COMPLETED, "VM is running", clock.now()))
        done = web.get(path).json["data"]
        assert (done["state"], done["progress"], flags(done)) == ("completed", 100, (True, False, False, False))
        assert done["result"] == {
            "success": True,
            "type": "start",
            "result": {"message": "VM is running"},
            "timestamp": done["finishedAt"],
        }

    def test_failed_shows_qemus_words(self, web: Web):
        job_id = web.post(STATUS, json={"action": "start"}).json["data"]["jobId"]
        web.store.run(jobs.start(job_id))
        web.store.run(jobs.finish(job_id, JobState.FAILED, "qemu: no such disk", clock.now()))
        data = web.get(f"/api/jobs/{job_id}").json["data"]
        assert (data["message"], flags(data)) == ("qemu: no such disk", (False, True, False, False))
        assert data["result"]["success"] is False
        assert data["result"]["result"] == {"message": "qemu: no such disk"}

    def test_job_that_nobody_started_in_time_ends_and_can_never_run(self, redis_url: str):
        web = Web(redis_url, JOB_START_TIMEOUT_S="0.1")
        web.key = web.make_key()
        web.publish()
        job_id = web.post(STATUS, json={"action": "stop"}).json["data"]["jobId"]
        deadline = time.monotonic() + 5
        while (data := web.get(f"/api/jobs/{job_id}").json["data"])["isWaiting"]:
            assert time.monotonic() < deadline
        assert flags(data) == (False, True, False, False)
        assert "was not carried out" in data["message"]
        assert web.store.run(jobs.start(job_id)) is None
        web.close()


def flags(job: dict[str, object]) -> tuple[object, ...]:
    return tuple(job[name] for name in ("isCompleted", "isFailed", "isRunning", "isWaiting"))
