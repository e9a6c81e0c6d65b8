"""Snapshots over v1 and v2: what is listed, what is queued, what is refused; the worker is played."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.access import TENANT_SCOPES, Scope
from app.core import ids
from app.core.records import Job, JobKind, Snapshot, Vm, VmStatus
from app.core.store import jobs, snapshots
from app.core.store.snapshots import VmSnapshots
from tests.web import RUNNING_VM, STOPPED_VM, Web, assert_refused

V1 = "/api/vm/10000/snapshots"
V2 = f"/api/v2/vps/{ids.vps_id(10000)}/snapshots"

TAKEN_AT = datetime(2026, 2, 9, 1, 2, 3, 456_000, tzinfo=UTC)
ONE = Snapshot(name="before-update", taken_at=TAKEN_AT, includes_memory=True)
KNOWN = VmSnapshots(vmid=10000, node="node-1", limit=2, snapshots=(ONE,))
NONE = replace(KNOWN, snapshots=())
FULL = replace(KNOWN, snapshots=(ONE, replace(ONE, name="other")))
UNABLE = replace(NONE, obstacle="Each writable disk of the VM must be qcow2 to keep snapshots: sda is raw")


def v1_create(web: Web, name: str = "new", key: str | None = None) -> TestResponse:
    return web.post(V1, key, json={"snapname": name, "description": "why"})


def v1_delete(web: Web, name: str = "before-update", key: str | None = None) -> TestResponse:
    return web.delete(f"{V1}?action=delete&snapname={name}", key)


def v1_rollback(web: Web, name: str = "before-update", key: str | None = None) -> TestResponse:
    return web.delete(f"{V1}?action=rollback&snapname={name}", key)


def v2_create(web: Web, name: str = "new", key: str | None = None) -> TestResponse:
    return web.post(V2, key, json={"name": name, "description": "why"})


def v2_delete(web: Web, name: str = "before-update", key: str | None = None) -> TestResponse:
    return web.delete(f"{V2}/{name}", key)


def v2_restore(web: Web, name: str = "before-update", key: str | None = None) -> TestResponse:
    return web.post(f"{V2}/{name}/actions/restore", key)


Ask = Callable[..., TestResponse]
CREATES, ROLLBACKS, DELETES = [v1_create, v2_create], [v1_rollback, v2_restore], [v1_delete, v2_delete]
CHANGES = [*CREATES, *ROLLBACKS, *DELETES]


def code_of(response: TestResponse) -> str:
    code: str = response.json["code"]
    return code


def queued_job(web: Web, response: TestResponse) -> Job:
    body = response.json
    job_id = body["data"]["jobId"] if "data" in body else body["operation"]["jobId"]
    job = web.store.run(jobs.find(job_id))
    assert job is not None
    return job


class TestLists:
    def test_v1_lists_snapshots_and_the_vm_as_it_is_now(self, web: Web):
        web.store.run(snapshots.publish(KNOWN))
        web.store.run(snapshots.note(10000, ONE.name, "before 2.0", "k1"))
        snapshot, current = web.get(V1).json["data"]
        assert snapshot == {
            "name": "before-update",
            "description": "before 2.0",
            "snaptime": int(TAKEN_AT.timestamp()),
            "vmstate": 1,
        }
        digest = current.pop("digest")
        assert re.fullmatch("[0-9a-f]{40}", digest)
        assert current == {"name": "current", "description": "You are here!", "running": 1}
        web.store.run(snapshots.publish(FULL))
        assert web.get(V1).json["data"][-1]["digest"] != digest

    def test_v2_lists_snapshots_limits_and_gates(self, web: Web):
        web.store.run(snapshots.publish(KNOWN))
        is_open = {"allowed": True, "reason": None, "code": None}
        assert web.get(V2).json == {
            "data": [
                {
                    "displayId": "before-update",
                    "name": "before-update",
                    "description": None,
                    "createdAt": "2026-02-09T01:02:03.456Z",
                    "expiresAt": None,
                    "includesMemoryState": True,
                    "parentName": None,
                }
            ],
            "limits": {"totalSnapshots": 2},
            "available": True,
            "reason": None,
            "actions": {"canCreate": is_open, "canRestore": is_open, "canDelete": is_open},
        }

    def test_what_no_worker_has_told_is_not_made_up(self, web: Web):
        body = web.get(V2).json
        assert (body["data"], body["available"]) == ([], False)
        assert body["actions"]["canCreate"]["code"] == "snapshots_unknown"
        web.publish(STOPPED_VM)
        assert [entry["name"] for entry in web.get(V1).json["data"]] == ["current"]
        assert web.get(V1).json["data"][0]["running"] == 0

    def test_a_vm_without_such_disks_says_why(self, web: Web):
        web.store.run(snapshots.publish(UNABLE))
        body = web.get(V2).json
        assert (body["available"], body["reason"]) == (False, UNABLE.obstacle)
        gates = body["actions"].values()
        assert {gate["code"] for gate in gates} == {"snapshots_unavailable"}

    @pytest.mark.parametrize(
        ("vm", "known", "create", "restore"),
        [
            (RUNNING_VM, NONE, None, "no_snapshot"),
            (RUNNING_VM, FULL, "snapshot_limit_reached", None),
            (replace(RUNNING_VM, status=VmStatus.PAUSED), KNOWN, None, None),
            (replace(RUNNING_VM, status=VmStatus.ERROR), KNOWN, "vps_error", None),
            (STOPPED_VM, KNOWN, "vps_stopped", None),
            (replace(STOPPED_VM, startable=False), KNOWN, "vps_stopped", "not_startable"),
        ],
    )
    def test_gates_say_what_can_be_done_now(
        self, web: Web, vm: Vm, known: VmSnapshots, create: str | None, restore: str | None
    ):
        web.publish(vm)
        web.store.run(snapshots.publish(known))
        actions = web.get(V2).json["actions"]
        assert (actions["canCreate"]["code"], actions["canRestore"]["code"]) == (create, restore)
        assert actions["canDelete"] == actions["canRestore"]
        assert v2_create(web).status_code == (202 if create is None else 409)
        if known is not NONE:
            assert v2_restore(web).status_code == (202 if restore is None else 409)

    def test_a_list_costs_one_round_trip(self, web: Web):
        principal = web.services().access.authenticate(web.key, None, None)

        def reads() -> int:
            """Tell how often Redis has read from a client; this question itself is one of them."""
            count: int = web.client.info("stats")["total_reads_processed"]
            return count

        before = reads()
        web.services().snapshots.read(principal, 10000)
        assert reads() - before == 2


class TestChanges:
    @pytest.mark.parametrize(
        ("ask", "kind", "name"),
        [(ask, JobKind.SNAPSHOT_CREATE, "new") for ask in CREATES]
        + [(ask, JobKind.SNAPSHOT_ROLLBACK, "before-update") for ask in ROLLBACKS]
        + [(ask, JobKind.SNAPSHOT_DELETE, "before-update") for ask in DELETES],
    )
    def test_each_is_a_job(self, web: Web, ask: Ask, kind: JobKind, name: str):
        web.store.run(snapshots.publish(KNOWN))
        response = ask(web)
        job = queued_job(web, response)
        description = "why" if kind is JobKind.SNAPSHOT_CREATE else None
        assert (job.kind, job.snapshot, job.description, job.vmid) == (kind, name, description, 10000)
        assert job.key_id == web.key.split("_")[1]
        assert re.fullmatch(rf"{kind}-10000-\d{{13}}", job.id)
        polled = web.get(f"/api/jobs/{job.id}").json["data"]
        assert (polled["type"], polled["queueType"], polled["state"]) == (kind, "vm-snapshot", "queued")

    def test_v1_answers_as_documented(self, web: Web):
        web.store.run(snapshots.publish(KNOWN))
        for ask, action, name in [
            (v1_create, "create", "new"),
            (v1_rollback, "rollback", "before-update"),
            (v1_delete, "delete", "before-update"),
        ]:
            data = ask(web).json["data"]
            del data["jobId"]
            message = f"Snapshot {action} queued"
            assert data == {"success": True, "action": action, "snapname": name, "message": message}

    def test_v2_answers_with_an_operation(self, web: Web):
        web.store.run(snapshots.publish(KNOWN))
        for ask in (v2_create, v2_restore, v2_delete):
            response = ask(web)
            job = queued_job(web, response)
            operation = {"status": "queued", "jobId": job.id, "pollUrl": f"/api/jobs/{job.id}", "result": None}
            assert (response.status_code, response.json) == (202, {"operation": operation})

    def test_a_description_is_optional(self, web: Web):
        web.store.run(snapshots.publish(NONE))
        assert queued_job(web, web.post(V1, json={"snapname": "a"})).description is None
        assert queued_job(web, web.post(V2, json={"name": "b", "description": None})).description is None


class TestRefusals:
    @pytest.mark.parametrize("ask", CREATES)
    def test_a_name_that_is_taken(self, web: Web, ask: Ask):
        web.store.run(snapshots.publish(FULL))
        response = ask(web, "before-update")
        assert (response.status_code, response.json.get("detail", response.json.get("message"))) == (
            409,
            "A snapshot named before-update exists already",
        )
        assert code_of(v2_create(web, "before-update")) == "snapshot_exists"

    @pytest.mark.parametrize("ask", [*ROLLBACKS, *DELETES])
    def test_a_snapshot_that_is_not_there(self, web: Web, ask: Ask):
        web.store.run(snapshots.publish(KNOWN))
        assert ask(web, "nope").status_code == 404
        assert code_of(v2_delete(web, "nope")) == "snapshot_not_found"
        assert assert_refused(v1_delete(web, "nope"), 404, "NOT_FOUND") == "Snapshot not found"

    def test_a_closed_gate_is_shown(self, web: Web):
        web.store.run(snapshots.publish(FULL))
        body = v2_create(web).json
        gate = {"allowed": False, "reason": "The VPS has 2 snapshots, and may have 2", "code": "snapshot_limit_reached"}
        assert (body["code"], body["actions"]) == ("vps_not_ready", {"canCreate": gate})
        assert assert_refused(v1_create(web), 409, "CONFLICT") == gate["reason"]

    @pytest.mark.parametrize("ask", CREATES)
    def test_a_vm_that_can_have_none(self, web: Web, ask: Ask):
        web.store.run(snapshots.publish(UNABLE))
        assert ask(web).status_code == 409

    @pytest.mark.parametrize("ask", CHANGES)
    def test_a_node_without_worker(self, web: Web, ask: Ask):
        web.store.run(snapshots.publish(KNOWN))
        web.client.delete("ownup:node:node-1")
        assert ask(web).status_code == 503

    @pytest.mark.parametrize("ask", CHANGES)
    def test_another_accounts_vm(self, web: Web, ask: Ask):
        web.store.run(snapshots.publish(KNOWN))
        assert ask(web, key=web.make_key(account="rival")).status_code == 404

    @pytest.mark.parametrize("ask", CHANGES)
    def test_a_key_without_the_scope(self, web: Web, ask: Ask):
        web.store.run(snapshots.publish(KNOWN))
        lacking = web.make_key(*(scope for scope in TENANT_SCOPES if scope is not Scope.BACKUP_VM))
        assert ask(web, key=lacking).status_code == 403
        assert ask(web, key=web.make_key(Scope.BACKUP_VM)).status_code in {200, 202}

    def test_lists_need_the_scope_to_read(self, web: Web):
        for path in (V1, V2):
            assert web.get(path, web.make_key(Scope.BACKUP_VM)).status_code == 403
            assert web.get(path, web.make_key(Scope.READ_VM)).status_code == 200
            assert web.get(path, web.make_key(account="rival")).status_code == 404

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 41, "7", "123456", "current", "a\n", None, 5])
    @pytest.mark.parametrize(("path", "field"), [(V1, "snapname"), (V2, "name")])
    def test_a_name_that_cannot_be(self, web: Web, path: str, field: str, name: Any):
        web.store.run(snapshots.publish(NONE))
        response = web.post(path, json={field: name})
        assert response.status_code == 400
        assert field in json.dumps(response.json.get("details", response.json.get("errors")))

    @pytest.mark.parametrize("name", ["20260210", "007", "1234567", "x" * 40, "-_", "1a"])
    def test_a_name_that_can_be(self, web: Web, name: str):
        web.store.run(snapshots.publish(NONE))
        assert v2_create(web, name).status_code == 202

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"snapname": "a", "vmstate": 1},
            {"snapname": "a", "description": 5},
            {"snapname": "a", "description": "x" * 1001},
        ],
    )
    def test_a_body_that_is_not_understood(self, web: Web, body: dict[str, object]):
        web.store.run(snapshots.publish(NONE))
        assert web.post(V1, json=body).status_code == 400

    @pytest.mark.parametrize(
        "query", ["", "?action=delete", "?snapname=a", "?action=revert&snapname=a", "?action=delete&snapname="]
    )
    def test_a_query_that_is_not_understood(self, web: Web, query: str):
        web.store.run(snapshots.publish(KNOWN))
        assert web.delete(f"{V1}{query}").status_code == 400
