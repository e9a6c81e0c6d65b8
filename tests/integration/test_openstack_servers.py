"""Nova's servers and flavors over HTTP: what they say of VMs, how they are found, and what can be done to them."""

from dataclasses import replace

import pytest

from app.access import Scope
from app.core import clock, ids
from app.core.records import JobKind, JobState, VmStatus
from app.core.store import jobs
from tests.openstack import ACTION, SERVER, SERVER_ID, SERVERS, Cloud, assert_fault
from tests.web import RUNNING_VM, STOPPED_VM, Web

HARD, SOFT = {"reboot": {"type": "HARD"}}, {"reboot": {"type": "SOFT"}}
START, STOP = {"os-start": None}, {"os-stop": None}


@pytest.fixture
def cloud(web: Web) -> Cloud:
    return Cloud(web)


@pytest.fixture
def many(web: Web) -> list[str]:
    """Five VMs more, of two sizes; answer the ids of all servers by vmid."""
    for vmid in range(10001, 10006):
        size = {"cpus": 1} if vmid % 2 else {"maxmem_bytes": None}
        web.publish(replace(STOPPED_VM, vmid=vmid, name=f"db-{vmid - 10000}", **size))
    return [ids.openstack_id(vmid) for vmid in range(10000, 10006)]


def names(cloud: Cloud, query: str = "", path: str = SERVERS) -> list[str]:
    response = cloud.get(f"{path}?{query}")
    assert response.status_code == 200, response.text
    return [server["name"] for server in response.json["servers"]]


def state(cloud: Cloud) -> tuple[str, str | None, str | None, int]:
    server = cloud.get(SERVER).json["server"]
    fields = ("status", "OS-EXT-STS:vm_state", "OS-EXT-STS:task_state", "OS-EXT-STS:power_state")
    status, vm_state, task, power = (server[field] for field in fields)
    return status, vm_state, task, power


def queued(web: Web) -> list[tuple[str, bool]]:
    found = [web.store.run(jobs.find(job_id)) for job_id in web.store.run(jobs.list_open("node-1"))]
    return [(job.kind, job.force) for job in found if job is not None]


class TestShow:
    def test_all_that_is_known(self, cloud: Cloud):
        response = cloud.get(SERVER)
        assert response.status_code == 200
        assert response.json["server"] == {
            "id": SERVER_ID,
            "name": "web-1",
            "links": [
                {"rel": "self", "href": f"http://localhost/v2.1/servers/{SERVER_ID}"},
                {"rel": "bookmark", "href": f"http://localhost/servers/{SERVER_ID}"},
            ],
            "status": "ACTIVE",
            "OS-EXT-STS:vm_state": "active",
            "OS-EXT-STS:task_state": None,
            "OS-EXT-STS:power_state": 1,
            "tenant_id": "acme",
            "user_id": None,
            "flavor": {
                "id": "2cpu-256mb",
                "links": [{"rel": "bookmark", "href": "http://localhost/flavors/2cpu-256mb"}],
            },
            "image": "",
            "addresses": {},
            "metadata": {},
            "created": None,
            "updated": "2026-02-10T00:00:00Z",
            "OS-SRV-USG:launched_at": "2026-02-10T00:00:00.000000",
            "OS-EXT-SRV-ATTR:hypervisor_hostname": "node-1",
            "OS-EXT-SRV-ATTR:instance_name": "10000",
        }

    def test_what_is_not_known_is_null_or_empty(self, web: Web, cloud: Cloud):
        web.publish(replace(STOPPED_VM, cpus=None))
        server = cloud.get(SERVER).json["server"]
        assert (server["flavor"], server["OS-SRV-USG:launched_at"]) == ({}, None)

    @pytest.mark.parametrize("server_id", ["web-1", "10000", ids.openstack_id(1), SERVER_ID.upper(), "%00", "ä"])
    def test_what_is_no_id_of_a_server(self, cloud: Cloud, server_id: str):
        assert_fault(cloud.get(f"{SERVERS}/{server_id}"), 404, "itemNotFound")

    def test_that_of_another_account_is_not_there(self, web: Web, cloud: Cloud):
        other = Cloud(web, web.make_key(account="other"))
        assert cloud.get(SERVER).status_code == 200
        assert_fault(other.get(SERVER), 404, "itemNotFound")
        assert_fault(other.post(ACTION, STOP), 404, "itemNotFound")
        assert names(other) == []
        assert queued(web) == []

    def test_one_that_appears_later_is_found(self, web: Web, cloud: Cloud):
        path = f"{SERVERS}/{ids.openstack_id(7)}"
        assert_fault(cloud.get(path), 404, "itemNotFound")
        web.publish(replace(RUNNING_VM, vmid=7, name="late"))
        assert cloud.get(path).json["server"]["name"] == "late"

    def test_one_that_changes_hands_is_not_found_any_more(self, web: Web, cloud: Cloud):
        assert cloud.get(SERVER).status_code == 200
        web.publish(replace(RUNNING_VM, account="other"))
        assert_fault(cloud.get(SERVER), 404, "itemNotFound")
        assert Cloud(web, web.make_key(account="other")).get(SERVER).status_code == 200


class TestState:
    @pytest.mark.parametrize(
        ("status", "told"),
        [
            (VmStatus.RUNNING, ("ACTIVE", "active", None, 1)),
            (VmStatus.STOPPED, ("SHUTOFF", "stopped", None, 4)),
            (VmStatus.STARTING, ("SHUTOFF", "stopped", "powering-on", 4)),
            (VmStatus.STOPPING, ("ACTIVE", "active", "powering-off", 1)),
            (VmStatus.PAUSED, ("PAUSED", "paused", None, 3)),
            (VmStatus.ERROR, ("ERROR", "error", None, 0)),
            (VmStatus.UNKNOWN, ("UNKNOWN", None, None, 0)),
        ],
    )
    def test_every_status_in_novas_words(self, web: Web, cloud: Cloud, status: VmStatus, told: tuple[object, ...]):
        web.publish(replace(RUNNING_VM, status=status))
        assert state(cloud) == told

    def test_worker_away(self, web: Web, cloud: Cloud):
        assert cloud.post(ACTION, HARD).status_code == 202
        web.client.delete("ownup:node:node-1")
        assert state(cloud) == ("UNKNOWN", None, None, 0)

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            (STOP, ("ACTIVE", "active", "powering-off", 1)),
            (SOFT, ("REBOOT", "active", "rebooting", 1)),
            (HARD, ("HARD_REBOOT", "active", "rebooting_hard", 1)),
        ],
    )
    def test_an_action_shows_from_its_answer_to_its_end(
        self, web: Web, cloud: Cloud, body: dict[str, object], told: tuple[object, ...]
    ):
        assert cloud.post(ACTION, body).status_code == 202
        assert state(cloud) == told
        assert names(cloud, f"status={told[0]}") == ["web-1"]
        (job_id,) = web.store.run(jobs.list_open("node-1"))
        web.store.run(jobs.start(job_id))
        assert state(cloud) == told
        web.store.run(jobs.finish(job_id, JobState.FAILED, "no", clock.now()))
        assert state(cloud) == ("ACTIVE", "active", None, 1)

    def test_start_shows_on_a_stopped_one(self, web: Web, cloud: Cloud):
        web.publish(STOPPED_VM)
        assert cloud.post(ACTION, START).status_code == 202
        assert state(cloud) == ("SHUTOFF", "stopped", "powering-on", 4)


class TestActions:
    @pytest.mark.parametrize(
        ("body", "job"),
        [
            (STOP, (JobKind.SHUTDOWN, True)),
            (SOFT, (JobKind.RESTART, False)),
            (HARD, (JobKind.RESET, True)),
            ({"os-stop": {}}, (JobKind.SHUTDOWN, True)),
            ({"reboot": {"type": "Hard"}}, (JobKind.RESET, True)),
        ],
    )
    def test_running_one(self, web: Web, cloud: Cloud, body: dict[str, object], job: tuple[JobKind, bool]):
        response = cloud.post(ACTION, body)
        assert (response.status_code, response.data) == (202, b"")
        assert queued(web) == [job]

    def test_stopped_one_is_started(self, web: Web, cloud: Cloud):
        web.publish(STOPPED_VM)
        assert cloud.post(ACTION, START).status_code == 202
        assert queued(web) == [(JobKind.START, False)]

    def test_state_that_forbids_it(self, web: Web, cloud: Cloud):
        assert "running" in assert_fault(cloud.post(ACTION, START), 409, "conflictingRequest")
        web.publish(STOPPED_VM)
        for body in (STOP, SOFT, HARD):
            assert "stopped" in assert_fault(cloud.post(ACTION, body), 409, "conflictingRequest")
        assert queued(web) == []

    def test_another_action_has_to_wait(self, web: Web, cloud: Cloud):
        assert cloud.post(ACTION, STOP).status_code == 202
        for body in (STOP, SOFT, HARD):
            assert "powering-off" in assert_fault(cloud.post(ACTION, body), 409, "conflictingRequest")
        assert queued(web) == [(JobKind.SHUTDOWN, True)]

    def test_soft_reboot_can_be_followed_by_a_hard_one(self, web: Web, cloud: Cloud):
        assert cloud.post(ACTION, SOFT).status_code == 202
        assert cloud.post(ACTION, HARD).status_code == 202
        assert state(cloud)[0] == "REBOOT"
        assert sorted(queued(web)) == [(JobKind.RESET, True), (JobKind.RESTART, False)]

    def test_worker_away(self, web: Web, cloud: Cloud):
        web.client.delete("ownup:node:node-1")
        assert_fault(cloud.post(ACTION, STOP), 503, "serviceUnavailable")

    @pytest.mark.parametrize(
        "body", [{}, {"pause": None}, STOP | START, {"reboot": {}}, {"reboot": {"type": "COLD"}}, {"reboot": None}, []]
    )
    def test_what_is_no_action(self, web: Web, cloud: Cloud, body: object):
        assert_fault(cloud.post(ACTION, body), 400, "badRequest")
        assert queued(web) == []

    def test_key_without_the_scope(self, web: Web):
        reader = Cloud(web, web.make_key(Scope.READ_VM, Scope.WRITE_VM))
        assert "power:vm" in assert_fault(reader.post(ACTION, STOP), 403, "forbidden")
        assert_fault(Cloud(web, web.make_key(Scope.POWER_VM)).get(SERVER), 403, "forbidden")


class TestList:
    def test_short_and_full(self, cloud: Cloud, many: list[str]):
        short = cloud.get(SERVERS).json
        assert [server["id"] for server in short["servers"]] == many
        assert {frozenset(server) for server in short["servers"]} == {frozenset({"id", "name", "links"})}
        assert cloud.get(f"{SERVERS}/detail").json["servers"][0] == cloud.get(SERVER).json["server"]
        assert set(short) == {"servers"}

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("name=db-1", ["db-1"]),
            ("name=db-", ["db-1", "db-2", "db-3", "db-4", "db-5"]),
            ("name=^web", ["web-1"]),
            ("name=-1$", ["web-1", "db-1"]),
            ("name=^db-2$", ["db-2"]),
            ("name=^eb", []),
            ("name=.*", []),
            ("name=DB", []),
            ("status=active", ["web-1"]),
            ("status=SHUTOFF&name=5", ["db-5"]),
            ("status=BUILD", []),
            ("flavor=1cpu-256mb", ["db-1", "db-3", "db-5"]),
            (f"uuid={SERVER_ID}", ["web-1"]),
            ("deleted=False&name=web", ["web-1"]),
            ("deleted=True", []),
        ],
    )
    def test_filters(self, cloud: Cloud, many: list[str], query: str, found: list[str]):
        assert len(many) == 6
        assert names(cloud, query) == found
        assert names(cloud, query, f"{SERVERS}/detail") == found

    @pytest.mark.parametrize(
        "query", ["ip=10.0.0.1", "all_tenants=True", "name=a&name=b", "limit=0", "limit=x", "marker=x"]
    )
    def test_filter_that_cannot_be_obeyed_is_refused(self, cloud: Cloud, query: str):
        for path in (SERVERS, f"{SERVERS}/detail"):
            assert_fault(cloud.get(f"{path}?{query}"), 400, "badRequest")

    def test_pages_lead_from_one_to_the_next(self, cloud: Cloud, many: list[str]):
        seen, path = [], f"{SERVERS}/detail?limit=2&name=db"
        while path:
            page = cloud.get(path).json
            seen.append([server["name"] for server in page["servers"]])
            (link,) = page.get("servers_links", [{"rel": "next", "href": ""}])
            assert link["rel"] == "next"
            path = link["href"].removeprefix("http://localhost")
        assert seen == [["db-1", "db-2"], ["db-3", "db-4"], ["db-5"]]
        assert names(cloud, f"limit=2&marker={many[-1]}") == []

    def test_marker_need_not_pass_the_filter(self, cloud: Cloud, many: list[str]):
        assert names(cloud, f"marker={many[0]}&status=SHUTOFF&limit=1") == ["db-1"]


class TestFlavors:
    def test_sizes_that_are_known_each_once(self, cloud: Cloud, many: list[str]):
        assert len(many) == 6
        flavors = cloud.get("/v2.1/flavors/detail?is_public=None").json["flavors"]
        assert [flavor["id"] for flavor in flavors] == ["1cpu-256mb", "2cpu-256mb"]
        assert flavors[0] == {
            "id": "1cpu-256mb",
            "name": "1 vCPU, 256 MiB",
            "links": flavors[0]["links"],
            "vcpus": 1,
            "ram": 256,
            "disk": None,
            "os-flavor-access:is_public": True,
        }
        assert cloud.get("/v2.1/flavors/1cpu-256mb").json["flavor"] == flavors[0]
        assert cloud.get("/v2.1/flavors/1cpu-256mb/os-extra_specs").json == {"extra_specs": {}}
        assert flavors[0]["links"][0]["href"] == "http://localhost/v2.1/flavors/1cpu-256mb"

    def test_pages(self, cloud: Cloud, many: list[str]):
        assert len(many) == 6
        first = cloud.get("/v2.1/flavors?limit=1").json
        assert [set(flavor) for flavor in first["flavors"]] == [{"id", "name", "links"}]
        path = first["flavors_links"][0]["href"].removeprefix("http://localhost")
        second = cloud.get(path).json
        assert [flavor["id"] for flavor in second["flavors"]] == ["2cpu-256mb"]
        assert "flavors_links" not in second
        assert_fault(cloud.get("/v2.1/flavors?marker=x"), 400, "badRequest")

    def test_none_is_private(self, cloud: Cloud):
        assert cloud.get("/v2.1/flavors/detail?is_public=False").json["flavors"] == []
        assert len(cloud.get("/v2.1/flavors/detail?is_public=True").json["flavors"]) == 1

    @pytest.mark.parametrize("path", ["9cpu-9mb", "x", "9cpu-9mb/os-extra_specs"])
    def test_size_that_no_vm_has(self, cloud: Cloud, path: str):
        assert_fault(cloud.get(f"/v2.1/flavors/{path}"), 404, "itemNotFound")
