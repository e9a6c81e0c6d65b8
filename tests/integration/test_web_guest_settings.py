"""Settings of a guest over HTTP: each outcome told truly, and a password that is found nowhere afterwards."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.access import Principal, Scope
from app.core import clock
from app.core.errors import GuestCallExpiredError, GuestCallUnknownError
from app.core.queues import ASK_AGENT
from app.core.records import CommandEnd, CommandState, GuestAction, GuestCallState, VmStatus
from app.core.store import Store, commands, guest_calls
from app.core.store.commands import Claim
from app.guest_calls import Patience
from app.guest_settings import _LINE
from tests.conftest import RedisServer
from tests.redis_contents import everything_in
from tests.web import (
    RUNNING_VM,
    STOPPED_VM,
    Answer,
    PlayedWorker,
    Reply,
    Web,
    assert_refused,
    ends_with,
    never_answers,
    tells_pid,
)

DETAILS = "/api/vm/10000/details"
HOSTNAME = "/api/vm/10000/hostname"
PASSWORD = "/api/vm/10000/reset-password"
SSH_KEYS = "/api/vm/10000/reset-ssh-keys"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann@laptop"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBYniikuG4fEuemuKIuil8zCb9YK8jLEhvIPhBMEqg6Q bob"
ASKER = Principal("k", "acme", frozenset())
SECRET = "planted: s3cret, with a colon"


def playing(redis_url: str, reply: Reply, answer: Answer = never_answers) -> PlayedWorker:
    return PlayedWorker(redis_url, answer, reply=reply)


def says(state: GuestCallState, *, value: dict[str, Any] | None = None, message: str | None = None) -> Reply:
    """Make a reply of a worker: this came of the call."""

    def reply(store: Store, claim: guest_calls.Claim) -> None:
        store.run(guest_calls.end(claim.call.id, state, clock.now(), value=value, message=message))

    return reply


def stays_silent(_store: Store, _claim: guest_calls.Claim) -> None:
    """Claim the call and say nothing more."""


def exits(code: int, stdout: bytes = b"", stderr: bytes = b"") -> Answer:
    """Make an answer of a worker: the command has run."""

    def answer(store: Store, claim: Claim) -> None:
        tells_pid(7)(store, claim)
        end = CommandEnd(state=CommandState.EXITED, ended_at=clock.now(), exit_code=code, stdout=stdout, stderr=stderr)
        store.run(commands.end(claim.command.id, end, ttl_s=60))

    return answer


def keep(web: Web, *lines: str) -> list[str]:
    """Keep SSH keys for the account; tell their ids."""
    answers = [web.post("/api/ssh-keys", json={"name": "k", "public_key": line}) for line in lines]
    return [str(answer.json["data"]["ssh_key"]["ssh_key"]["id"]) for answer in answers]


@pytest.fixture
def quick(redis_url: str) -> Iterator[Web]:
    """The application, with nobody who works."""
    web = Web(redis_url, EXEC_START_TIMEOUT_S="0.3")
    web.key = web.make_key()
    web.publish()
    yield web
    web.close()


class TestPassword:
    def test_it_is_handed_to_the_worker_alone_and_found_nowhere_afterwards(
        self, web: Web, redis_url: str, caplog: pytest.LogCaptureFixture
    ):
        def reply(store: Store, claim: guest_calls.Claim) -> None:
            told.append(claim)
            says(GuestCallState.DONE, value={})(store, claim)

        told: list[guest_calls.Claim] = []
        caplog.set_level(logging.DEBUG)
        with playing(redis_url, reply) as worker:
            response = web.post(PASSWORD, json={"password": SECRET})
        assert response.status_code == 200
        assert response.json["data"] == {
            "success": True,
            "message": "Password reset",
            "vmid": "10000",
            "accountId": "10000",
        }
        ((claim,), (job,)) = told, worker.taken
        assert (claim.call.action, claim.secret) == (GuestAction.SET_PASSWORD, SECRET)
        assert (job.func_name, job.args, job.kwargs) == (ASK_AGENT, [claim.call.id, 10000], {})
        assert job.description == "ask_agent"
        assert claim.call.request_id == response.json["requestId"]
        assert claim.call.key_id == web.key.split("_")[1]
        for place in (everything_in(web.client), response.data, str([vars(each) for each in caplog.records]).encode()):
            assert b"s3cret" not in place

    def test_while_nobody_works_it_lies_in_its_own_key_only_and_then_nowhere(self, quick: Web):
        def look() -> None:
            with quick.wakeups.expect("anything"):
                while not (keys := list(quick.client.scan_iter("ownup:call:*:secret"))):
                    threading.Event().wait(0.005)
                seen.append((quick.client.get(keys[0]), quick.client.ttl(keys[0])))
                quick.client.delete(keys[0])
                seen.append(everything_in(quick.client))

        seen: list[Any] = []
        looking = threading.Thread(target=look)
        looking.start()
        response = quick.post(PASSWORD, json={"password": SECRET})
        looking.join()
        (secret, ttl_s), rest = seen
        assert (secret.decode(), 0 < ttl_s <= 2) == (SECRET, True)
        assert b"s3cret" not in rest
        assert_refused(response, 504, "GATEWAY_TIMEOUT", "guest")

    def test_nobody_takes_it_so_it_expires_and_is_gone(self, quick: Web):
        message = assert_refused(quick.post(PASSWORD, json={"password": SECRET}), 504, "GATEWAY_TIMEOUT", "guest")
        assert message == "Failed to reset password"
        assert b"s3cret" not in everything_in(quick.client)

    def test_redis_that_refuses_it_does_not_write_it_into_the_log(
        self, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level(logging.DEBUG)
        web = Web(own_redis.url)
        web.key = web.make_key()
        web.publish()
        web.get("/api/vm")
        web.client.execute_command("ACL", "SETUSER", "default", "-set")
        response = web.post(PASSWORD, json={"password": SECRET})
        web.close()
        assert response.status_code == 500
        assert any(record.exc_info for record in caplog.records)
        assert "s3cret" not in caplog.text

    def test_redis_that_is_full_is_as_good_as_none(self, own_redis: RedisServer, caplog: pytest.LogCaptureFixture):
        caplog.set_level(logging.DEBUG)
        web = Web(own_redis.url)
        web.key = web.make_key()
        web.publish()
        web.get("/api/vm")
        web.client.config_set("maxmemory", "1")
        response = web.post(PASSWORD, json={"password": SECRET})
        web.close()
        assert response.status_code == 503
        assert "s3cret" not in caplog.text

    def test_refusal_has_the_agents_words(self, web: Web, redis_url: str):
        with playing(redis_url, says(GuestCallState.FAILED, message="guest-set-user-password: no such user")):
            response = web.post(PASSWORD, json={"password": SECRET})
        assert assert_refused(response, 500, "INTERNAL_ERROR", "guest") == "Failed to reset password"
        assert response.json["details"][0]["message"] == "guest-set-user-password: no such user"

    def test_lost_reply_says_that_it_may_have_been_done(self, web: Web, redis_url: str):
        with playing(redis_url, says(GuestCallState.UNKNOWN, message="It may have been done: no reply")):
            response = web.post(PASSWORD, json={"password": SECRET})
        assert_refused(response, 500, "INTERNAL_ERROR", "guest")
        assert response.json["details"][0]["message"] == "It may have been done: no reply"

    def test_worker_that_dies_with_it_leaves_it_unknown(self, web: Web, redis_url: str):
        view = web.services().inventory.get_vm(ASKER, 10000)
        short = Patience(deliver_s=5, reply_s=-4.5)
        calls = web.services().guest_settings.calls
        with playing(redis_url, stays_silent), pytest.raises(GuestCallUnknownError) as failure:
            calls.ask(ASKER, view, GuestAction.SET_PASSWORD, "r", secret=SECRET, patience=short)
        assert "may have been done" in failure.value.reason
        with playing(redis_url, stays_silent), pytest.raises(GuestCallExpiredError):
            calls.ask(ASKER, view, GuestAction.GET_HOSTNAME, "r", patience=short)

    @pytest.mark.parametrize("password", ["", "a\nb", "a\0b", "\x7f", "\ud800", "x" * 257, None, 7, ["a"]])
    def test_what_no_password_can_be_is_refused_without_being_repeated(self, web: Web, password: object):
        response = web.post(PASSWORD, json={"password": password})
        assert_refused(response, 400, "BAD_REQUEST", "password")
        assert b"xxx" not in response.data

    @pytest.mark.parametrize("body", [{}, {"password": "a", "user": "ann"}])
    def test_body_has_a_password_and_nothing_else(self, web: Web, body: dict[str, str]):
        assert web.post(PASSWORD, json=body).status_code == 400


class TestSshKeys:
    def test_keys_of_the_account_are_handed_over_in_the_order_that_was_asked_for(self, web: Web, redis_url: str):
        def reply(store: Store, claim: guest_calls.Claim) -> None:
            told.append(claim)
            says(GuestCallState.DONE, value={})(store, claim)

        told: list[guest_calls.Claim] = []
        first, second = keep(web, KEY, OTHER_KEY)
        with playing(redis_url, reply):
            response = web.post(SSH_KEYS, json={"keyIds": [second, first, second]})
        assert response.json["data"] == {
            "success": True,
            "message": "SSH keys reset",
            "keyCount": 2,
            "vmid": "10000",
            "accountId": "10000",
        }
        assert (told[0].call.action, told[0].call.keys) == (GuestAction.SET_SSH_KEYS, (OTHER_KEY, KEY))
        assert told[0].secret is None

    def test_key_of_another_account_is_not_there(self, web: Web):
        (key_id,) = keep(web, KEY)
        web.publish(replace(RUNNING_VM, account="other"))
        response = web.post(SSH_KEYS, web.make_key(account="other"), json={"keyIds": [key_id]})
        assert assert_refused(response, 404, "NOT_FOUND") == "SSH key not found"

    def test_refusal_has_hostups_words(self, web: Web, redis_url: str):
        with playing(redis_url, says(GuestCallState.FAILED, message="no")):
            response = web.post(SSH_KEYS, json={"keyIds": keep(web, KEY)})
        assert assert_refused(response, 500, "INTERNAL_ERROR", "guest") == "Failed to reset SSH keys"

    @pytest.mark.parametrize("ids", [[], None, "1", ["1"] * 101, {}])
    def test_one_id_is_wanted_at_least(self, web: Web, ids: object):
        assert_refused(web.post(SSH_KEYS, json={"keyIds": ids}), 400, "BAD_REQUEST", "keyIds")

    @pytest.mark.parametrize("key_id", [1, "", "a", "-1", "01", "1.0", "1" * 19, None, "१"])
    def test_ids_are_digits_as_text(self, web: Web, key_id: object):
        assert_refused(web.post(SSH_KEYS, json={"keyIds": [key_id]}), 400, "BAD_REQUEST", "keyIds.0")


class TestHostname:
    def test_it_is_set_by_a_fixed_line_with_the_name_in_the_environment(self, web: Web, redis_url: str):
        def answer(store: Store, claim: Claim) -> None:
            told.append(claim)
            exits(0, b"web-1.example.com\n")(store, claim)

        told: list[Claim] = []
        with playing(redis_url, stays_silent, answer):
            response = web.post(HOSTNAME, json={"hostname": "Web-1.Example.COM."})
        data = response.json["data"]
        assert (data["hostname"], data["normalized"], data["hostbillSynced"]) == ("web-1.example.com", True, False)
        assert data["rdnsProtection"]["monitoredIps"] == 0
        assert data["message"] == "Hostname changed. Saved as web-1.example.com."
        ((claim,),) = (told,)
        assert (claim.request.line, claim.request.env) == (_LINE, {"OWNUP_HOSTNAME": "web-1.example.com"})
        assert claim.command.timeout_s == 15

    def test_name_that_is_saved_as_it_was_written_is_not_normalized(self, web: Web, redis_url: str):
        with playing(redis_url, stays_silent, exits(0, b"web-1\n")):
            assert web.post(HOSTNAME, json={"hostname": "web-1"}).json["data"]["normalized"] is False

    @pytest.mark.parametrize(
        ("answer", "status", "words"),
        [
            (exits(1, stderr=b"hostname: sethostname: Invalid argument\n"), 500, "sethostname: Invalid argument"),
            (exits(0, b"other\n"), 500, "still calls itself other"),
            (ends_with(CommandState.FAILED, "no agent"), 500, "no agent"),
            (ends_with(CommandState.EXPIRED, "too late"), 504, "too late"),
            (ends_with(CommandState.UNKNOWN, "no reply"), 500, "no reply"),
        ],
    )
    def test_failure_says_what_has_become_of_it(
        self, web: Web, redis_url: str, answer: Answer, status: int, words: str
    ):
        with playing(redis_url, stays_silent, answer):
            response = web.post(HOSTNAME, json={"hostname": "web-1"})
        assert (response.status_code, response.json["message"]) == (status, "Failed to change hostname")
        assert words in response.json["details"][0]["message"]

    def test_line_that_was_killed_may_have_changed_it(self, web: Web, redis_url: str):
        def answer(store: Store, claim: Claim) -> None:
            tells_pid(7)(store, claim)
            ends_with(CommandState.TIMED_OUT, "ran longer than its timeout")(store, claim)

        with playing(redis_url, stays_silent, answer):
            response = web.post(HOSTNAME, json={"hostname": "web-1"})
        assert (response.status_code, response.json["details"][0]["field"]) == (500, "guest")

    @pytest.mark.parametrize("hostname", ["01SE", "a", "a.b", "example.com.", "x" * 63 + ".a", "1.2.3"])
    def test_names_that_are_taken(self, web: Web, redis_url: str, hostname: str):
        with playing(redis_url, stays_silent, exits(0, hostname.lower().rstrip(".").encode())):
            assert web.post(HOSTNAME, json={"hostname": hostname}).status_code == 200

    @pytest.mark.parametrize(
        "hostname",
        ["", ".", "-a", "a-", "a..b", "a b", "a_b", "a;b", "$(id)", "a\n", "é", "x" * 64, "a." * 127 + "a", None, 1],
    )
    def test_names_that_are_refused(self, web: Web, hostname: object):
        assert_refused(web.post(HOSTNAME, json={"hostname": hostname}), 400, "BAD_REQUEST", "hostname")


class TestDetails:
    def test_all_that_is_known_is_told_and_the_rest_is_null(self, web: Web, redis_url: str):
        web.publish(replace(RUNNING_VM, storage_bytes=3 * 2**29))
        with playing(redis_url, says(GuestCallState.DONE, value={"hostname": "web-1.example.com"})):
            data = web.get(DETAILS).json["data"]
        unknown = {name for name, value in data.items() if value is None}
        assert unknown == {
            *("product_id", "product_name", "created", "order_id", "billingcycle", "price", "total"),
            *("firstpayment", "next_due", "bandwidth_limit"),
        }
        assert {name: value for name, value in data.items() if value is not None} == {
            "id": "10000",
            "hostname": "web-1.example.com",
            "status": "Active",
            "cpu": 2,
            "ram": 0.25,
            "disk": 1.5,
            "bandwidth_usage": {"data_received": 1, "data_sent": 2},
            "usage_log": {},
        }

    def test_vm_that_is_off_has_no_hostname_and_nobody_is_asked(self, web: Web):
        web.publish(STOPPED_VM)
        data = web.get(DETAILS).json["data"]
        assert (data["status"], data["hostname"]) == ("Stopped", None)
        assert list(web.client.scan_iter("ownup:call:*")) == []

    def test_guest_that_does_not_answer_at_once_is_not_waited_for(self, web: Web, redis_url: str):
        with playing(redis_url, stays_silent):
            assert web.get(DETAILS).json["data"]["hostname"] is None
        with playing(redis_url, says(GuestCallState.FAILED, message="no")):
            assert web.get(DETAILS).json["data"]["hostname"] is None

    @pytest.mark.parametrize(("status", "told"), [(VmStatus.PAUSED, "Paused"), (VmStatus.UNKNOWN, "Unknown")])
    def test_other_states_are_told_in_our_words(self, web: Web, status: VmStatus, told: str):
        web.publish(replace(STOPPED_VM, status=status))
        assert web.get(DETAILS).json["data"]["status"] == told


CHANGES = [(HOSTNAME, {"hostname": "a"}), (PASSWORD, {"password": "a"}), (SSH_KEYS, {"keyIds": ["1"]})]


class TestRulesThatHoldForAll:
    @pytest.mark.parametrize(
        ("path", "body", "task"),
        [(*CHANGES[0], "change hostname"), (*CHANGES[1], "reset password"), (*CHANGES[2], "reset SSH keys")],
    )
    def test_vm_must_run(self, web: Web, path: str, body: dict[str, Any], task: str):
        keep(web, KEY)
        for vm in (STOPPED_VM, replace(RUNNING_VM, running=False, status=VmStatus.PAUSED)):
            web.publish(vm)
            assert assert_refused(web.post(path, json=body), 400, "BAD_REQUEST") == f"VM must be running to {task}"

    @pytest.mark.parametrize(("path", "body"), CHANGES)
    def test_node_must_be_there(self, redis_url: str, path: str, body: dict[str, Any]):
        web = Web(redis_url)
        web.key = web.make_key()
        web.publish(alive=False)
        keep(web, KEY)
        assert_refused(web.post(path, json=body), 503, "SERVICE_UNAVAILABLE")
        web.close()

    @pytest.mark.parametrize(("path", "body"), CHANGES)
    def test_vm_of_another_account_is_not_there(self, web: Web, path: str, body: dict[str, Any]):
        assert_refused(web.post(path, web.make_key(account="other"), json=body), 404, "NOT_FOUND")
        assert_refused(web.get(DETAILS, web.make_key(account="other")), 404, "NOT_FOUND")

    @pytest.mark.parametrize(("path", "body"), CHANGES)
    def test_scope_is_that_of_writing(self, web: Web, path: str, body: dict[str, Any]):
        key = web.make_key(Scope.READ_VM, Scope.POWER_VM, Scope.WRITE_ACCOUNT)
        assert_refused(web.post(path, key, json=body), 403, "FORBIDDEN")
        web.publish(STOPPED_VM)
        assert web.get(DETAILS, key).status_code == 200

    @pytest.mark.parametrize(("path", "body"), CHANGES)
    def test_redis_that_goes_away_is_503_or_unknown_and_never_a_success(
        self, own_redis: RedisServer, path: str, body: dict[str, Any]
    ):
        web = Web(own_redis.url)
        web.key = web.make_key()
        web.publish()
        keep(web, KEY)
        own_redis.stop()
        response = web.post(path, json=body)
        web.close()
        assert response.status_code == 503

    def test_hundred_at_once_each_get_their_own_answer(self, web: Web, redis_url: str):
        def reply(store: Store, claim: guest_calls.Claim) -> None:
            secrets.append(claim.secret)
            state = (
                GuestCallState.DONE
                if claim.secret in {f"password {n}" for n in range(0, 40, 2)}
                else GuestCallState.FAILED
            )
            says(state, value={}, message=claim.secret)(store, claim)

        def post(number: int) -> None:
            response = web.post(PASSWORD, json={"password": f"password {number}"})
            told[number] = response.status_code

        secrets: list[str | None] = []
        told: dict[int, int] = {}
        threads = [threading.Thread(target=post, args=(number,)) for number in range(40)]
        with playing(redis_url, reply):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert told == {number: 500 if number % 2 else 200 for number in range(40)}
        assert len(secrets) == len(set(secrets)) == 40
