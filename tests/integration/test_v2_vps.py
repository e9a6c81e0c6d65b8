"""What v2 tells of VPS: lists, details, status, metrics, disks."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.core import ids
from app.core.records import PowerAction, VmStatus
from app.core.store import disks, metrics
from app.core.store.disks import Disk
from app.core.store.metrics import Timeframe, Usage
from app.factory import create_app
from tests.openapi import check
from tests.web import RUNNING_VM, STOPPED_VM, Web

VPS_ID = ids.vps_id(10000)
VPS = f"/api/v2/vps/{VPS_ID}"
GB = 2**30
OPEN = {"allowed": True, "reason": None, "code": None}
READS = ("", "/details", "/status", "/metrics", "/disks", "/storage", "/hostname")


class TestList:
    def test_own_vps_by_vmid_without_gates(self, web: Web):
        web.publish(replace(STOPPED_VM, vmid=7, name="first", storage_bytes=3 * GB))
        web.publish(replace(RUNNING_VM, vmid=8, account="other"))
        body = web.get("/api/v2/vps").json
        assert [vps["vmid"] for vps in body["data"]] == [7, 10000]
        assert body["nextCursor"] is None
        assert body["data"][0] == {
            "id": ids.vps_id(7),
            "vmid": 7,
            "name": "first",
            "primaryIp": None,
            "serviceStatus": "active",
            "powerState": "stopped",
            "operatingSystem": None,
            "billing": None,
            "resources": {"cpuCores": 2, "memoryGb": 0.25, "storageGb": 3},
        }

    def test_pages_follow_one_another_and_miss_nothing(self, web: Web):
        vmids = [1, 2, 9, 10, 11, 100, 10000, 2**53 + 1, 2**53 + 2, 2**63 - 1]
        for vmid in vmids:
            web.publish(replace(RUNNING_VM, vmid=vmid))
        for limit in (1, 3, 9, 10, 100):
            seen: list[int] = []
            cursor = ""
            while cursor is not None:
                page = web.get(f"/api/v2/vps?limit={limit}" + (f"&cursor={cursor}" if cursor else "")).json
                assert 1 <= len(page["data"]) <= limit
                seen += [vps["vmid"] for vps in page["data"]]
                cursor = page["nextCursor"]
            assert seen == vmids

    def test_a_page_has_20_unless_asked_otherwise(self, web: Web):
        for vmid in range(1, 25):
            web.publish(replace(RUNNING_VM, vmid=vmid))
        assert len(web.get("/api/v2/vps").json["data"]) == 20

    def test_a_cursor_still_serves_when_its_vps_has_gone(self, web: Web):
        for vmid in (1, 2, 3):
            web.publish(replace(RUNNING_VM, vmid=vmid))
        cursor = web.get("/api/v2/vps?limit=2").json["nextCursor"]
        web.client.delete("ownup:vm:2")
        assert [vps["vmid"] for vps in web.get(f"/api/v2/vps?cursor={cursor}").json["data"]] == [3, 10000]

    def test_no_vps_has_an_address_that_ownup_knows(self, web: Web):
        assert web.get("/api/v2/vps?primaryIp=192.0.2.1").json == {"data": [], "nextCursor": None}

    def test_account_without_vps(self, web: Web):
        assert web.get("/api/v2/vps", web.make_key(account="empty")).json == {"data": [], "nextCursor": None}


class TestOne:
    def test_it_has_the_gates_that_its_state_opens(self, web: Web):
        body = web.get(VPS).json
        assert (body["id"], body["powerState"]) == (VPS_ID, "running")
        assert body["actions"] == {
            "canStart": {"allowed": False, "reason": "The VPS is running", "code": "vps_running"},
            "canStop": OPEN,
            "canShutdown": OPEN,
            "canRestart": OPEN,
            "canReset": OPEN,
        }

    def test_details_know_no_contract(self, web: Web):
        body = web.get(f"{VPS}/details").json
        unknown = ("productName", "createdAt", "nextDueAt", "billing", "bandwidth", "primaryIp")
        assert {body[name] for name in unknown} == {None}
        assert (body["serviceStatus"], body["powerState"], body["backupsIncluded"]) == ("active", "running", 0)
        assert (body["cpuCores"], body["memoryGb"], body["storageGb"]) == (2, 0.25, None)
        assert body["hostname"] is None  # nobody answers for the guest here
        assert set(body["actions"]) == {f"can{action.capitalize()}" for action in PowerAction}

    def test_hostname_that_nobody_tells_is_null_and_its_rules_are_told(self, web: Web):
        body = web.get(f"{VPS}/hostname").json
        assert body["hostname"] is None
        assert body["actions"] == {"canChange": OPEN}
        assert body["validationRules"]["maxLengthChars"] == 253

    def test_hostname_of_a_stopped_vps_cannot_be_changed(self, web: Web):
        web.publish(STOPPED_VM)
        gate = web.get(f"{VPS}/hostname").json["actions"]["canChange"]
        assert gate == {"allowed": False, "reason": "The VPS is stopped", "code": "vps_stopped"}

    @pytest.mark.parametrize("status", list(VmStatus))
    def test_every_state_can_be_told(self, web: Web, status: VmStatus):
        web.publish(replace(RUNNING_VM, status=status, running=status is VmStatus.RUNNING, agent_available=False))
        for path in (VPS, f"{VPS}/status", f"{VPS}/details"):
            assert web.get(path).json["powerState"] == status

    @pytest.mark.parametrize("read", READS)
    @pytest.mark.parametrize("vps_id", ["vps_" + "0" * 26, ids.vps_id(8), "10000", "192.0.2.1", "%00"])
    def test_what_is_not_yours_is_not_there(self, web: Web, read: str, vps_id: str):
        web.publish(replace(RUNNING_VM, vmid=8, account="other"))
        response = web.get(f"/api/v2/vps/{vps_id}{read}")
        assert (response.status_code, response.json["code"]) == (404, "vps_not_found")

    def test_a_vps_that_was_seen_before_is_not_another_accounts(self, web: Web):
        stranger = web.make_key(account="other")
        assert web.get(VPS).status_code == 200
        for read in READS:
            assert web.get(VPS + read, stranger).status_code == 404


class TestStatus:
    def test_running(self, web: Web):
        moment = datetime(2026, 2, 10, 0, 1, 40, tzinfo=UTC)
        web.app = create_app(web.settings, redis_client=web.client, clock=lambda: moment)
        web.http = web.app.test_client()
        web.publish(replace(RUNNING_VM, mem_bytes=GB // 8, storage_bytes=4 * GB, storage_used_bytes=GB))
        body = web.get(f"{VPS}/status").json
        assert len(body.pop("actions")) == 5
        assert body == {
            "id": VPS_ID,
            "powerState": "running",
            "uptimeSeconds": 100,
            "cpuUsagePercent": 25,
            "cpuCores": 2,
            "memory": {"usedGb": 0.125, "totalGb": 0.25, "usagePercent": 50},
            "storage": {"usedGb": 1, "totalGb": 4, "usagePercent": 25},
            "network": {"inboundGb": 0, "outboundGb": 0, "totalGb": 0},
            "agentAvailable": True,
        }

    def test_whole_numbers_have_no_fraction(self, web: Web):
        web.publish(replace(RUNNING_VM, storage_bytes=4 * GB, storage_used_bytes=GB))
        assert b'"storage":{"usedGb":1,"totalGb":4,"usagePercent":25}' in web.get(f"{VPS}/status").data

    def test_unknown_figures_are_null(self, web: Web):
        web.publish(STOPPED_VM)
        body = web.get(f"{VPS}/status").json
        assert {body["uptimeSeconds"], body["cpuUsagePercent"], body["memory"]["usedGb"]} == {None}
        assert set(body["network"].values()) | set(body["storage"].values()) == {None}

    def test_worker_away_makes_unknown_and_closes_every_gate(self, web: Web):
        web.client.delete("ownup:node:node-1")
        body = web.get(f"{VPS}/status").json
        assert (body["powerState"], body["agentAvailable"]) == ("unknown", False)
        assert {gate["code"] for gate in body["actions"].values()} == {"node_unavailable"}


class TestMetrics:
    def test_samples_in_hostups_units(self, web: Web):
        usage = Usage(
            cpu=0.075,
            mem=0.5,
            diskread_bytes_per_s=2**20,
            diskwrite_bytes_per_s=2**19,
            netin_bytes_per_s=3 * 2**10,
            netout_bytes_per_s=None,
        )
        web.store.run(metrics.record("acme", 10000, usage, covered_s=30))
        body = web.get(f"{VPS}/metrics").json
        assert (body["id"], body["timeframe"]) == (VPS_ID, "hour")
        (sample,) = body["samples"]
        recorded_at = datetime.fromisoformat(sample.pop("recordedAt"))
        assert timedelta(0) <= datetime.now(UTC) - recorded_at < timedelta(seconds=130)
        assert sample == {
            "cpuUsagePercent": 7.5,
            "memoryUsagePercent": 50,
            "diskReadMbPerSecond": 1,
            "diskWriteMbPerSecond": 0.5,
            "networkInboundKbPerSecond": 3,
            "networkOutboundKbPerSecond": None,
        }

    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            *((timeframe, timeframe) for timeframe in Timeframe),
            *(("1h", "hour"), ("24h", "day"), ("1d", "day"), ("7d", "week"), ("30d", "month"), ("1y", "year")),
        ],
    )
    def test_timeframes_and_their_aliases(self, web: Web, given: str, meant: str):
        web.store.run(metrics.record("acme", 10000, Usage(cpu=0.5), covered_s=30))
        body = web.get(f"{VPS}/metrics?timeframe={given}").json
        assert body["timeframe"] == meant
        assert len(body["samples"]) == 1

    def test_never_measured(self, web: Web):
        assert web.get(f"{VPS}/metrics").json["samples"] == []

    @pytest.mark.parametrize("wrong", ["", "HOUR", "2h", "fortnight"])
    def test_no_timeframe(self, web: Web, wrong: str):
        response = web.get(f"{VPS}/metrics?timeframe={wrong}")
        assert (response.status_code, response.json["errors"][0]["pointer"]) == (400, "/timeframe")


class TestDisks:
    DISK = Disk(
        name="virtio0",
        removable=False,
        size_bytes=4 * GB,
        used_bytes=GB,
        read_bytes=GB // 2,
        written_bytes=GB // 4,
        reads=12,
        writes=34,
    )
    EMPTY_DRIVE = replace(DISK, name="ide1-cd0", removable=True, size_bytes=None, used_bytes=None)

    def test_inventory_and_use(self, web: Web):
        web.store.run(disks.write("acme", 10000, (self.DISK, self.EMPTY_DRIVE)))
        first, second = web.get(f"{VPS}/storage").json["disks"]
        assert first == {
            "id": ids.disk_id(10000, "virtio0"),
            "name": "virtio0",
            "type": None,
            "device": None,
            "isCdrom": False,
            "bootOrder": None,
            "capacity": {"totalGb": 4, "usedGb": 1, "freeGb": 3, "usagePercent": 25},
            "io": {"readGb": 0.5, "writeGb": 0.25, "readOperations": 12, "writeOperations": 34},
        }
        assert (second["isCdrom"], set(second["capacity"].values())) == (True, {None})
        light = web.get(f"{VPS}/disks").json["disks"]
        assert light == [{name: disk[name] for name in disk if name != "io"} for disk in (first, second)]

    def test_never_asked(self, web: Web):
        assert web.get(f"{VPS}/disks").json == {"disks": []}


def test_answers_have_the_documented_fields_and_no_others(web: Web):
    document = web.http.get("/openapi/v2.json").json
    web.store.run(metrics.record("acme", 10000, Usage(cpu=0.5), covered_s=30))
    web.store.run(disks.write("acme", 10000, (TestDisks.DISK,)))
    for read in READS:
        operation = document["paths"][f"/api/v2/vps/{{vps_id}}{read}"]["get"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        check(document, schema, json.loads(web.get(VPS + read).data))
