"""The options of a command: what is taken, what the worker gets of it, and what is refused, field by field."""

import json
import math
from dataclasses import replace

import pytest

from app.core.records import CommandRequest, VmStatus
from app.core.store import commands
from app.core.store.commands import Claim
from tests.web import EXEC, RUNNING_VM, STOPPED_VM, PlayedWorker, Web, assert_refused, tells_pid

MIB = 1_048_576


def start(web: Web, redis_url: str, **options: object) -> Claim:
    """Start a command and tell what the worker got of it."""
    claims = []
    with PlayedWorker(redis_url, lambda store, claim: (claims.append(claim), tells_pid(5)(store, claim))):
        response = web.post(EXEC, json={"command": "cat"} | options)
    assert response.status_code == 200, response.json
    assert response.json["data"]["command"] == "cat"
    return claims[0]


def test_without_options_there_are_none(web: Web, redis_url: str):
    claim = start(web, redis_url)
    assert claim.request == CommandRequest(line="cat")
    assert (claim.command.timeout_s, claim.command.wait_for_agent_s) == (None, 0)


def test_all_options_come_to_the_worker(web: Web, redis_url: str):
    claim = start(web, redis_url, timeout=1.5, stdin="ä\0\n", env={"A_1": "ö=\n"}, cwd="/tmp/ü", wait_for_agent=0.5)
    assert claim.request == CommandRequest(line="cat", stdin="ä\0\n", env={"A_1": "ö=\n"}, cwd="/tmp/ü")
    assert (claim.command.timeout_s, claim.command.wait_for_agent_s) == (1.5, 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 604_800),
        ("timeout", 1e-3),
        ("wait_for_agent", 0),
        ("wait_for_agent", 300),
        ("stdin", ""),
        ("stdin", "a" * MIB),
        ("stdin", "\0"),
        ("env", {}),
        ("env", {"_": ""}),
        ("env", {f"N{number}": "" for number in range(256)}),
        ("env", {"A": "a" * 65_535}),
        ("cwd", "/"),
        ("cwd", "/" + "ä" * 2047 + "a"),
    ],
    ids=range(13),
)
def test_limits_are_allowed(web: Web, redis_url: str, name: str, value: object):
    claim = start(web, redis_url, **{name: value})
    fields = {"timeout": claim.command.timeout_s, "wait_for_agent": claim.command.wait_for_agent_s}
    assert (fields[name] if name in fields else getattr(claim.request, name)) == value


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        *(("timeout", value, "timeout") for value in (0, -1, 604_800.1, 604_801, 10**400, True, "5", None, [5], {})),
        *(("wait_for_agent", value, "wait_for_agent") for value in (-0.1, 300.1, -(10**400), False, "5", None, [])),
        *(("stdin", value, "stdin") for value in (None, 5, True, ["a"], "a" * (MIB + 1))),
        ("stdin", "half a \ud83d pair", "stdin"),
        *(("env", value, "env") for value in (None, [], "A=b", 5, True, [["A", "b"]])),
        ("env", {f"N{number}": 5 for number in range(257)}, "env"),
        ("env", {"A": "a" * 65_536}, "env"),
        ("env", {"A": "ä" * 32_768}, "env"),
        *(
            ("env", {"OK": "a", name: "b"}, f"env.{name}")
            for name in ("", "1A", "A-B", "A=B", "Ä", "A\n", "A\0", "A.B")
        ),
        ("env", {"\ud800": "a"}, "env.?"),
        *(("env", {"OK": "a", "A": value}, "env.A") for value in (None, 5, 1.5, True, [], {}, "a\0b", "\udc00")),
        *(("cwd", value, "cwd") for value in (None, 5, True, [], "", "tmp", "./a", "C:\\", "/a\0", "/\ud800")),
        ("cwd", "/" + "ä" * 2048, "cwd"),
    ],
)
def test_wrong_option_is_400_and_named(web: Web, name: str, value: object, field: str):
    response = web.post(EXEC, json={"command": "true", name: value})
    assert_refused(response, 400, "BAD_REQUEST", field)
    assert web.client.keys("ownup:cmd:*") == []


@pytest.mark.parametrize(("more", "status"), [("", 200), ("a", 400)])
def test_stdin_is_measured_in_utf_8(web: Web, redis_url: str, more: str, status: int):
    body = json.dumps({"command": "cat", "stdin": "ä" * (MIB // 2) + more}, ensure_ascii=False).encode()
    with PlayedWorker(redis_url, tells_pid(5)):
        assert web.post(EXEC, data=body, content_type="application/json").status_code == status


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("name", ["timeout", "wait_for_agent"])
def test_what_is_no_number_is_400(web: Web, name: str, number: str):
    body = f'{{"command":"true","{name}":{number}}}'
    response = web.post(EXEC, data=body, content_type="application/json")
    assert_refused(response, 400, "BAD_REQUEST", "body" if number[-1] in "Ny" else name)


def test_each_wrong_entry_is_named(web: Web):
    response = web.post(EXEC, json={"command": "", "timeout": 0, "env": {"A": 1, "B-": "x", "C": "fine"}, "cwd": "x"})
    assert_refused(response, 400, "BAD_REQUEST", "command", "timeout", "env.A", "env.B-", "cwd")


def test_guard_knows_where_the_command_will_run(web: Web, redis_url: str):
    assert_refused(web.post(EXEC, json={"command": "rm -rf *"}), 400, "BAD_REQUEST", "command")
    assert_refused(web.post(EXEC, json={"command": "rm -rf *", "cwd": "/"}), 400, "BAD_REQUEST", "command")
    assert_refused(web.post(EXEC, json={"command": "rm -rf *", "cwd": "/tmp/.."}), 400, "BAD_REQUEST", "command")
    with PlayedWorker(redis_url, tells_pid(5)):
        assert web.post(EXEC, json={"command": "rm -rf *", "cwd": "/tmp/build"}).status_code == 200


class TestWaitForAgent:
    @pytest.mark.parametrize("status", [VmStatus.STARTING, VmStatus.RUNNING])
    def test_vm_that_is_coming_up_is_accepted(self, web: Web, redis_url: str, status: VmStatus):
        web.publish(replace(STOPPED_VM, status=status))
        assert start(web, redis_url, wait_for_agent=20).command.wait_for_agent_s == 20

    @pytest.mark.parametrize("options", [{}, {"wait_for_agent": 0}])
    def test_without_waiting_it_must_run(self, web: Web, options: dict[str, object]):
        web.publish(replace(STOPPED_VM, status=VmStatus.STARTING))
        message = assert_refused(web.post(EXEC, json={"command": "true"} | options), 400, "BAD_REQUEST")
        assert message == "VM must be running to execute commands"

    @pytest.mark.parametrize("status", set(VmStatus) - {VmStatus.STARTING, VmStatus.RUNNING})
    def test_any_other_vm_is_refused_all_the_same(self, web: Web, status: VmStatus):
        web.publish(replace(STOPPED_VM, status=status))
        message = assert_refused(web.post(EXEC, json={"command": "true", "wait_for_agent": 300}), 400, "BAD_REQUEST")
        assert message == "VM must be running to execute commands"

    @pytest.mark.parametrize(("wait_s", "longest_s"), [(0, 5), (42.5, 47.5), (300, 305)])
    def test_delivery_and_its_rq_job_have_that_much_longer(
        self, web: Web, redis_url: str, wait_s: float, longest_s: float
    ):
        with PlayedWorker(redis_url, tells_pid(5)) as worker:
            assert web.post(EXEC, json={"command": "true", "wait_for_agent": wait_s}).status_code == 200
        command = web.store.run(commands.read_result(10000, 5)).result.command
        assert (command.deliver_by - command.created_at).total_seconds() == pytest.approx(longest_s, abs=1)
        assert worker.taken[0].timeout == math.ceil(longest_s) + 60

    def test_start_that_is_not_delivered_in_time_expires_then(self, redis_url: str):
        web = Web(redis_url, EXEC_START_TIMEOUT_S="0.2")
        web.key = web.make_key()
        web.publish(replace(RUNNING_VM, agent_available=False))
        response = web.post(EXEC, json={"command": "true", "wait_for_agent": 0.2})
        assert response.status_code == 504
        assert "within 0.4 s" in response.json["details"][0]["message"]
        web.close()
