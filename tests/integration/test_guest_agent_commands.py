"""Virtuozzo's guest commands over HTTP: what is taken in, what is told, and that all faces mean the same commands."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.access import Scope
from app.core import clock, ids
from app.core.queues import KILL_COMMAND, START_COMMAND
from app.core.records import CommandEnd, CommandKind, CommandRequest, CommandState
from app.core.store import Sight, Store, commands
from tests.openstack import SERVER, Cloud, assert_fault
from tests.web import EXEC, RUNNING_VM, STOPPED_VM, PlayedWorker, Web, ends_with, tells_pid

COMMANDS = f"{SERVER}/guest-agent/commands"
FIELDS = {"created_at", "updated_at", "uuid", "type", "instance_uuid", "status", "error", "result"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def cloud(web: Web) -> Cloud:
    return Cloud(web)


def body(*argv: str, **arguments: Any) -> dict[str, Any]:
    return {"command": {"type": "exec", "arguments": {"command": list(argv), **arguments}}}


def start(cloud: Cloud, redis_url: str, pid: int, *argv: str, **arguments: Any) -> dict[str, Any]:
    with PlayedWorker(redis_url, tells_pid(pid)):
        response = cloud.post(COMMANDS, body(*(argv or ("true",)), **arguments))
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json["command"]
    return found


def end(web: Web, uuid: str, **facts: Any) -> None:
    facts = {"state": CommandState.EXITED, "ended_at": clock.now()} | facts
    web.store.run(commands.end(uuid, CommandEnd(**facts), ttl_s=60))


def listed(cloud: Cloud, query: str = "") -> list[str]:
    response = cloud.get(f"{COMMANDS}?{query}")
    assert response.status_code == 200, response.text
    return [command["uuid"] for command in response.json["commands"]]


class TestRun:
    def test_answer_is_a_command_with_its_pid(self, cloud: Cloud, redis_url: str):
        command = start(cloud, redis_url, 31, "uname", "-a")
        assert set(command) == FIELDS
        assert (command["type"], command["status"], command["error"]) == ("exec", "RUNNING", None)
        assert (command["result"], command["instance_uuid"]) == ({"pid": 31}, ids.openstack_id(10000))

    def test_what_is_asked_for_reaches_the_worker(self, cloud: Cloud, redis_url: str):
        claims = []

        def answer(store: Store, claim: commands.Claim) -> None:
            claims.append(claim)
            tells_pid(5)(store, claim)

        with PlayedWorker(redis_url, answer) as worker:
            cloud.post(COMMANDS, body("printf", "%s", "a b", stdin="in", env={"A": "b"}, cwd="/srv", timeout=2.5))
        (claim,) = claims
        expected = CommandRequest(argv=("printf", "%s", "a b"), stdin="in", env={"A": "b"}, cwd="/srv")
        assert claim.request == expected
        assert (claim.command.timeout_s, claim.command.kind) == (2.5, CommandKind.EXEC)
        assert [job.func_name for job in worker.taken] == [START_COMMAND]

    @pytest.mark.parametrize(
        ("wrong", "blamed"),
        [
            ({}, "command"),
            ({"command": {"type": "exec"}}, "command.arguments"),
            ({"command": {"arguments": {"command": ["true"]}}}, "command.type"),
            ({"command": {"type": "file-read", "arguments": {"command": ["true"]}}}, "command.type"),
            (body(), "command.arguments.command"),
            (body(""), "command.arguments.command"),
            (body("a\0"), "command.arguments.command.0"),
            (body("a", "x" * 120_001), "command.arguments.command.1"),
            (body("a", 1), "command.arguments.command.1"),  # type: ignore[arg-type]
            ({"command": {"type": "exec", "arguments": {"command": "ls -l"}}}, "command.arguments.command"),
            ({"command": {"type": "exec", "arguments": {"command": None}}}, "command.arguments.command"),
            (body("a", timeout=0), "command.arguments.timeout"),
            (body("a", cwd="tmp"), "command.arguments.cwd"),
            (body("a", wait=1), "command.arguments.wait"),
            (body("a", user="x"), "command.arguments.user"),
        ],
    )
    def test_what_is_wrong_is_named(self, cloud: Cloud, wrong: dict[str, Any], blamed: str):
        response = cloud.post(COMMANDS, wrong)
        assert f"{blamed}: " in assert_fault(response, 400, "badRequest")

    @pytest.mark.parametrize("argv", [("rm", "-rf", "/"), ("sh", "-c", "rm -rf /"), ("sudo", "mkfs.ext4", "/dev/sda")])
    def test_catastrophe_is_refused_as_everywhere(self, cloud: Cloud, argv: tuple[str, ...]):
        assert "safety" in assert_fault(cloud.post(COMMANDS, body(*argv)), 400, "badRequest")
        assert listed(cloud) == []

    def test_vm_that_is_off_is_409(self, cloud: Cloud, web: Web):
        web.publish(STOPPED_VM)
        assert_fault(cloud.post(COMMANDS, body("true")), 409, "conflictingRequest")

    def test_refused_start_is_409_and_stays_in_the_list(self, cloud: Cloud, redis_url: str):
        with PlayedWorker(redis_url, ends_with(CommandState.FAILED, "the agent said no")):
            response = cloud.post(COMMANDS, body("true"))
        assert_fault(response, 409, "conflictingRequest")
        (command,) = cloud.get(COMMANDS).json["commands"]
        assert (command["status"], command["error"], command["result"]) == ("ERROR", "the agent said no", None)

    def test_foreign_and_unknown_servers_are_404(self, cloud: Cloud, web: Web):
        web.publish(replace(RUNNING_VM, vmid=10009, account="other"))
        for vmid in (10009, 1):
            path = COMMANDS.replace(ids.openstack_id(10000), ids.openstack_id(vmid))
            assert_fault(cloud.post(path, body("true")), 404, "itemNotFound")
            assert_fault(cloud.get(path), 404, "itemNotFound")

    def test_scopes(self, web: Web):
        reader = Cloud(web, web.make_key(Scope.READ_VM))
        assert reader.get(COMMANDS).status_code == 200
        assert_fault(reader.post(COMMANDS, body("true")), 403, "forbidden")
        assert_fault(reader.get(f"{COMMANDS}/{UNKNOWN}"), 403, "forbidden")
        assert_fault(reader.delete(f"{COMMANDS}/{UNKNOWN}"), 403, "forbidden")

    def test_idempotency_key_covers_the_arguments(self, web: Web, cloud: Cloud, redis_url: str):
        def post(*argv: str) -> TestResponse:
            headers = {"X-Auth-Token": cloud.token, "Idempotency-Key": "k"}
            return web.app.test_client().post(COMMANDS, json=body(*argv), headers=headers)

        with PlayedWorker(redis_url, tells_pid(3)) as worker:
            first, second, other = post("echo", "1"), post("echo", "1"), post("echo", "2")
        assert first.json["command"]["uuid"] == second.json["command"]["uuid"]
        assert second.headers["Idempotency-Replayed"] == "true"
        assert_fault(other, 409, "conflictingRequest")
        assert len(worker.taken) == 1


class TestList:
    def test_has_the_documented_fields_and_no_others(self, cloud: Cloud, web: Web, redis_url: str):
        command = start(cloud, redis_url, 31)
        end(web, command["uuid"], exit_code=3, stdout=b"out", out_truncated=True)
        (found,) = cloud.get(COMMANDS).json["commands"]
        assert set(found) == FIELDS
        assert found["result"] == {"pid": 31, "exitcode": 3, "out_truncated": True, "err_truncated": False}
        assert (found["status"], found["error"]) == ("SUCCESS", None)

    def test_has_the_commands_of_every_face_oldest_first(self, cloud: Cloud, web: Web, redis_url: str):
        first = start(cloud, redis_url, 1)["uuid"]
        with PlayedWorker(redis_url, tells_pid(2)):
            assert web.post(EXEC, json={"command": "true"}).status_code == 200
            path = f"/api/v2/vps/{ids.vps_id(10000)}/agent/exec"
            assert web.post(path, json={"command": "true"}).status_code == 200
        last = start(cloud, redis_url, 4)["uuid"]
        uuids = listed(cloud)
        assert (len(uuids), uuids[0], uuids[-1]) == (4, first, last)

    def test_pages(self, cloud: Cloud, redis_url: str):
        uuids = [start(cloud, redis_url, pid)["uuid"] for pid in range(1, 6)]
        assert listed(cloud) == uuids
        assert listed(cloud, "limit=2") == uuids[:2]
        assert listed(cloud, f"limit=2&marker={uuids[1]}") == uuids[2:4]
        assert listed(cloud, f"marker={uuids[-1]}") == []
        page = cloud.get(f"{COMMANDS}?limit=3").json
        (link,) = page["commands_links"]
        assert link["rel"] == "next"
        following = cloud.get(link["href"].removeprefix("http://localhost")).json
        assert [command["uuid"] for command in following["commands"]] == uuids[3:]
        assert "commands_links" not in following
        assert_fault(cloud.get(f"{COMMANDS}?marker={UNKNOWN}"), 400, "badRequest")
        assert_fault(cloud.get(f"{COMMANDS}?limit=0"), 400, "badRequest")

    def test_expired_and_former_owners_commands_are_left_out(self, cloud: Cloud, web: Web, redis_url: str):
        uuids = [start(cloud, redis_url, pid)["uuid"] for pid in range(1, 4)]
        web.client.delete(f"ownup:cmd:{uuids[0]}")
        web.client.hset(f"ownup:cmd:{uuids[1]}", "account", "other")
        assert listed(cloud) == uuids[2:]
        assert web.client.zrange("ownup:vm:10000:commands", 0, -1) == [uuid.encode() for uuid in uuids[1:]]

    def test_index_is_trimmed_by_new_commands(self, cloud: Cloud, web: Web, redis_url: str):
        uuids = [start(cloud, redis_url, pid)["uuid"] for pid in range(1, 4)]
        web.client.delete(*(f"ownup:cmd:{uuid}" for uuid in uuids[:2]))
        uuids.append(start(cloud, redis_url, 4)["uuid"])
        assert web.client.zrange("ownup:vm:10000:commands", 0, -1) == [uuid.encode() for uuid in uuids[2:]]


def test_index_is_bounded(web: Web, cloud: Cloud, redis_url: str):
    kept = {f"c{number}": number for number in range(commands.MOST_LISTED)}
    web.client.zadd("ownup:vm:10000:commands", kept)
    with web.client.pipeline() as pipe:
        for uuid in kept:
            pipe.hset(f"ownup:cmd:{uuid}", "account", "acme")
        pipe.execute()
    uuid = start(cloud, redis_url, 1)["uuid"]
    assert web.client.zcard("ownup:vm:10000:commands") == commands.MOST_LISTED
    assert web.client.zrange("ownup:vm:10000:commands", -1, -1) == [uuid.encode()]


class TestShow:
    def test_has_the_output(self, cloud: Cloud, web: Web, redis_url: str):
        uuid = start(cloud, redis_url, 31)["uuid"]
        path = f"{COMMANDS}/{uuid}"
        assert cloud.get(path).json["command"]["result"] == {"pid": 31}
        end(web, uuid, exit_code=0, stdout="é\n".encode() + b"\xff", stderr=b"oops" * 100_000)
        result = cloud.get(path).json["command"]["result"]
        assert (result["stdout"], result["stderr"]) == ("é\n\ufffd", "oops" * 100_000)
        coded = cloud.get(f"{path}?encoding=base64").json["command"]["result"]
        assert (base64.b64decode(coded["stdout"]), coded["encoding"]) == ("é\n".encode() + b"\xff", "base64")
        assert cloud.get(f"{COMMANDS}/{uuid.upper()}").json["command"]["uuid"] == uuid

    def test_other_faces_know_it_by_its_pid(self, cloud: Cloud, web: Web, redis_url: str):
        uuid = start(cloud, redis_url, 31)["uuid"]
        end(web, uuid, exit_code=0, stdout=b"out")
        assert web.get(f"{EXEC}?pid=31").json["data"]["stdout"] == "out"
        assert web.get(f"/api/v2/vps/{ids.vps_id(10000)}/agent/exec?pid=31").json["stdout"] == "out"

    @pytest.mark.parametrize("uuid", [UNKNOWN, "x", f"{UNKNOWN}:request", "%20"])
    def test_unknown_is_404(self, cloud: Cloud, uuid: str):
        assert_fault(cloud.get(f"{COMMANDS}/{uuid}"), 404, "itemNotFound")
        assert_fault(cloud.delete(f"{COMMANDS}/{uuid}"), 404, "itemNotFound")

    def test_command_of_another_vm_or_account_is_404(self, cloud: Cloud, web: Web, redis_url: str):
        uuid = start(cloud, redis_url, 31)["uuid"]
        web.publish(replace(RUNNING_VM, vmid=10001))
        other = COMMANDS.replace(ids.openstack_id(10000), ids.openstack_id(10001))
        assert_fault(cloud.get(f"{other}/{uuid}"), 404, "itemNotFound")
        assert_fault(cloud.delete(f"{other}/{uuid}"), 404, "itemNotFound")
        web.client.hset(f"ownup:cmd:{uuid}", "account", "other")
        assert_fault(cloud.get(f"{COMMANDS}/{uuid}"), 404, "itemNotFound")
        assert_fault(cloud.delete(f"{COMMANDS}/{uuid}"), 404, "itemNotFound")
        assert web.store.run(commands.find(uuid)).kill_requested_at is None


class TestCancel:
    @pytest.fixture
    def killing(self, redis_url: str) -> Iterator[PlayedWorker]:
        def kill(store: Store, uuid: str) -> None:
            ended = CommandEnd(
                state=CommandState.CANCELLED, ended_at=clock.now(), stdout=b"partly", message="Cancelled"
            )
            store.run(commands.end(uuid, ended, ttl_s=60))

        with PlayedWorker(redis_url, tells_pid(31), kill) as worker:
            yield worker

    def test_ends_it_in_all_faces(self, cloud: Cloud, web: Web, killing: PlayedWorker):
        uuid = cloud.post(COMMANDS, body("sleep", "9")).json["command"]["uuid"]
        response = cloud.delete(f"{COMMANDS}/{uuid}")
        assert response.status_code == 200
        command = response.json["command"]
        assert (command["status"], command["error"]) == ("ERROR", "Cancelled")
        assert command["result"]["stdout"] == "partly"
        assert web.get(f"{EXEC}?pid=31").json["data"]["state"] == "cancelled"
        assert [job.func_name for job in killing.taken] == [START_COMMAND, KILL_COMMAND]
        again = cloud.delete(f"{COMMANDS}/{uuid}")
        assert again.json["command"] == cloud.get(f"{COMMANDS}/{uuid}").json["command"]
        assert len(killing.taken) == 2

    def test_commands_of_other_faces_too(self, cloud: Cloud, web: Web, killing: PlayedWorker):
        web.post(EXEC, json={"command": "sleep 9"})
        (uuid,) = listed(cloud)
        assert cloud.delete(f"{COMMANDS}/{uuid}").json["command"]["status"] == "ERROR"
        assert web.get(f"{EXEC}?pid=31").json["data"]["state"] == "cancelled"
        assert len(killing.taken) == 2

    def test_one_that_is_not_sent_yet_is_noted(self, web: Web, cloud: Cloud, redis_url: str):
        command = replace(
            web.store.run(commands.find(start(cloud, redis_url, 1)["uuid"])),
            id=UNKNOWN,
            state=CommandState.QUEUED,
            pid=None,
            sent_at=None,
            started_at=None,
        )
        web.store.run(commands.create(command, CommandRequest(argv=("true",)), deliver_within_s=9))
        noted = web.store.run(commands.request_cancel(10000, UNKNOWN, Sight("acme")))
        assert (noted.state, noted.kill_requested_at is not None) == (CommandState.QUEUED, True)
        assert web.store.run(commands.claim(UNKNOWN)).command.kill_requested_at is not None
