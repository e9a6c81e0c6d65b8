"""Waiting for the end of a command in the request that starts it, or in the one that reads it."""

import base64
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from werkzeug.test import TestResponse

from app import serving
from app.core import clock
from app.core.records import CommandEnd, CommandState
from app.core.store import WAKE_CHANNEL, Call, Store, commands, vms
from app.core.store.commands import Claim
from app.wakeups import Waiter, Wakeups
from tests.conftest import RedisServer
from tests.redis_counts import commands_served
from tests.web import (
    EXEC,
    RUNNING_VM,
    STOPPED_VM,
    Answer,
    PlayedWorker,
    Web,
    assert_refused,
    ends_with,
    never_answers,
    tells_pid,
)

PID = 150476
READ = f"{EXEC}?pid={PID}"
EXITED = {
    "success": True,
    "pid": PID,
    "exited": True,
    "exitcode": 7,
    "stdout": "out\n",
    "stderr": "err\n",
    "available": True,
    "vmRunning": True,
    "state": "exited",
    "message": "Command exited with code 7",
}
RUNNING = {
    "success": True,
    "pid": PID,
    "exited": False,
    "stdout": "",
    "stderr": "",
    "available": True,
    "vmRunning": True,
    "state": "running",
    "message": "Command is still running",
}


def end(store: Store, command_id: str, **facts: object) -> None:
    how = {"state": CommandState.EXITED, "exit_code": 7, "stdout": b"out\n", "stderr": b"err\n"} | facts
    store.run(commands.end(command_id, CommandEnd(ended_at=clock.now(), **how), ttl_s=60))  # type: ignore[arg-type]


def ends_at_once(store: Store, claim: Claim) -> None:
    tells_pid(PID)(store, claim)
    end(store, claim.command.id)


def ends_when(told: threading.Event) -> Answer:
    """Make an answer of a worker: the command has started, and ends when told."""

    def later(client: redis.Redis, command_id: str) -> None:
        assert told.wait(20)
        end(Store(client), command_id)

    def answer(store: Store, claim: Claim) -> None:
        tells_pid(PID)(store, claim)
        threading.Thread(target=later, args=(store._client, claim.command.id)).start()

    return answer


class Asking(threading.Thread):
    """A request under way."""

    def __init__(self, ask: Callable[[], TestResponse]) -> None:
        super().__init__()
        self._ask = ask
        self.start()

    def run(self) -> None:
        self.response = self._ask()

    @property
    def data(self) -> dict[str, object]:
        self.join(30)
        assert not self.is_alive(), "no answer"
        assert self.response.status_code == 200, self.response.json
        data: dict[str, object] = self.response.json["data"]
        return data


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "didn't happen"


def start(web: Web, redis_url: str) -> str:
    """Start a command that goes on; answer the id of its record."""
    with PlayedWorker(redis_url, tells_pid(PID)):
        assert web.post(EXEC, json={"command": "sleep"}).status_code == 200
    return web.store.run(commands.read_result(10000, PID)).result.command.id


def waiters(web: Web) -> int:
    return len(web.wakeups._waiters)


def spent_by(web: Web, act: Callable[[], object], *names: str) -> dict[str, int]:
    before = commands_served(web.client)
    act()
    after = commands_served(web.client)
    return {name: after[name] - before[name] for name in names}


class TestPost:
    def test_answer_has_the_fields_of_a_start_and_those_of_the_result(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, ends_at_once):
            response = web.post(EXEC, json={"command": "echo OK", "wait": 60})
        assert response.json["data"] == EXITED | {"command": "echo OK"}
        assert response.data.startswith(b'{"success":true,"timestamp":"')
        assert b'"data":{"success":true,"pid":150476,"command":"echo OK","exited":true,"exitcode":7,' in response.data

    def test_answer_comes_when_the_command_ends(self, web: Web, redis_url: str):
        told = threading.Event()
        with PlayedWorker(redis_url, ends_when(told)):
            asking = Asking(lambda: web.post(EXEC, json={"command": "sleep", "wait": 60}))
            eventually(lambda: web.store.run(commands.read_result(10000, PID)).result)
            assert asking.is_alive()
            told.set()
            assert asking.data == EXITED | {"command": "sleep"}

    def test_answer_comes_when_the_time_is_up(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, tells_pid(PID)):
            began_s = time.monotonic()
            data = web.post(EXEC, json={"command": "sleep", "wait": 0.3}).json["data"]
        assert 0.3 <= time.monotonic() - began_s < 3
        assert data == RUNNING | {"command": "sleep"}

    @pytest.mark.parametrize("wait", [0, 0.0, -0.0])
    def test_no_time_is_no_wait(self, web: Web, redis_url: str, wait: float):
        with PlayedWorker(redis_url, ends_at_once):
            data = web.post(EXEC, json={"command": "true", "wait": wait}).json["data"]
        assert data == {"success": True, "pid": PID, "command": "true", "message": "Command execution started"}

    def test_shortest_wait_never_tells_an_end_without_its_output(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, ends_at_once):
            for _ in range(5):
                data = web.post(EXEC, json={"command": "true", "wait": 1e-9}).json["data"]
                assert data in (EXITED | {"command": "true"}, RUNNING | {"command": "true"})

    def test_end_that_was_read_and_not_told_has_its_output_however_short_the_wait(self, web: Web, redis_url: str):
        """As after a new subscription: everybody looks, and there is no news."""

        class Late(Wakeups):
            @contextmanager
            def expect(self, record_id: str, *, not_for: str = "") -> Iterator[Waiter]:
                del record_id
                waiter = Waiter(not_for)
                threading.Timer(0.3, waiter.set).start()
                yield waiter

        late = Web(redis_url, wakeups=Late(web.client))
        late.key = web.key
        with PlayedWorker(redis_url, ends_at_once):
            assert late.post(EXEC, json={"command": "true", "wait": 1e-9}).json["data"] == EXITED | {"command": "true"}
        late.close()

    @pytest.mark.parametrize("state", [CommandState.TIMED_OUT, CommandState.CANCELLED, CommandState.LOST])
    def test_every_other_end_is_an_end_too(self, web: Web, redis_url: str, state: CommandState):
        def answer(store: Store, claim: Claim) -> None:
            tells_pid(PID)(store, claim)
            end(store, claim.command.id, state=state, exit_code=None, stdout=b"part")

        with PlayedWorker(redis_url, answer):
            data = web.post(EXEC, json={"command": "sleep", "wait": 60}).json["data"]
        assert (data["exited"], data["exitcode"], data["state"], data["stdout"]) == (True, -1, state, "part")

    @pytest.mark.parametrize(
        ("answer", "status"), [(ends_with(CommandState.FAILED, "no"), 500), (ends_with(CommandState.EXPIRED), 504)]
    )
    def test_command_that_never_started_is_an_error_as_without(
        self, web: Web, redis_url: str, answer: Answer, status: int
    ):
        with PlayedWorker(redis_url, answer):
            assert web.post(EXEC, json={"command": "true", "wait": 60}).status_code == status

    def test_reply_that_never_came_is_unknown_as_without(self, redis_url: str):
        web = Web(redis_url, EXEC_START_TIMEOUT_S="0.3")
        web.key = web.make_key()
        web.publish()
        with PlayedWorker(redis_url, never_answers):
            response = web.post(EXEC, json={"command": "true", "wait": 60})
        assert (response.status_code, response.json["code"]) == (500, "INTERNAL_ERROR")
        web.close()

    def test_vm_that_is_off_is_refused_as_without(self, web: Web):
        web.publish(STOPPED_VM)
        assert_refused(web.post(EXEC, json={"command": "true", "wait": 60}), 400, "BAD_REQUEST")

    def test_result_is_that_of_the_command_although_the_guest_has_given_its_pid_again(self, web: Web, redis_url: str):
        claims: list[Claim] = []

        def answer(store: Store, claim: Claim) -> None:
            claims.append(claim)
            tells_pid(PID)(store, claim)

        with PlayedWorker(redis_url, answer):
            asking = Asking(lambda: web.post(EXEC, json={"command": "first", "wait": 60}))
            eventually(lambda: claims)
            eventually(lambda: web.store.run(commands.find(claims[0].command.id)).pid)
            web.post(EXEC, json={"command": "second"})
        end(web.store, claims[0].command.id, stdout=b"first\n")
        assert asking.data["stdout"] == "first\n"

    def test_vm_is_told_as_it_is_at_the_end(self, web: Web, redis_url: str):
        told = threading.Event()
        with PlayedWorker(redis_url, ends_when(told)):
            asking = Asking(lambda: web.post(EXEC, json={"command": "poweroff", "wait": 60}))
            eventually(lambda: web.store.run(commands.read_result(10000, PID)).result)
            web.publish(STOPPED_VM)
            told.set()
            assert (asking.data["available"], asking.data["vmRunning"]) == (False, False)

    @pytest.mark.parametrize("what", ["vm", "record", "account"])
    def test_what_is_out_of_sight_may_have_run(self, web: Web, redis_url: str, what: str):
        def answer(store: Store, claim: Claim) -> None:
            tells_pid(PID)(store, claim)
            command_id = claim.command.id
            if what == "vm":
                store.run(vms.remove(10000, "node-1"))
            elif what == "account":
                store.run(vms.publish(replace(RUNNING_VM, account="next")))
            else:
                eventually(lambda: waiters(web))
                store.run(Call(("DEL", f"ownup:cmd:{command_id}"), bool))
            store.run(Call(("PUBLISH", WAKE_CHANNEL, command_id), bool))

        with PlayedWorker(redis_url, answer):
            response = web.post(EXEC, json={"command": "true", "wait": 60})
        message = assert_refused(response, 500, "INTERNAL_ERROR", "command")
        assert message
        assert "may have run" in response.json["details"][0]["message"]

    def test_redis_that_is_away_at_the_end_leaves_the_pid(self, own_redis: RedisServer):
        web = Web(own_redis.url)
        web.key = web.make_key()
        web.publish()
        with PlayedWorker(own_redis.url, tells_pid(PID)):
            asking = Asking(lambda: web.post(EXEC, json={"command": "sleep", "wait": 1}))
            eventually(lambda: web.store.run(commands.read_result(10000, PID)).result)
        own_redis.stop()
        assert (asking.data["pid"], asking.data["exited"]) == (PID, False)
        web.close()

    def test_key_used_again_with_another_wait_is_the_same_order(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, ends_at_once) as worker:
            first = web.post(EXEC, json={"command": "true"}, idempotency_key="k")
            again = web.post(EXEC, json={"command": "true", "wait": 60}, idempotency_key="k")
        assert len(worker.taken) == 1
        assert "Idempotency-Replayed" not in first.headers
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json["data"] == EXITED | {"command": "true"}


class TestGet:
    def test_answer_comes_when_the_command_ends(self, web: Web, redis_url: str):
        command_id = start(web, redis_url)
        asking = Asking(lambda: web.get(f"{READ}&wait=60"))
        eventually(lambda: waiters(web))
        assert asking.is_alive()
        end(web.store, command_id)
        assert asking.data == EXITED

    def test_answer_comes_when_the_time_is_up(self, web: Web, redis_url: str):
        start(web, redis_url)
        began_s = time.monotonic()
        assert web.get(f"{READ}&wait=0.3").json["data"] == RUNNING
        assert 0.3 <= time.monotonic() - began_s < 3

    def test_command_that_has_ended_is_told_at_once_and_costs_no_more_than_without(self, web: Web, redis_url: str):
        end(web.store, start(web, redis_url))
        plain = spent_by(web, lambda: web.get(READ), "script", "hgetall")
        began_s = time.monotonic()
        waited = spent_by(web, lambda: web.get(f"{READ}&wait=60"), "script", "hgetall")
        assert time.monotonic() - began_s < 5
        assert waited == plain

    def test_bytes_are_given_on_request(self, web: Web, redis_url: str):
        command_id = start(web, redis_url)
        asking = Asking(lambda: web.get(f"{READ}&wait=60&encoding=base64"))
        eventually(lambda: waiters(web))
        end(web.store, command_id, stdout=b"\xff")
        assert (asking.data["stdout"], asking.data["encoding"]) == ("/w==", "base64")

    def test_waiting_reads_nothing(self, web: Web, redis_url: str):
        start(web, redis_url)
        asking = Asking(lambda: web.get(f"{READ}&wait=3"))
        eventually(lambda: waiters(web))
        eventually(lambda: web.client.pubsub_numsub(WAKE_CHANNEL)[0][1] == 1)
        threading.Event().wait(0.5)  # what it reads at once has been read
        spent = spent_by(web, lambda: threading.Event().wait(2), "script", "hgetall", "hget", "get")
        assert asking.is_alive()
        assert spent == dict.fromkeys(spent, 0)
        assert asking.data == RUNNING

    def test_end_comes_with_its_news_however_many_wait(self, web: Web, redis_url: str):
        command_id = start(web, redis_url)
        asking = [Asking(lambda: web.app.test_client().get(f"{READ}&wait=60", headers={"X-API-Key": web.key}))
                  for _ in range(20)]  # fmt: skip
        eventually(lambda: len(web.wakeups._waiters.get(command_id, ())) == 20)
        threading.Event().wait(0.5)

        def finish() -> None:
            end(web.store, command_id)
            for each in asking:
                assert each.data == EXITED

        assert spent_by(web, finish, "script") == {"script": 1}
        assert waiters(web) == 0

    @pytest.mark.parametrize(
        ("output", "reads"),
        [(bytes(1_000_000), 0), (secrets.token_bytes(40_000), 1), (secrets.token_bytes(300_000), 1)],
        ids=["compresses well", "long", "too long for a script"],
    )
    def test_output_is_whole_whether_it_came_with_the_news_or_not(
        self, web: Web, redis_url: str, output: bytes, reads: int
    ):
        command_id = start(web, redis_url)
        asking = Asking(lambda: web.get(f"{READ}&wait=60&encoding=base64"))
        eventually(lambda: waiters(web))
        threading.Event().wait(0.5)

        def finish() -> None:
            end(web.store, command_id, stdout=output)
            assert base64.b64decode(str(asking.data["stdout"])) == output

        assert spent_by(web, finish, "script") == {"script": 1 + reads}

    def test_end_in_a_vm_that_was_given_away_is_told_to_nobody(self, web: Web, redis_url: str):
        command_id = start(web, redis_url)
        asking = Asking(lambda: web.get(f"{READ}&wait=60"))
        eventually(lambda: waiters(web))
        web.store.run(vms.publish(replace(RUNNING_VM, account="next")))
        end(web.store, command_id)
        asking.join(20)
        assert_refused(asking.response, 404, "NOT_FOUND")

    def test_record_that_is_forgotten_meanwhile_is_404(self, web: Web, redis_url: str):
        command_id = start(web, redis_url)
        asking = Asking(lambda: web.get(f"{READ}&wait=60"))
        eventually(lambda: waiters(web))
        web.client.delete(f"ownup:cmd:{command_id}")
        web.client.publish(WAKE_CHANNEL, command_id)
        asking.join(20)
        assert_refused(asking.response, 404, "NOT_FOUND")

    def test_redis_that_comes_back_while_waiting_is_sat_out(self, own_redis: RedisServer):
        web = Web(own_redis.url)
        web.key = web.make_key()
        web.publish()
        command_id = start(web, own_redis.url)
        asking = Asking(lambda: web.get(f"{READ}&wait=60"))
        eventually(lambda: waiters(web))
        own_redis.stop()
        own_redis.start()
        end(web.store, command_id)
        assert asking.data == EXITED | {"available": asking.data["available"], "vmRunning": asking.data["vmRunning"]}
        web.close()

    def test_unknown_pid_is_404_at_once(self, web: Web):
        began_s = time.monotonic()
        assert web.get(f"{EXEC}?pid=1&wait=60").status_code == 404
        assert time.monotonic() - began_s < 5

    def test_probe_does_not_wait(self, web: Web):
        began_s = time.monotonic()
        assert web.get(f"{EXEC}?wait=60").json["data"]["available"] is True
        assert time.monotonic() - began_s < 5


class TestFullHouse:
    def test_who_finds_no_seat_is_answered_at_once_with_what_is_known(self, redis_url: str):
        web = Web(redis_url, WEB_THREADS="4")
        web.key = web.make_key()
        web.publish()
        command_id = start(web, redis_url)
        seated = [
            Asking(lambda: web.app.test_client().get(f"{READ}&wait=60", headers={"X-API-Key": web.key}))
            for _ in range(2)
        ]
        eventually(lambda: len(web.wakeups._waiters.get(command_id, ())) == 2)
        began_s = time.monotonic()
        assert web.get(f"{READ}&wait=60").json["data"] == RUNNING
        with PlayedWorker(redis_url, tells_pid(PID + 1)):
            data = web.post(EXEC, json={"command": "true", "wait": 60}).json["data"]
        assert (data["pid"], data["exited"]) == (PID + 1, False)
        assert time.monotonic() - began_s < 5
        end(web.store, command_id)
        assert [asking.data for asking in seated] == [EXITED, EXITED]
        web.close()

    def test_seat_is_free_again_whatever_came_of_the_wait(self, redis_url: str):
        web = Web(redis_url, WEB_THREADS="2")
        web.key = web.make_key()
        web.publish()
        command_id = start(web, redis_url)
        assert web.get(f"{READ}&wait=0.1").json["data"] == RUNNING
        asking = Asking(lambda: web.get(f"{READ}&wait=60"))
        eventually(lambda: waiters(web))
        web.client.delete(f"ownup:cmd:{command_id}")
        web.client.publish(WAKE_CHANNEL, command_id)
        asking.join(20)
        assert asking.response.status_code == 404
        command_id = start(web, redis_url)
        asking = Asking(lambda: web.get(f"{READ}&wait=60"))
        eventually(lambda: waiters(web))
        end(web.store, command_id)
        assert asking.data == EXITED
        web.close()


class TestInput:
    @pytest.mark.parametrize("value", [-0.1, 60.1, 61, 10**400, -(10**400), True, False, "5", None, [5], {}])
    def test_wrong_body_is_refused(self, web: Web, value: object):
        message = assert_refused(web.post(EXEC, json={"command": "true", "wait": value}), 400, "BAD_REQUEST", "wait")
        assert message

    @pytest.mark.parametrize(
        "value",
        ["", "-1", "-0", "60.1", "61", "9" * 400, "1e1", "+1", "%201", "0x1", ".5", "5.", "nan", "inf", "true", "٣"],
    )
    @pytest.mark.parametrize("path", [EXEC, READ])
    def test_wrong_query_is_refused(self, web: Web, path: str, value: str):
        response = web.get(f"{path}{'&' if '?' in path else '?'}wait={value}")
        assert_refused(response, 400, "BAD_REQUEST", "wait")
        assert response.json["details"][0]["message"] == "must be a number of seconds from 0 to 60"

    def test_given_twice_is_refused(self, web: Web):
        assert_refused(web.get(f"{READ}&wait=1&wait=1"), 400, "BAD_REQUEST", "wait")

    @pytest.mark.parametrize("value", ["0", "60", "60.0", "0.000000001", "007"])
    def test_limits_are_allowed(self, web: Web, redis_url: str, value: str):
        end(web.store, start(web, redis_url))
        assert web.get(f"{READ}&wait={value}").json["data"] == EXITED

    def test_longest_wait_is_allowed_in_a_body(self, web: Web, redis_url: str):
        with PlayedWorker(redis_url, ends_at_once):
            assert web.post(EXEC, json={"command": "true", "wait": 60}).status_code == 200


class Wire:
    """A socket before a Redis; its connections can go dead without being closed, as a cut cable does it."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path, self._target = path, target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ends: list[socket.socket] = []
        self._epoch = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def die(self) -> None:
        """From now on nothing passes through the connections there are; new ones are well."""
        self._epoch += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end_ in self._ends:
            with suppress(OSError):
                end_.shutdown(socket.SHUT_RDWR)
            end_.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._target))
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink, self._epoch), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, epoch: int) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if epoch == self._epoch:
                    sink.sendall(data)


@contextmanager
def wire_to(target: Path, path: Path) -> Iterator[Wire]:
    wire = Wire(path, target)
    yield wire
    wire.close()


def test_subscription_that_died_without_a_word_is_replaced(own_redis: RedisServer, tmp_path: Path):
    with wire_to(tmp_path / "redis.sock", tmp_path / "wire.sock") as wire:
        client = redis.Redis(unix_socket_path=str(wire.path), health_check_interval=1, retry=Retry(NoBackoff(), 0))
        wakeups = Wakeups(client)
        with own_redis.client() as direct, wakeups.expect("a") as woken:
            assert woken.wait(5)
            wire.die()
            direct.publish(WAKE_CHANNEL, "a")
            assert woken.wait(20), "what was told meanwhile was told to nobody"
            direct.publish(WAKE_CHANNEL, "a")
            assert woken.wait(5)
        wakeups.close()
        client.close()


def test_longest_wait_fits_into_the_time_a_stopping_server_gives():
    assert serving.graceful_timeout > 60
