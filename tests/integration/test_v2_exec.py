"""Commands over v2: start, poll, wait, kill, probe, each in v2's spelling."""

import re
from dataclasses import replace
from typing import Any

import pytest

from app.access import Scope
from app.core import clock, ids
from app.core.records import CommandEnd, CommandStart, CommandState
from app.core.store import Store, commands
from app.core.store.commands import Claim
from tests.web import EXEC, RUNNING_VM, STOPPED_VM, PlayedWorker, Web, ends_with, never_answers, tells_pid

V2_EXEC = f"/api/v2/vps/{ids.vps_id(10000)}/agent/exec"


def exits(pid: int, code: int | None = 0, *, stdout: bytes = b"OK\n", signal: int | None = None) -> Any:
    """Make an answer of a worker: the command has started, and ended at once."""

    def answer(store: Store, claim: Claim) -> None:
        started = CommandStart(pid=pid, started_at=clock.now(), agent_identity="agent-1")
        store.run(commands.start(claim.command.id, started))
        end = CommandEnd(
            state=CommandState.EXITED,
            ended_at=clock.now(),
            exit_code=code,
            signal=signal,
            stdout=stdout,
            stderr=b"\xff",
        )
        store.run(commands.end(claim.command.id, end, ttl_s=60))

    return answer


def test_a_started_command_is_a_pid_and_where_to_poll(web: Web, redis_url: str):
    with PlayedWorker(redis_url, exits(4242)):
        response = web.post(V2_EXEC, json={"command": "echo OK"})
    assert (response.status_code, response.json) == (200, {"pid": 4242, "pollUrl": f"{V2_EXEC}?pid=4242"})
    assert web.get(response.json["pollUrl"]).json == {
        "pid": 4242,
        "exited": True,
        "exitCode": 0,
        "stdout": "OK\n",
        "stderr": "\ufffd",
        "available": True,
        "vmRunning": True,
        "state": "exited",
        "message": "Command exited with code 0",
    }


def test_a_command_of_v1_is_read_and_killed_through_v2_and_the_other_way_round(web: Web, redis_url: str):
    with PlayedWorker(redis_url, tells_pid(7), kill=cancels):
        web.post(EXEC, json={"command": "sleep 9"})
        assert web.get(f"{V2_EXEC}?pid=7").json["exited"] is False
        assert web.delete(f"{V2_EXEC}?pid=7").json["state"] == "cancelled"
        assert web.get(f"{EXEC}?pid=7").json["data"]["state"] == "cancelled"
    with PlayedWorker(redis_url, exits(8, 3)):
        web.post(V2_EXEC, json={"command": "exit 3"})
    assert web.get(f"{EXEC}?pid=8").json["data"]["exitcode"] == web.get(f"{V2_EXEC}?pid=8").json["exitCode"] == 3


def cancels(store: Store, command_id: str) -> None:
    end = CommandEnd(state=CommandState.CANCELLED, ended_at=clock.now(), signal=15)
    store.run(commands.end(command_id, end, ttl_s=60))


def test_a_running_command_has_no_exit_code_yet(web: Web, redis_url: str):
    with PlayedWorker(redis_url, tells_pid(5)):
        web.post(V2_EXEC, json={"command": "sleep 9"})
    body = web.get(f"{V2_EXEC}?pid=5").json
    assert (body["exited"], body["exitCode"], body["state"]) == (False, None, "running")


@pytest.mark.parametrize(("code", "signal", "told"), [(7, None, 7), (None, 9, 137), (0, None, 0)])
def test_with_wait_the_answer_has_the_result(web: Web, redis_url: str, code: int | None, signal: int | None, told: int):
    with PlayedWorker(redis_url, exits(6, code, signal=signal)):
        body = web.post(V2_EXEC, json={"command": "true", "wait": 5}).json
    assert (body["pid"], body["pollUrl"]) == (6, f"{V2_EXEC}?pid=6")
    assert (body["exited"], body["exitCode"], body["stdout"]) == (True, told, "OK\n")
    assert body.get("signal") == signal


def test_with_wait_and_the_time_up(web: Web, redis_url: str):
    with PlayedWorker(redis_url, tells_pid(6)):
        body = web.post(V2_EXEC, json={"command": "sleep 9", "wait": 0.05}).json
    assert (body["exited"], body["exitCode"], body["pollUrl"]) == (False, None, f"{V2_EXEC}?pid=6")


def test_options_are_spelt_in_camel_case(web: Web, redis_url: str):
    body = {
        "command": "cat",
        "timeout": 9.5,
        "stdin": "in",
        "env": {"A": "1"},
        "cwd": "/srv",
        "waitForAgent": 3,
        "wait": 0,
    }
    seen: list[Claim] = []

    def answer(store: Store, claim: Claim) -> None:
        seen.append(claim)
        tells_pid(5)(store, claim)

    with PlayedWorker(redis_url, answer):
        assert web.post(V2_EXEC, json=body).status_code == 200
    (claim,) = seen
    assert (claim.command.timeout_s, claim.command.wait_for_agent_s) == (9.5, 3)
    assert (claim.request.stdin, claim.request.env, claim.request.cwd) == ("in", {"A": "1"}, "/srv")


def test_output_as_base64(web: Web, redis_url: str):
    with PlayedWorker(redis_url, exits(5)):
        web.post(V2_EXEC, json={"command": "true"})
    body = web.get(f"{V2_EXEC}?pid=5&encoding=base64").json
    assert (body["stdout"], body["stderr"], body["encoding"]) == ("T0sK", "/w==", "base64")


def test_a_key_makes_a_repeated_start_the_first_one(web: Web, redis_url: str):
    with PlayedWorker(redis_url, tells_pid(5)) as worker:
        first = web.post(V2_EXEC, json={"command": "true"}, idempotency_key="k")
        again = web.post(V2_EXEC, json={"command": "true"}, idempotency_key="k")
        over_v1 = web.post(EXEC, json={"command": "true"}, idempotency_key="k")
    assert first.json == again.json
    assert (again.headers["Idempotency-Replayed"], over_v1.headers["Idempotency-Replayed"]) == ("true", "true")
    assert len(worker.taken) == 1
    other = web.post(V2_EXEC, json={"command": "false"}, idempotency_key="k")
    assert (other.status_code, other.json["code"]) == (409, "idempotency_conflict")


def test_probe(web: Web):
    assert web.get(V2_EXEC).json == {"available": True, "reason": None, "vmRunning": True}
    web.publish(STOPPED_VM)
    assert web.get(V2_EXEC).json == {"available": False, "reason": "VM is stopped", "vmRunning": False}
    web.publish(replace(RUNNING_VM, agent_available=False, agent_message="not there"))
    assert web.get(V2_EXEC).json == {"available": False, "reason": "not there", "vmRunning": True}


def test_probing_is_reading_and_the_rest_is_writing(web: Web):
    reader = web.make_key(Scope.READ_VM)
    assert web.get(V2_EXEC, reader).status_code == 200
    for response in (
        web.get(f"{V2_EXEC}?pid=5", reader),
        web.delete(f"{V2_EXEC}?pid=5", reader),
        web.post(V2_EXEC, reader, json={"command": "true"}),
    ):
        assert (response.status_code, response.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "/command", "missing_required"),
        ({"command": ""}, "/command", "invalid_value"),
        ({"command": None}, "/command", "invalid_value"),
        ({"command": "x" * 4097}, "/command", "invalid_value"),
        ({"command": "true", "wait_for_agent": 1}, "/wait_for_agent", "unknown_field"),
        ({"command": "true", "a/b~c": 1}, "/a~1b~0c", "unknown_field"),
        ({"command": "true", "env": {"1.X/Y": "v"}}, "/env/1.X~1Y", "invalid_value"),
        ({"command": "true", "env": []}, "/env", "invalid_value"),
        ({"command": "true", "wait": 61}, "/wait", "invalid_value"),
    ],
)
def test_what_is_wrong_is_pointed_to(web: Web, body: dict[str, object], pointer: str, code: str):
    response = web.post(V2_EXEC, json=body)
    assert (response.status_code, response.json["code"]) == (400, "invalid_request")
    (error,) = response.json["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)
    assert error["detail"]


def test_the_longest_line_is_taken(web: Web, redis_url: str):
    with PlayedWorker(redis_url, tells_pid(5)):
        assert web.post(V2_EXEC, json={"command": ":" + "x" * 4095}).status_code == 200


@pytest.mark.parametrize(
    ("parameters", "pointer"), [("pid=x", "/pid"), ("pid=5&encoding=hex", "/encoding"), ("pid=5&wait=-1", "/wait")]
)
def test_parameters_are_pointed_to_as_well(web: Web, parameters: str, pointer: str):
    response = web.get(f"{V2_EXEC}?{parameters}")
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (400, pointer)


def test_a_kill_needs_a_pid(web: Web):
    response = web.delete(V2_EXEC)
    assert response.json["errors"] == [{"pointer": "/pid", "detail": "is required", "code": "missing_required"}]


def test_blocked_command(web: Web):
    response = web.post(V2_EXEC, json={"command": "rm -rf /"})
    assert (response.status_code, response.json["code"]) == (400, "command_blocked")
    assert response.json["detail"].startswith("This command has been blocked for safety reasons: blocked by rule")
    assert "errors" not in response.json


def test_stopped_vps(web: Web):
    web.publish(STOPPED_VM)
    response = web.post(V2_EXEC, json={"command": "true"})
    assert (response.status_code, response.json["code"]) == (409, "vps_not_ready")


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [
        (CommandState.FAILED, 502, "start_refused"),
        (CommandState.UNKNOWN, 502, "start_unknown"),
        (CommandState.EXPIRED, 504, "start_expired"),
    ],
)
def test_a_start_that_failed_says_whether_it_can_have_run(
    web: Web, redis_url: str, state: CommandState, status: int, code: str
):
    with PlayedWorker(redis_url, ends_with(state, "because")):
        response = web.post(V2_EXEC, json={"command": "true"})
    assert (response.status_code, response.json["code"]) == (status, code)
    assert response.json["detail"].endswith(": because")


def test_nobody_delivers_it(redis_url: str):
    web = Web(redis_url, EXEC_START_TIMEOUT_S="0.2")
    web.key = web.make_key()
    web.publish()
    response = web.post(V2_EXEC, json={"command": "true"})
    assert (response.status_code, response.json["code"]) == (504, "start_expired")
    assert re.search(r"has not run and will not run$", response.json["detail"])
    web.close()


def test_unknown_pid(web: Web):
    for response in (web.get(f"{V2_EXEC}?pid=99"), web.delete(f"{V2_EXEC}?pid=99")):
        assert (response.status_code, response.json["code"]) == (404, "command_not_found")
        assert response.json["title"] == "Command not found"


def test_a_kill_that_takes_longer(redis_url: str):
    web = Web(redis_url, EXEC_KILL_WAIT_S="0.1")
    web.key = web.make_key()
    web.publish()
    with PlayedWorker(redis_url, tells_pid(5)):
        web.post(V2_EXEC, json={"command": "sleep 9"})
    with PlayedWorker(redis_url, never_answers):
        body = web.delete(f"{V2_EXEC}?pid=5").json
    assert (body["exited"], body["exitCode"], body["state"]) == (False, None, "running")
    web.close()
