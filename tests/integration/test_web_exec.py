"""The road of a command through the web half: start, wait without polling, read the result."""

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.access import Principal, Scope
from app.core import clock
from app.core.errors import StartUnknownError, StoreRefusedError, StoreUnavailableError
from app.core.queues import START_COMMAND
from app.core.records import Command, CommandEnd, CommandRequest, CommandState, PowerAction
from app.core.store import WAKE_CHANNEL, Call, Store, commands, ping
from app.core.store.commands import Claim
from app.dispatch import Dispatch
from app.order import Order
from tests.conftest import RedisServer
from tests.redis_counts import commands_served
from tests.web import EXEC, RUNNING_VM, STATUS, STOPPED_VM, PlayedWorker, Web, ends_with, never_answers, tells_pid

ENVELOPE = {"success", "timestamp", "requestId", "data"}

ASKER = Principal("k", "acme", frozenset())


def run(web: Web, redis_url: str, line: str = "uname -a", pid: int = 150476) -> None:
    with PlayedWorker(redis_url, tells_pid(pid)):
        assert web.post(EXEC, json={"command": line}).status_code == 200


def end(web: Web, pid: int, **facts: object) -> None:
    result = web.store.run(commands.read_result(10000, pid)).result
    assert result is not None
    how = CommandEnd(**({"state": CommandState.EXITED, "ended_at": clock.now()} | facts))  # type: ignore[arg-type]
    web.store.run(commands.end(result.command.id, how, ttl_s=60))


class TestStart:
    def test_answer_has_hostups_shape_and_bytes(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, tells_pid(150476)):
            response = web.post(EXEC, json={"command": "uname -a"})
        assert response.status_code == 200
        assert set(response.json) == ENVELOPE
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", response.json["timestamp"])
        assert response.json["requestId"] == response.headers["X-Request-Id"]
        assert response.data.startswith(b'{"success":true,"timestamp":"')
        assert response.data.endswith(
            b'"data":{"success":true,"pid":150476,"command":"uname -a","message":"Command execution started"}}'
        )

    def test_only_ids_travel_through_rq(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, tells_pid(1)) as worker:
            web.post(EXEC, json={"command": "echo secret"})
        (job,) = worker.taken
        command = web.store.run(commands.read_result(10000, 1)).result.command
        assert (job.func_name, job.args, job.kwargs) == (START_COMMAND, [command.id, 10000], {})
        assert job.description == "start_command"
        assert (job.result_ttl, job.failure_ttl, job.ttl, job.retries_left) == (0, 86400, None, None)
        assert not any(b"secret" in value for value in web.client.hgetall(job.key).values())

    def test_record_says_who_asked(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, tells_pid(1)):
            response = web.post(EXEC, json={"command": "true"})
        command = web.store.run(commands.read_result(10000, 1)).result.command
        assert (command.vmid, command.account, command.node) == (10000, "acme", "node-1")
        assert command.key_id == web.key.split("_")[1]
        assert command.request_id == response.json["requestId"]

    def test_waiting_costs_no_polling(self, web: Web, redis_url: str):
        def slow(store: Store, claim: Claim) -> None:
            before = reads(web.client)
            threading.Event().wait(0.9)
            during.append(reads(web.client) - before)
            tells_pid(1)(store, claim)

        during: list[int] = []
        run(web, redis_url)  # the subscription stands
        with PlayedWorker(redis_url, slow):
            assert web.post(EXEC, json={"command": "sleep 1"}).status_code == 200
        assert during == [0]

    def test_answer_comes_by_wake_up(self, web: Web, redis_url: str):
        run(web, redis_url)
        began_s = time.monotonic()
        with PlayedWorker(redis_url, tells_pid(1)):
            for _ in range(10):
                web.post(EXEC, json={"command": "true"})
        assert time.monotonic() - began_s < 1, "ten commands took longer than one turn of the safety net"

    def test_command_that_has_exited_before_anybody_looked_has_a_pid(self, web: Web, redis_url: str):
        def quick(store: Store, claim: Claim) -> None:
            tells_pid(9)(store, claim)
            how = CommandEnd(state=CommandState.EXITED, ended_at=clock.now(), exit_code=0)
            store.run(commands.end(claim.command.id, how, ttl_s=60))

        with PlayedWorker(redis_url, quick):
            assert web.post(EXEC, json={"command": "true"}).json["data"]["pid"] == 9

    def test_many_at_once_get_their_own_pids(self, web: Web, redis_url: str):
        lock, lines = threading.Lock(), {}

        def answer(store: Store, claim: Claim) -> None:
            with lock:
                lines[claim.request.line] = 1000 + len(lines)
            tells_pid(lines[claim.request.line])(store, claim)

        def post(line: str) -> None:
            body = web.app.test_client().post(EXEC, json={"command": line}, headers={"X-API-Key": web.key}).json
            told[body["data"]["command"]] = body["data"]["pid"]

        told: dict[str, int] = {}
        threads = [threading.Thread(target=post, args=(f"echo {number}",)) for number in range(30)]
        with PlayedWorker(redis_url, answer):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert told == lines
        assert len(told) == 30

    def test_nobody_takes_it_so_it_expires_and_can_never_run(self, redis_url: str):
        web = quick_web(redis_url)
        response = web.post(EXEC, json={"command": "true"})
        (key,) = [key for key in web.client.keys("ownup:cmd:*") if not key.endswith(b":request")]
        command_id = key.decode().removeprefix("ownup:cmd:")
        assert response.status_code == 504
        assert response.json["code"] == "GATEWAY_TIMEOUT"
        assert "has not run and will not run" in response.json["details"][0]["message"]
        assert web.store.run(commands.claim(command_id)) is None
        assert web.store.run(commands.find(command_id)).state is CommandState.EXPIRED
        web.close()

    def test_claimed_without_reply_is_told_as_unknown(self, redis_url: str):
        web = quick_web(redis_url)
        with PlayedWorker(redis_url, never_answers):
            response = web.post(EXEC, json={"command": "true"})
        assert response.status_code == 500
        assert "may have run" in response.json["details"][0]["message"]
        web.close()

    def test_command_that_the_worker_found_late_is_told_as_expired(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, ends_with(CommandState.EXPIRED, "too late")):
            response = web.post(EXEC, json={"command": "true"})
        assert (response.status_code, response.json["details"][0]["message"]) == (504, "too late")

    def test_redis_that_forgot_the_command_leaves_it_unknown(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, forgets):
            response = web.post(EXEC, json={"command": "true"})
        assert response.status_code == 500
        assert "may have run" in response.json["details"][0]["message"]

    def test_redis_that_comes_back_while_waiting_is_sat_out(self, own_redis: RedisServer):
        def restart(store: Store, claim: Claim) -> None:
            own_redis.stop()
            own_redis.start()
            tells_pid(77)(store, claim)

        web = Web(own_redis.url)
        web.key = web.make_key()
        web.publish()
        with PlayedWorker(own_redis.url, restart):
            response = web.post(EXEC, json={"command": "true"})
        assert response.status_code == 200, response.json
        assert response.json["data"]["pid"] == 77
        web.close()


class TestHandOver:
    """Redis goes away after the VM was read."""

    @pytest.fixture
    def absent(self) -> Iterator[Dispatch]:
        with redis.Redis(unix_socket_path="/nowhere/redis.sock", retry=Retry(NoBackoff(), 0)) as client:
            yield Dispatch(Store(client), client)

    @pytest.fixture
    def silent(self, own_redis: RedisServer) -> Iterator[Dispatch]:
        """Takes what is sent and answers too late."""
        limits = {"socket_timeout": 0.2, "retry": Retry(NoBackoff(), 0)}
        with own_redis.client() as pausing, redis.Redis.from_url(own_redis.url, **limits) as client:
            store = Store(client)
            store.run(ping())
            pausing.client_pause(2000)
            yield Dispatch(store, client)
            pausing.client_unpause()

    def start(self, web: Web, dispatch: Dispatch) -> None:
        known = web.services()
        view = known.inventory.get_vm(ASKER, 10000)
        order = Order(request=CommandRequest(line="true"))
        commands = replace(known.commands, dispatch=dispatch)
        commands.start(ASKER, view, order, "r1", idempotency_key=None, on_repeat=pytest.fail)

    def test_command_may_have_run_where_no_answer_came(self, web: Web, silent: Dispatch):
        with pytest.raises(StartUnknownError) as caught:
            self.start(web, silent)
        assert "may have run" in caught.value.reason

    def test_command_has_not_run_where_nothing_could_be_sent(self, web: Web, absent: Dispatch):
        with pytest.raises(StoreRefusedError, match="not reachable"):
            self.start(web, absent)

    def test_power_job_is_unavailable(self, web: Web, absent: Dispatch):
        known = web.services()
        view = known.inventory.get_vm(ASKER, 10000)
        with pytest.raises(StoreUnavailableError):
            replace(known.jobs, dispatch=absent).create(ASKER, view, PowerAction.STOP, force=False)


class TestFullRedis:
    """Redis takes nothing more, and says so: what is to be run isn't, and that is told."""

    @pytest.fixture
    def full(self, own_redis: RedisServer) -> Iterator[Web]:
        """Its key is known and has no limits, so that nothing else meets the full Redis first."""
        web = Web(own_redis.url, RATE_LIMIT_EXEC="unlimited")
        web.key = web.make_key()
        web.publish()
        with PlayedWorker(own_redis.url, tells_pid(77)):
            assert web.post(EXEC, json={"command": "true"}).status_code == 200
        web.client.delete(*web.client.scan_iter("rq:job:*"), *web.client.scan_iter("rq:queue:*"))
        web.client.config_set("maxmemory", 1)
        yield web
        web.close()

    @pytest.mark.parametrize("idempotency_key", [None, "k"])
    def test_command_is_not_run(self, full: Web, idempotency_key: str | None):
        response = full.post(EXEC, json={"command": "true"}, idempotency_key=idempotency_key)
        assert (response.status_code, response.json["code"]) == (503, "SERVICE_UNAVAILABLE")
        full.client.config_set("maxmemory", 0)
        assert list(full.client.scan_iter("rq:job:*")) == []
        assert len(full.client.keys("ownup:cmd:*")) == 1

    def test_a_guest_is_not_changed(self, full: Web):
        response = full.post(f"/api/vm/{RUNNING_VM.vmid}/reset-password", json={"password": "s3cret-Pass-word"})
        assert (response.status_code, response.json["code"]) == (503, "SERVICE_UNAVAILABLE")


def forgets(store: Store, claim: Claim) -> None:
    """Lose a record that a worker has taken, as a Redis that was restarted without its data would."""
    store.run(Call(("DEL", f"ownup:cmd:{claim.command.id}"), bool))
    store.run(Call(("PUBLISH", WAKE_CHANNEL, claim.command.id), bool))


def quick_web(redis_url: str) -> Web:
    web = Web(redis_url, EXEC_START_TIMEOUT_S="0.3")
    web.key = web.make_key()
    web.publish()
    return web


def reads(client: redis.Redis) -> int:
    """Count the reads of records so far."""
    return commands_served(client)["hgetall"]


class TestRedisDown:
    def test_every_route_is_503_at_once_and_works_again_afterwards(self, own_redis: RedisServer):
        web = Web(own_redis.url)
        web.key = web.make_key()
        web.publish()
        assert web.get("/api/vm").status_code == 200
        own_redis.stop()
        began_s = time.monotonic()
        answers = [
            web.get("/api/vm"),
            web.get(STATUS),
            web.get(EXEC),
            web.get(f"{EXEC}?pid=1"),
            web.post(EXEC, json={"command": "true"}),
            web.post(EXEC, json={"command": "true"}, idempotency_key="k"),
            web.delete(f"{EXEC}?pid=1"),
            web.post(STATUS, json={"action": "stop"}),
            web.get("/api/jobs/stop-10000-1"),
        ]
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json["code"] for answer in answers} == {"SERVICE_UNAVAILABLE"}
        assert time.monotonic() - began_s < 1
        assert web.get("/readyz").status_code == 503
        assert web.get("/healthz").status_code == 200
        own_redis.start()
        assert web.get("/api/vm").json["data"][0]["vmid"] == 10000
        web.close()


class TestResult:
    def test_running(self, web: Web, redis_url: str):
        run(web, redis_url)
        assert web.get(f"{EXEC}?pid=150476").json["data"] == {
            "success": True,
            "pid": 150476,
            "exited": False,
            "stdout": "",
            "stderr": "",
            "available": True,
            "vmRunning": True,
            "state": "running",
            "message": "Command is still running",
        }

    def test_exited(self, web: Web, redis_url: str):
        run(web, redis_url)
        end(web, 150476, exit_code=7, stdout="grüß dich\n".encode(), stderr=b"no")
        for _ in range(2):
            response = web.get(f"{EXEC}?pid=150476")
            assert response.json["data"] == {
                "success": True,
                "pid": 150476,
                "exited": True,
                "exitcode": 7,
                "stdout": "grüß dich\n",
                "stderr": "no",
                "available": True,
                "vmRunning": True,
                "state": "exited",
                "message": "Command exited with code 7",
            }
            assert "grüß dich".encode() in response.data

    def test_killed(self, web: Web, redis_url: str):
        run(web, redis_url)
        end(web, 150476, signal=9)
        data = web.get(f"{EXEC}?pid=150476").json["data"]
        assert (data["exited"], data["exitcode"], data["signal"]) == (True, 137, 9)
        assert data["message"] == "Command was killed by signal 9"

    def test_cut_output_is_flagged(self, web: Web, redis_url: str):
        run(web, redis_url)
        end(web, 150476, exit_code=0, stdout=b"a" * 10, out_truncated=True)
        data = web.get(f"{EXEC}?pid=150476").json["data"]
        assert data["outTruncated"] is True
        assert "errTruncated" not in data

    def test_bytes_that_are_no_utf_8(self, web: Web, redis_url: str):
        run(web, redis_url)
        output = bytes(range(256))
        end(web, 150476, exit_code=0, stdout=output, stderr=b"\xed\xa0\x80")
        plain = web.get(f"{EXEC}?pid=150476").json["data"]
        exact = web.get(f"{EXEC}?pid=150476&encoding=base64").json["data"]
        assert plain["stdout"] == output.decode(errors="replace")
        assert "encoding" not in plain
        assert base64.b64decode(exact["stdout"]) == output
        assert exact["encoding"] == "base64"

    @pytest.mark.parametrize("state", [CommandState.TIMED_OUT, CommandState.CANCELLED, CommandState.LOST])
    def test_every_other_end_lets_a_client_out(self, web: Web, redis_url: str, state: CommandState):
        run(web, redis_url)
        end(web, 150476, state=state, stdout=b"part", signal=9)
        data = web.get(f"{EXEC}?pid=150476").json["data"]
        assert (data["exited"], data["exitcode"], data["signal"], data["state"]) == (True, -1, 9, state)
        assert data["stdout"] == "part"
        assert data["message"]

    def test_worker_away_is_told_and_the_result_still_read(self, web: Web, redis_url: str):
        run(web, redis_url)
        end(web, 150476, exit_code=0)
        web.client.delete("ownup:node:node-1")
        data = web.get(f"{EXEC}?pid=150476").json["data"]
        assert (data["available"], data["vmRunning"], data["exitcode"]) == (False, False, 0)

    def test_result_costs_one_round_trip(self, web: Web, redis_url: str):
        run(web, redis_url)
        for _ in range(4):  # then Redis knows the script, and the process has a share of the key's limit for three more
            web.get(f"{EXEC}?pid=150476")
        before = commands_served(web.client)
        web.get(f"{EXEC}?pid=150476")
        spent = commands_served(web.client) - before
        assert (spent["script"], spent["evalsha"], spent["exec"], spent["ping"]) == (1, 1, 0, 0)

    def test_earlier_owners_commands_are_not_shown_to_the_next_one(self, web: Web, redis_url: str):
        run(web, redis_url)
        web.publish(replace(RUNNING_VM, account="next"))
        assert web.get(f"{EXEC}?pid=150476", web.make_key(account="next")).json["message"] == "Command not found"

    def test_reading_output_needs_write_vm_only(self, web: Web, redis_url: str):
        run(web, redis_url)
        assert web.get(f"{EXEC}?pid=150476", web.make_key(Scope.WRITE_VM)).status_code == 200
        assert web.get(f"{EXEC}?pid=150476", web.make_key(Scope.READ_VM)).status_code == 403
        assert web.get(EXEC, web.make_key(Scope.READ_VM)).status_code == 200
        assert web.get(EXEC, web.make_key(Scope.WRITE_VM)).status_code == 403


class TestProbe:
    def test_available(self, web: Web):
        assert web.get(EXEC).json["data"] == {
            "success": True,
            "available": True,
            "message": "QEMU Guest Agent is available",
            "vmRunning": True,
        }

    def test_stopped(self, web: Web):
        web.publish(STOPPED_VM)
        data = web.get(EXEC).json["data"]
        assert data == {"success": True, "available": False, "message": "VM is stopped", "vmRunning": False}

    def test_worker_away(self, web: Web):
        web.client.delete("ownup:node:node-1")
        data = web.get(EXEC).json["data"]
        assert (data["available"], data["vmRunning"]) == (False, False)
        assert "node-1" in data["message"]


class TestLog:
    def test_one_line_a_request_without_payload_or_key(
        self, web: Web, redis_url: str, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level("DEBUG", logger="app")
        run(web, redis_url, line="echo hush")
        (record,) = [record for record in caplog.records if record.message == "request"]
        facts = vars(record)
        assert (facts["method"], facts["status"], facts["vmid"]) == ("POST", 200, "10000")
        assert facts["route"] == "/api/vm/<vmid>/agent/exec"
        assert facts["account"] == "acme"
        everything = json.dumps([vars(record) for record in caplog.records], default=str)
        assert "hush" not in everything
        assert web.key.rpartition("_")[2] not in everything

    def test_unforeseen_error_is_500_without_traceback_and_logged_once(
        self, web: Web, caplog: pytest.LogCaptureFixture
    ):
        web.client.set("ownup:vm:10000", "no hash")
        response = web.get(STATUS)
        assert response.status_code == 500
        assert response.json["code"] == "INTERNAL_ERROR"
        assert set(response.json) == {"error", "message", "code", "timestamp", "requestId"}
        assert b"WRONGTYPE" not in response.data
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert record.exc_info is not None
        assert record.request_id == response.json["requestId"]


def test_command_record_is_complete(web: Web, redis_url: str):
    run(web, redis_url)
    command = web.store.run(commands.read_result(10000, 150476)).result.command
    assert isinstance(command, Command)
    assert command.deliver_by > command.created_at
