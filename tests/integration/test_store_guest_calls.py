"""Guest calls in a real Redis: claimed at most once and in time, their secrets gone with the claim."""

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from app.core import store
from app.core.clock import now
from app.core.records import GuestAction, GuestCall, GuestCallState
from app.core.store import guest_calls
from tests.redis_contents import everything_in

SECRET = "planted-in-the-store"


class Calls:
    """A store with guest calls, and what a test wants to know of it."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.store = store.Store(client)

    def create(self, *, secret: str | None = SECRET, deliver_within_s: float = 9) -> str:
        call = GuestCall(
            id=str(uuid.uuid4()),
            vmid=1,
            account="acme",
            node="node-1",
            action=GuestAction.SET_PASSWORD,
            state=GuestCallState.QUEUED,
            created_at=now(),
            deliver_by=now(),
        )
        assert self.store.run(guest_calls.create(call, secret=secret, deliver_within_s=deliver_within_s))
        return call.id

    def read(self, call_id: str) -> GuestCall:
        call = self.store.run(guest_calls.read(call_id))
        assert call is not None
        return call

    def wait_until_late(self, call_id: str) -> None:
        deadline_s = float(self.client.hget(f"ownup:call:{call_id}", "deliver_by"))
        while self.store.run(store.time()).timestamp() <= deadline_s:
            time.sleep(0.01)

    def holds_secret(self) -> bool:
        return SECRET.encode() in everything_in(self.client)


@pytest.fixture
def calls(redis_url: str) -> Iterator[Calls]:
    with redis.Redis.from_url(redis_url) as client:
        yield Calls(client)


def test_call_is_claimed_once_and_its_secret_told_once(calls: Calls):
    call_id = calls.create()
    assert calls.holds_secret()
    claim = calls.store.run(guest_calls.claim(call_id))
    assert claim is not None
    assert (claim.call.id, claim.secret, claim.late) == (call_id, SECRET, False)
    assert not calls.holds_secret()
    assert calls.store.run(guest_calls.claim(call_id)) is None


def test_of_many_that_claim_at_the_same_time_one_has_it(calls: Calls):
    call_id = calls.create()
    claims = []
    threads = [
        threading.Thread(target=lambda: claims.append(calls.store.run(guest_calls.claim(call_id)))) for _ in "12345"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in claims if claim]) == 1


def test_claim_whose_reply_was_lost_is_found_again_without_its_secret(calls: Calls):
    call_id = calls.create()
    attempt = guest_calls.claim(call_id)
    calls.store.run(attempt)
    again = calls.store.run(attempt)
    assert again is not None
    assert (again.call.id, again.secret) == (call_id, None)


def test_claim_that_is_found_again_too_late_says_so(calls: Calls):
    call_id = calls.create(deliver_within_s=0.05)
    attempt = guest_calls.claim(call_id)
    calls.store.run(attempt)
    calls.wait_until_late(call_id)
    again = calls.store.run(attempt)
    assert again is not None
    assert again.late


def test_call_that_nobody_took_in_time_ends_and_its_secret_is_gone(calls: Calls):
    call_id = calls.create(deliver_within_s=0.05)
    calls.wait_until_late(call_id)
    ended = calls.read(call_id)
    assert (ended.state, ended.ended_at is not None) == (GuestCallState.EXPIRED, True)
    assert calls.store.run(guest_calls.claim(call_id)) is None
    assert not calls.holds_secret()


def test_claim_that_comes_too_late_ends_the_call_and_takes_its_secret_away(calls: Calls):
    call_id = calls.create(deliver_within_s=0.05)
    calls.wait_until_late(call_id)
    assert calls.store.run(guest_calls.claim(call_id)) is None
    assert not calls.holds_secret()
    assert calls.read(call_id).state is GuestCallState.EXPIRED


def test_call_that_was_claimed_does_not_expire(calls: Calls):
    call_id = calls.create(deliver_within_s=0.05)
    calls.store.run(guest_calls.claim(call_id))
    calls.wait_until_late(call_id)
    assert calls.read(call_id).state is GuestCallState.QUEUED


def test_everything_of_a_call_is_forgotten_by_itself(calls: Calls):
    calls.create(deliver_within_s=9)
    lives = {key: calls.client.ttl(key) for key in calls.client.scan_iter()}
    assert len(lives) == 2
    assert sorted(lives.values()) == [10, guest_calls.TTL_S]


def test_first_end_stands_and_wakes(calls: Calls):
    call_id = calls.create(secret=None)
    with calls.client.pubsub() as subscription:
        subscription.subscribe(store.WAKE_CHANNEL)
        subscription.get_message(timeout=1)
        calls.store.run(guest_calls.end(call_id, GuestCallState.DONE, now(), value={"hostname": "a"}))
        calls.store.run(guest_calls.end(call_id, GuestCallState.FAILED, now(), message="no"))
        message = subscription.get_message(timeout=1)
        assert message["data"].decode() == call_id
        assert subscription.get_message(timeout=0.05) is None
    ended = calls.read(call_id)
    assert (ended.state, ended.value, ended.message) == (GuestCallState.DONE, {"hostname": "a"}, None)


def test_end_of_a_call_that_is_forgotten_leaves_nothing(calls: Calls):
    call_id = calls.create(secret=None)
    calls.client.flushall()
    calls.store.run(guest_calls.end(call_id, GuestCallState.DONE, now(), value={}))
    assert everything_in(calls.client) == b""
    assert calls.store.run(guest_calls.read(call_id)) is None


def test_record_comes_back_as_it_was_written(calls: Calls):
    call_id = calls.create(secret=None)
    written = calls.read(call_id)
    keys = ("ssh-ed25519 AAAA ann@laptop", "ssh-rsa BBBB Grüße 🐧")
    calls.client.flushall()
    call = replace(written, action=GuestAction.SET_SSH_KEYS, keys=keys, key_id="k", request_id="r")
    calls.store.run(guest_calls.create(call, secret=None, deliver_within_s=1))
    assert replace(calls.read(call_id), deliver_by=call.deliver_by) == call


def test_claim_does_not_show_its_secret(calls: Calls):
    claim = calls.store.run(guest_calls.claim(calls.create()))
    assert SECRET not in f"{claim!r} {claim}"
