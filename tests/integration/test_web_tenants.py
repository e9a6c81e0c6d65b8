"""What belongs to whom: operators, caps of commands under way, and what goes with a VM when it is gone."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from time import perf_counter

import pytest

from app.access import Scope
from app.core import ids
from app.core.queues import queue_name
from app.core.records import Command, CommandEnd, CommandRequest, CommandStart, CommandState
from app.core.store import Sight, commands, vms
from tests.web import ACCOUNT, EXEC, NODE, RUNNING_VM, PlayedWorker, Web, ends_with, never_answers, tells_pid

NOW = datetime(2026, 2, 10, tzinfo=UTC)
FOREIGN = replace(RUNNING_VM, vmid=20000, account="other", name="foreign")


def record(web: Web, command_id: str, pid: int, *, vmid: int = 10000, account: str = ACCOUNT, end: bool = True) -> None:
    command = Command(
        id=command_id, vmid=vmid, account=account, node=NODE, state=CommandState.QUEUED, created_at=NOW,
        deliver_by=NOW, key_id="k1",
    )  # fmt: skip
    web.store.run(commands.create(command, CommandRequest(line="true"), deliver_within_s=10))
    web.store.run(commands.start(command_id, CommandStart(pid=pid, started_at=NOW)))
    if end:
        ended = CommandEnd(state=CommandState.EXITED, ended_at=NOW, exit_code=0, stdout=b"kept", stderr=b"too")
        web.store.run(commands.end(command_id, ended, ttl_s=3600))


class TestOperators:
    @pytest.fixture
    def operator(self, web: Web) -> str:
        web.publish(FOREIGN)
        return web.make_key(*Scope, account="operations")

    def test_sees_the_vms_of_every_account(self, web: Web, operator: str):
        assert [vm["vmid"] for vm in web.get("/api/vm", operator).json["data"]] == [10000, 20000]
        assert [vm["id"] for vm in web.get("/api/v2/vps", operator).json["data"]] == list(
            map(ids.vps_id, (10000, 20000))
        )
        servers = web.http.get("/v2.1/servers", headers={"X-Auth-Token": operator}).json["servers"]
        assert {server["id"] for server in servers} == set(map(ids.openstack_id, (10000, 20000)))

    def test_what_an_operator_starts_belongs_to_the_owner_of_the_vm(self, web: Web, operator: str, redis_url: str):
        owner = web.make_key(account="other")
        with PlayedWorker(redis_url, tells_pid(7)):
            assert web.post("/api/vm/20000/agent/exec", operator, json={"command": "true"}).status_code == 200
        assert web.get("/api/vm/20000/agent/exec?pid=7", owner).status_code == 200
        job_id = web.post("/api/vm/20000/status", operator, json={"action": "stop"}).json["data"]["jobId"]
        assert web.get(f"/api/jobs/{job_id}", owner).status_code == 200
        assert web.get(f"/api/jobs/{job_id}").status_code == 404

    def test_admin_alone_allows_nothing(self, web: Web):
        assert web.get("/api/vm", web.make_key(Scope.ADMIN)).status_code == 403

    def test_an_operator_can_be_limited_to_some_vms(self, web: Web, operator: str):
        assert operator
        sight = Sight(vmids=frozenset({20000}))
        assert [view.vm.vmid for view in web.store.run(vms.list_seen(sight))] == [20000]
        assert web.store.run(vms.read(10000, sight)) is None


class TestCaps:
    @pytest.fixture
    def capped(self, redis_url: str) -> Iterator[Web]:
        web = Web(
            redis_url, EXEC_START_TIMEOUT_S="0.2", EXEC_MAX_RUNNING_PER_VM="2", EXEC_MAX_RUNNING_PER_KEY="3"
        )  # fmt: skip
        web.key = web.make_key()
        web.publish()
        web.publish(replace(RUNNING_VM, vmid=10001))
        yield web
        web.close()

    def start(self, web: Web, redis_url: str, pid: int, vmid: int = 10000, key: str | None = None) -> int:
        with PlayedWorker(redis_url, tells_pid(pid)):
            return web.post(f"/api/vm/{vmid}/agent/exec", key, json={"command": "sleep 1"}).status_code

    def test_a_vm_has_so_many_commands_at_once(self, capped: Web, redis_url: str):
        assert [self.start(capped, redis_url, pid) for pid in (1, 2, 3)] == [200, 200, 429]
        refused = capped.post(EXEC, json={"command": "true"})
        assert "2 commands under way" in refused.json["message"]
        assert capped.client.llen(f"rq:queue:{queue_name(NODE)}") == 0, "no worker is bothered with it"
        assert capped.store.run(commands.read_result(10000, 3)).result is None, "it was not run"
        assert self.start(capped, redis_url, 4, vmid=10001) == 200, "another VM has its own"

    def test_one_that_ended_makes_room(self, capped: Web, redis_url: str):
        for pid in (1, 2):
            self.start(capped, redis_url, pid)
        found = capped.store.run(commands.read_result(10000, 1)).result
        assert found is not None
        end = CommandEnd(state=CommandState.EXITED, ended_at=NOW, exit_code=0)
        capped.store.run(commands.end(found.command.id, end, ttl_s=60))
        assert [self.start(capped, redis_url, pid) for pid in (3, 4)] == [200, 429]

    def test_one_that_never_started_makes_room(self, capped: Web, redis_url: str):
        with PlayedWorker(redis_url, ends_with(CommandState.FAILED)):
            for _ in range(5):
                assert capped.post(EXEC, json={"command": "true"}).status_code == 500
        for _ in range(5):
            assert capped.post(EXEC, json={"command": "true"}).status_code == 504, "nobody takes it"

    def test_a_key_has_so_many_in_all_vms_together(self, capped: Web, redis_url: str):
        places = [(1, 10000), (2, 10000), (3, 10001), (4, 10001)]
        assert [self.start(capped, redis_url, pid, vmid) for pid, vmid in places] == [200, 200, 200, 429]
        assert self.start(capped, redis_url, 5, 10001, capped.make_key()) == 200, "another key has its own"

    def test_a_refused_start_can_be_repeated_with_its_idempotency_key(self, capped: Web, redis_url: str):
        for pid in (1, 2):
            self.start(capped, redis_url, pid)
        refused = capped.post(EXEC, json={"command": "true"}, idempotency_key="once")
        assert refused.status_code == 429
        found = capped.store.run(commands.read_result(10000, 1)).result
        assert found is not None
        end = CommandEnd(state=CommandState.EXITED, ended_at=NOW, exit_code=0)
        capped.store.run(commands.end(found.command.id, end, ttl_s=60))
        with PlayedWorker(redis_url, tells_pid(9)):
            again = capped.post(EXEC, json={"command": "true"}, idempotency_key="once")
        assert again.json["data"]["pid"] == 9

    def test_files_count_too(self, capped: Web, redis_url: str):
        for pid in (1, 2):
            self.start(capped, redis_url, pid)
        path = f"/v2.1/servers/{ids.openstack_id(10000)}/guest-agent/file-read?path=/etc/hostname"
        refused = capped.http.get(path, headers={"X-Auth-Token": capped.key})
        assert refused.status_code == 429
        assert set(refused.json) == {"overLimit"}


class TestLimitedToCommands:
    @pytest.fixture
    def limited(self, web: Web) -> str:
        return web.make_key(allowed_commands=("/opt/deploy.sh *",))

    def test_runs_what_it_may_and_reads_what_became_of_it(self, web: Web, limited: str, redis_url: str):
        with PlayedWorker(redis_url, tells_pid(5)):
            started = web.post(EXEC, limited, json={"command": "/opt/deploy.sh web-1", "stdin": "x"})
        assert started.json["data"]["pid"] == 5
        assert web.get(f"{EXEC}?pid=5", limited).status_code == 200

    def test_runs_nothing_else(self, web: Web, limited: str, redis_url: str):
        with PlayedWorker(redis_url, never_answers) as worker:
            for body in (
                {"command": "id"},
                {"command": "/opt/deploy.sh web-1; id"},
                {"command": "/opt/deploy.sh a", "cwd": "/tmp"},
            ):
                refused = web.post(EXEC, limited, json=body)
                assert refused.status_code == 403
                assert "limited" in refused.json["message"]
        assert worker.taken == []

    def test_sees_no_other_key_s_commands(self, web: Web, limited: str):
        record(web, "c1", 42)
        server = f"/v2.1/servers/{ids.openstack_id(10000)}/guest-agent/commands"
        assert web.get(f"{EXEC}?pid=42").status_code == 200
        assert web.get(f"{EXEC}?pid=42", limited).status_code == 404
        assert web.delete(f"{EXEC}?pid=42", limited).status_code == 404
        assert web.http.get(server, headers={"X-Auth-Token": limited}).json["commands"] == []
        assert len(web.http.get(server, headers={"X-Auth-Token": web.key}).json["commands"]) == 1


class TestGoneVm:
    def test_its_commands_and_their_output_go_with_it(self, web: Web):
        record(web, "c1", 42)
        record(web, "c2", 43, vmid=20000, account="other")
        assert web.client.exists("ownup:cmd:c1:out", "ownup:cmd:c1:err") == 2
        web.store.run(vms.remove(10000, NODE))
        left = {name for name in web.client.scan_iter("ownup:*") if b"cmd:c1" in name or b":10000" in name}
        assert left == set()
        assert web.store.run(commands.read_result(20000, 43)).result is not None

    def test_a_command_that_is_still_under_way_goes_when_it_ends(self, web: Web):
        record(web, "c1", 42, end=False)
        web.store.run(vms.remove(10000, NODE))
        assert web.store.run(commands.find("c1")) is not None
        web.store.run(commands.end("c1", CommandEnd(state=CommandState.LOST, ended_at=NOW, stdout=b"kept"), ttl_s=60))
        assert {name for name in web.client.scan_iter("ownup:*") if b"cmd:c1" in name or b":10000" in name} == set()

    def test_it_stays_if_the_vm_was_away_for_a_moment_only(self, web: Web):
        record(web, "c1", 42, end=False)
        web.store.run(vms.remove(10000, NODE))
        web.publish()
        web.store.run(commands.end("c1", CommandEnd(state=CommandState.EXITED, ended_at=NOW, exit_code=0), ttl_s=60))
        assert web.get(f"{EXEC}?pid=42").json["data"]["exitcode"] == 0

    def test_results_stay_while_its_definition_can_t_be_read(self, web: Web):
        record(web, "c1", 42)
        web.store.run(vms.remove(10000, NODE, with_results=False))
        assert web.get(f"{EXEC}?pid=42").status_code == 404
        web.publish()
        assert web.get(f"{EXEC}?pid=42").json["data"]["stdout"] == "kept"

    def test_another_node_s_vm_stays(self, web: Web):
        record(web, "c1", 42)
        web.store.run(vms.remove(10000, "node-2"))
        assert web.store.run(commands.read_result(10000, 42)).result is not None


def test_a_foreign_thing_takes_as_long_as_a_missing_one(web: Web, capsys: pytest.CaptureFixture[str]):
    """Each pair is asked in turn; what is compared are medians, with room for a busy machine."""
    web.publish(FOREIGN)
    record(web, "c9", 7, vmid=20000, account="other")
    pairs = {
        "status": ("/api/vm/20000/status", "/api/vm/30000/status"),
        "result": ("/api/vm/20000/agent/exec?pid=7", "/api/vm/30000/agent/exec?pid=7"),
        "v2": (f"/api/v2/vps/{ids.vps_id(20000)}", f"/api/v2/vps/{ids.vps_id(30000)}"),
    }
    owner = web.make_key(account="other")
    web.get(pairs["v2"][0], owner)  # this process has met the id
    for name, (foreign, missing) in pairs.items():
        spent: dict[str, list[float]] = {foreign: [], missing: []}
        for _ in range(300):
            for path, times in spent.items():
                began_s = perf_counter()
                assert web.get(path).status_code == 404
                times.append(perf_counter() - began_s)
        ratio = median(spent[foreign]) / median(spent[missing])
        with capsys.disabled():
            print(f"\nforeign over missing, {name}: {ratio:.3f}")
        assert 0.67 < ratio < 1.5
