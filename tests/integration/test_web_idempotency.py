"""The same Idempotency-Key starts one command, whoever repeats it, whenever, whatever broke in between."""

import hashlib
import threading
import time
from dataclasses import replace

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from werkzeug.test import TestResponse

from app.access import Principal
from app.core import clock
from app.core.errors import StoreUnavailableError
from app.core.records import Command, CommandEnd, CommandRequest, CommandState
from app.core.store import Store, commands, idempotency
from app.core.store.commands import Claim
from app.dispatch import Dispatch
from app.order import Order
from tests.conftest import RedisServer
from tests.web import (
    EXEC,
    RUNNING_VM,
    STOPPED_VM,
    PlayedWorker,
    Web,
    assert_refused,
    ends_with,
    never_answers,
    tells_pid,
)

BODY = {"command": "deploy", "env": {"A": "1", "B": "2"}, "timeout": 60}
REPLAYED = "Idempotency-Replayed"


class Counting:
    """A worker's answer: each command that is claimed gets the next pid."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    def __call__(self, store: Store, claim: Claim) -> None:
        self.claims.append(claim)
        tells_pid(100 + len(self.claims))(store, claim)


def post(web: Web, key: str = "k1", body: object = None, **kwargs: object) -> TestResponse:
    return web.post(EXEC, json=body or BODY, idempotency_key=key, **kwargs)


def commands_in(web: Web) -> int:
    return len([key for key in web.client.keys("ownup:cmd:*") if key.count(b":") == 2])


def test_repeat_gives_the_first_pid(web: Web, redis_url: str):
    count = Counting()
    with PlayedWorker(redis_url, count):
        first, second, other = post(web), post(web), post(web, "k2")
    assert first.status_code == second.status_code == 200
    assert first.json["data"] == second.json["data"]
    assert (first.json["data"]["pid"], other.json["data"]["pid"]) == (101, 102)
    assert [answer.headers.get(REPLAYED) for answer in (first, second, other)] == [None, "true", None]
    assert len(count.claims) == 2


def test_without_a_key_nothing_is_remembered(web: Web, redis_url: str):
    with PlayedWorker(redis_url, Counting()):
        pids = [web.post(EXEC, json=BODY).json["data"]["pid"] for _ in range(2)]
    assert pids == [101, 102]
    assert web.client.keys("ownup:idem:*") == []


@pytest.mark.parametrize(
    "body",
    [
        {"timeout": 60.0, "env": {"B": "2", "A": "1"}, "command": "deploy"},
        BODY | {"wait_for_agent": 0},
    ],
)
def test_same_order_in_other_words_is_the_same(web: Web, redis_url: str, body: dict[str, object]):
    with PlayedWorker(redis_url, Counting()):
        assert post(web).json["data"]["pid"] == post(web, body=body).json["data"]["pid"]


@pytest.mark.parametrize(
    "change",
    [
        {"command": "deploy "},
        {"timeout": 61},
        {"env": {"A": "1"}},
        {"stdin": ""},
        {"cwd": "/"},
        {"wait_for_agent": 1},
    ],
)
def test_another_body_is_409_and_runs_nothing(web: Web, redis_url: str, change: dict[str, object]):
    count = Counting()
    with PlayedWorker(redis_url, count):
        post(web)
        response = post(web, body=BODY | change)
    message = assert_refused(response, 409, "CONFLICT")
    assert "nothing was run" in message
    assert len(count.claims) == commands_in(web) == 1


def test_keys_of_accounts_and_vms_are_apart(web: Web, redis_url: str):
    web.publish(replace(RUNNING_VM, vmid=10001))
    web.publish(replace(RUNNING_VM, vmid=10002, account="other"))
    stranger = web.make_key(account="other")
    with PlayedWorker(redis_url, Counting()):
        pids = {
            post(web).json["data"]["pid"],
            web.post(EXEC.replace("10000", "10001"), json=BODY, idempotency_key="k1").json["data"]["pid"],
            web.post(EXEC.replace("10000", "10002"), stranger, json=BODY, idempotency_key="k1").json["data"]["pid"],
        }
    assert pids == {101, 102, 103}


def test_all_keys_of_an_account_share_its_idempotency_keys(web: Web, redis_url: str):
    with PlayedWorker(redis_url, Counting()):
        assert post(web).json["data"]["pid"] == 101
        again = web.post(EXEC, web.make_key(), json=BODY, idempotency_key="k1")
    assert (again.json["data"]["pid"], again.headers[REPLAYED]) == (101, "true")


def test_repeat_needs_neither_a_running_vm_nor_its_node(web: Web, redis_url: str):
    with PlayedWorker(redis_url, Counting()):
        post(web)
    web.publish(STOPPED_VM)
    assert post(web).json["data"]["pid"] == 101
    web.client.delete("ownup:node:node-1")
    response = post(web)
    assert (response.json["data"]["pid"], response.headers[REPLAYED]) == (101, "true")


def test_repeat_gives_the_pid_also_when_it_has_ended(web: Web, redis_url: str):
    with PlayedWorker(redis_url, Counting()):
        post(web)
    command = web.store.run(commands.read_result(10000, 101)).result.command
    end = CommandEnd(state=CommandState.LOST, ended_at=clock.now())
    web.store.run(commands.end(command.id, end, ttl_s=60))
    assert post(web).json["data"]["pid"] == 101


@pytest.mark.parametrize(
    ("state", "status"), [(CommandState.FAILED, 500), (CommandState.UNKNOWN, 500), (CommandState.EXPIRED, 504)]
)
def test_repeat_of_a_refused_start_is_refused_alike(web: Web, redis_url: str, state: CommandState, status: int):
    with PlayedWorker(redis_url, ends_with(state, "because")):
        first, second = post(web), post(web)
    assert first.status_code == second.status_code == status
    assert first.json["details"] == second.json["details"] == [{"field": "command", "message": "because"}]
    assert [answer.headers.get(REPLAYED) for answer in (first, second)] == [None, "true"]
    assert commands_in(web) == 1


def test_repeat_while_it_is_being_delivered_waits_for_the_same_pid(web: Web, redis_url: str):
    def slow(store: Store, claim: Claim) -> None:
        repeat.start()
        threading.Event().wait(0.3)
        tells_pid(7)(store, claim)

    repeat = threading.Thread(target=lambda: answers.append(post(web)))
    answers: list[TestResponse] = []
    with PlayedWorker(redis_url, slow):
        answers.append(post(web))
        repeat.join()
    assert [answer.json["data"]["pid"] for answer in answers] == [7, 7]
    assert commands_in(web) == 1


@pytest.mark.parametrize("round_number", range(3))
def test_twenty_at_once_are_one_command(web: Web, redis_url: str, round_number: int):
    def ask() -> None:
        ready.wait()
        answers.append(post(web, f"k{round_number}"))

    count, answers = Counting(), []
    ready = threading.Barrier(20)
    threads = [threading.Thread(target=ask) for _ in range(20)]
    with PlayedWorker(redis_url, count):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer.json["data"]["pid"] for answer in answers] == [101] * 20
    assert [answer.headers.get(REPLAYED) for answer in answers].count(None) == 1
    assert len(count.claims) == commands_in(web) == 1


class TestBrokenOff:
    def test_process_that_died_between_key_and_command_is_replaced(self, web: Web, redis_url: str):
        """The first caller has the key and loses Redis before it records the command."""
        asker = Principal("k", "acme", frozenset())
        known = web.services()
        order = Order(request=CommandRequest(line="deploy", env={"A": "1", "B": "2"}), timeout_s=60.0)
        with redis.Redis(unix_socket_path="/nowhere/redis.sock", retry=Retry(NoBackoff(), 0)) as absent:
            dying = replace(known.commands, dispatch=Dispatch(Store(absent), absent))
            view = known.inventory.get_vm(asker, 10000)
            with pytest.raises(StoreUnavailableError):
                dying.start(asker, view, order, "r1", idempotency_key="k1", on_repeat=pytest.fail)
        assert commands_in(web) == 0
        count = Counting()
        with PlayedWorker(redis_url, count):
            first, second = post(web), post(web)
        assert [answer.headers.get(REPLAYED) for answer in (first, second)] == [None, "true"]
        assert [answer.json["data"]["pid"] for answer in (first, second)] == [101, 101]
        assert len(count.claims) == 1

    def test_key_of_a_start_that_was_refused_before_it_was_recorded_can_be_used(self, web: Web, redis_url: str):
        web.publish(STOPPED_VM)
        assert_refused(post(web), 400, "BAD_REQUEST")
        assert_refused(post(web, body={"command": "other"}), 409, "CONFLICT")
        web.publish(RUNNING_VM)
        with PlayedWorker(redis_url, Counting()):
            response = post(web)
        assert (response.json["data"]["pid"], response.headers.get(REPLAYED)) == (101, None)

    def test_command_whose_record_has_expired_does_not_run_again(self, web: Web, redis_url: str):
        count = Counting()
        with PlayedWorker(redis_url, count):
            post(web)
            web.client.delete(*web.client.keys("ownup:cmd:*"))
            response = post(web)
        assert_refused(response, 500, "INTERNAL_ERROR", "command")
        assert "may have run" in response.json["details"][0]["message"]
        assert len(count.claims) == 1

    def test_start_that_nobody_took_is_told_as_expired_again_and_again(self, redis_url: str):
        web = quick_web(redis_url)
        answers = [post(web), post(web)]
        assert [answer.status_code for answer in answers] == [504, 504]
        assert answers[0].json["details"] == answers[1].json["details"]
        with PlayedWorker(redis_url, never_answers) as worker:
            assert post(web).status_code == 504
        assert len(worker.taken) == 1, "the start that nobody took in time"
        web.close()

    def test_start_whose_first_caller_died_while_waiting_is_ended_by_its_repeat(self, web: Web):
        """It was to be delivered within 0.1 s; this web process would give its own starts 5 s."""
        fingerprint = Order(request=CommandRequest(line="deploy")).fingerprint()
        key = hashlib.sha256(b"k1").hexdigest()
        command = Command(
            id="c1",
            vmid=10000,
            account="acme",
            node="node-1",
            state=CommandState.QUEUED,
            created_at=clock.now(),
            deliver_by=clock.now(),
        )
        web.store.run(idempotency.reserve("acme", 10000, key, fingerprint=fingerprint, command_id="c1"))
        web.store.run(commands.create(command, CommandRequest(line="deploy"), deliver_within_s=0.1))
        web.store.run(idempotency.mark_recorded("acme", 10000, key))
        began_s = time.monotonic()
        response = post(web, body={"command": "deploy"})
        assert_refused(response, 504, "GATEWAY_TIMEOUT", "command")
        assert time.monotonic() - began_s < 3
        assert web.store.run(commands.find("c1")).state is CommandState.EXPIRED


def quick_web(redis_url: str) -> Web:
    web = Web(redis_url, EXEC_START_TIMEOUT_S="0.3")
    web.key = web.make_key()
    web.publish()
    return web


@pytest.mark.parametrize("key", ["", "a" * 256, "ä", "a\tb", "\x7f", "a\u00a0b"])
def test_key_that_is_no_short_ascii_text_is_400(web: Web, key: str):
    assert_refused(post(web, key), 400, "BAD_REQUEST", "Idempotency-Key")
    assert web.client.keys("ownup:idem:*") == []


@pytest.mark.parametrize("key", ["a", "a" * 255, "~ !\"'{}:", "2121ae20-bd9d-41e9-aeeb-5dd1dd1a24ba"])
def test_key_of_printable_ascii_is_taken_and_not_stored_as_it_is(web: Web, redis_url: str, key: str):
    with PlayedWorker(redis_url, Counting()):
        assert post(web, key).status_code == post(web, key).status_code == 200
    (stored,) = web.client.keys("ownup:idem:*")
    assert len(stored.rpartition(b":")[2]) == 64


def test_order_of_checks_is_input_then_vm_then_guard_then_key(web: Web):
    assert post(web, "ä", body={"command": ""}).status_code == 400
    assert web.post("/api/vm/5/agent/exec", json=BODY, idempotency_key="k1").status_code == 404
    assert "blocked" in post(web, body={"command": "rm -rf /"}).json["message"]
    assert web.client.keys("ownup:idem:*") == []


def test_redis_restart_keeps_the_key(own_redis: RedisServer):
    web = Web(own_redis.url)
    web.key = web.make_key()
    web.publish()
    with PlayedWorker(own_redis.url, Counting()):
        post(web)
    own_redis.stop()
    assert post(web).status_code == 503
    own_redis.start()
    response = post(web)
    assert (response.json["data"]["pid"], response.headers[REPLAYED]) == (101, "true")
    web.close()
