"""Snapshots of a real VM over HTTP: what was on its disk and in its memory is back, and what ran in it is not mistaken
for what runs in it now.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
import requests

from tests.e2e.conftest import REQUEST_TIMEOUT_S, Stack, until

pytestmark = pytest.mark.timeout(240)  # one of the tests also waits for the stack to start, one for its end

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


class Snapshots:
    """What a client can do to the snapshots of one VM: v1's way by default."""

    def __init__(self, stack: Stack, vmid: int) -> None:
        self.client = stack.client
        self.vmid = vmid
        self._url = stack.url
        self._headers = {"X-API-Key": stack.key}

    def list(self) -> dict[str, dict[str, Any]]:
        """Read the snapshots by name, and last the VM as it is now."""
        return {entry["name"]: entry for entry in self.client.read(f"/api/vm/{self.vmid}/snapshots")}

    def ask_create(self, name: str, description: str | None = None) -> str:
        body = {"snapname": name} | ({"description": description} if description else {})
        return _queued(self.client.post(f"/api/vm/{self.vmid}/snapshots", **body))

    def ask(self, action: str, name: str) -> str:
        url = f"{self._url}/api/vm/{self.vmid}/snapshots"
        query = {"action": action, "snapname": name}
        return _queued(requests.delete(url, params=query, headers=self._headers, timeout=REQUEST_TIMEOUT_S))

    def create(self, name: str, description: str | None = None) -> dict[str, Any]:
        return self.end_of(self.ask_create(name, description))

    def act(self, action: str, name: str) -> dict[str, Any]:
        return self.end_of(self.ask(action, name))

    def end_of(self, job_id: str) -> dict[str, Any]:
        return self.client.follow(job_id)[-1]


def _queued(response: requests.Response) -> str:
    assert response.status_code == 200, response.text
    job_id: str = response.json()["data"]["jobId"]
    return job_id


@pytest.fixture
def snapshots(stack: Stack, vmid: int) -> Iterator[Snapshots]:
    """Those of the first VM, which has none before and after."""
    found = Snapshots(stack, vmid)
    yield found
    for name in set(found.list()) - {"current"}:
        found.act("delete", name)
    assert set(found.list()) == {"current"}


def test_what_was_on_the_disk_and_in_memory_is_back_and_what_ran_since_is_lost(snapshots: Snapshots) -> None:
    client, vmid = snapshots.client, snapshots.vmid
    client.output(vmid, "echo before | tee /data/on-disk >/tmp/in-memory; sync")
    uptime_s = float(client.output(vmid, "cut -d' ' -f1 /proc/uptime"))
    assert snapshots.create("before-update", "a description, ä")["message"] == "The snapshot before-update was taken"
    entry = snapshots.list()["before-update"]
    assert (entry["description"], entry["vmstate"]) == ("a description, ä", 1)

    client.output(vmid, "echo after | tee /data/on-disk >/tmp/in-memory; sync")
    running = client.start(vmid, "sleep 600")
    assert client.result(vmid, running)["state"] == "running"
    job = snapshots.act("rollback", "before-update")
    assert (job["state"], job["message"]) == ("completed", "The VM was taken back to the snapshot before-update")

    result = client.result(vmid, running)
    assert (result["state"], result["exited"], result["exitcode"]) == ("lost", True, -1)
    assert result["message"] == "The result can't be known: the VM was taken back to the snapshot before-update"
    assert client.output(vmid, "cat /data/on-disk /tmp/in-memory") == "before\nbefore\n"
    assert client.output(vmid, "echo 3 >/proc/sys/vm/drop_caches; cat /data/on-disk") == "before\n"
    assert "sleep 600" not in client.output(vmid, "ps")
    assert 0 <= float(client.output(vmid, "cut -d' ' -f1 /proc/uptime")) - uptime_s < 60
    assert client.probe(vmid)["available"] is True

    assert snapshots.act("delete", "before-update")["message"] == "The snapshot before-update was deleted"
    assert set(snapshots.list()) == {"current"}


def test_no_reply_of_another_timeline_answers_a_command_of_this_one(snapshots: Snapshots) -> None:
    """The snapshot is of a guest in which a command runs: it comes alive again, with the pid that it had.

    It waits for a file, not for a time: under TCG the guest's clock doesn't go back with its memory, and what sleeps
    in a snapshot may wake as soon as it is loaded.
    """
    client, vmid = snapshots.client, snapshots.vmid
    old = client.start(vmid, "until [ -e /tmp/ended ]; do sleep 0.1; done; echo of the first timeline")
    assert snapshots.create("busy")["state"] == "completed"
    client.output(vmid, "touch /tmp/ended")
    assert client.wait(vmid, old)["stdout"] == "of the first timeline\n"
    for number in range(3):
        later = [client.start(vmid, f"sleep 600; echo {number}") for _ in range(3)]
        assert snapshots.act("rollback", "busy")["state"] == "completed"
        assert {client.result(vmid, pid)["state"] for pid in later} == {"lost"}
        assert "until [ -e /tmp/ended ]" in client.output(vmid, "ps")
        fresh = {client.start(vmid, f"echo fresh {number} {name}"): name for name in "abc"}
        told = {name: client.wait(vmid, pid)["stdout"] for pid, name in fresh.items()}
        assert told == {name: f"fresh {number} {name}\n" for name in "abc"}
    assert client.result(vmid, old)["stdout"] == "of the first timeline\n"
    client.output(vmid, "touch /tmp/ended")


def test_commands_that_are_asked_for_meanwhile_wait_and_run_once(snapshots: Snapshots) -> None:
    client, vmid = snapshots.client, snapshots.vmid
    client.output(vmid, "rm -f /data/log; sync")
    jobs = [snapshots.ask_create("s-1"), snapshots.ask_create("s-2")]
    pids = [client.start(vmid, f"echo {number} >>/data/log") for number in range(5)]
    assert {client.wait(vmid, pid)["state"] for pid in pids} == {"exited"}
    assert {snapshots.end_of(job_id)["state"] for job_id in jobs} == {"completed"}
    assert sorted(client.output(vmid, "cat /data/log").split()) == ["0", "1", "2", "3", "4"]


def test_a_vm_that_is_off_goes_back_to_a_snapshot_and_runs(snapshots: Snapshots) -> None:
    client, vmid = snapshots.client, snapshots.vmid
    boot_id = client.output(vmid, BOOT_ID)
    snapshots.create("running")
    client.power(vmid, "stop")
    assert set(snapshots.list()) == {"running", "current"}
    response = client.post(f"/api/vm/{vmid}/snapshots", snapname="of-nothing")
    assert (response.status_code, response.json()["code"]) == (409, "CONFLICT")
    assert snapshots.act("rollback", "running")["message"] == "The VM was started where the snapshot running was taken"
    assert client.status(vmid)["vmRunning"] is True
    client.wait_available(vmid)
    assert client.output(vmid, BOOT_ID) == boot_id


def test_a_snapshot_of_an_earlier_boot_brings_that_one_back(snapshots: Snapshots) -> None:
    client, vmid = snapshots.client, snapshots.vmid
    boot_id = client.output(vmid, BOOT_ID)
    snapshots.create("first-boot")
    client.power(vmid, "restart", force=True)
    client.wait_available(vmid)
    assert client.output(vmid, BOOT_ID) != boot_id
    pid = client.start(vmid, "sleep 600")
    snapshots.act("rollback", "first-boot")
    assert client.wait(vmid, pid)["state"] == "lost"
    assert client.output(vmid, BOOT_ID) == boot_id


def test_what_exists_and_what_does_not_is_told_by_both_faces(stack: Stack, snapshots: Snapshots) -> None:
    client, vmid = snapshots.client, snapshots.vmid
    [vps_id] = [vm["vpsId"] for vm in client.read("/api/vm") if vm["vmid"] == vmid]
    path = f"/api/v2/vps/{vps_id}/snapshots"
    response = client.post(path, name="by-v2", description="through v2")
    assert response.status_code == 202
    assert snapshots.end_of(response.json()["operation"]["jobId"])["state"] == "completed"
    assert snapshots.list()["by-v2"]["description"] == "through v2"
    assert client.post(f"/api/vm/{vmid}/snapshots", snapname="by-v2").status_code == 409
    [entry] = client.get(path).json()["data"]
    assert (entry["displayId"], entry["description"], entry["includesMemoryState"]) == ("by-v2", "through v2", True)
    restored = client.post(f"{path}/by-v2/actions/restore")
    assert snapshots.end_of(restored.json()["operation"]["jobId"])["state"] == "completed"
    gone = requests.delete(f"{stack.url}{path}/by-v2", headers={"X-API-Key": stack.key}, timeout=REQUEST_TIMEOUT_S)
    assert snapshots.end_of(gone.json()["operation"]["jobId"])["state"] == "completed"
    assert client.post(f"{path}/by-v2/actions/restore").json()["code"] == "snapshot_not_found"


def test_a_list_survives_a_redis_that_has_forgotten_it(stack: Stack, snapshots: Snapshots) -> None:
    """What QEMU has is told again by its worker; only what QEMU doesn't keep is gone."""
    snapshots.create("kept", "gone with the notes")
    with redis.Redis.from_url(stack.redis_url) as store:
        vm = f"ownup:vm:{snapshots.vmid}"
        store.delete(f"{vm}:snapshots", f"{vm}:notes", "ownup:nodes")
    found = until(20, "the list is told again", lambda: snapshots.list().get("kept"))
    assert found["description"] == ""
