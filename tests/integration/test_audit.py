"""The audit trail on a real Redis: one chain whoever writes, nothing lost and nothing twice whatever happens."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import redis

from app.audit import Audit
from app.audit_chain import Seal
from app.core.errors import StoreUnavailableError
from app.core.store import Call, Store
from app.factory import connect
from app.settings import WebSettings
from tests.audit_trail import assert_whole, entries, request_ids
from tests.conftest import RedisServer
from tests.e2e.conftest import until
from tests.redis_counts import commands_served
from tests.web import load

T = TypeVar("T")

NOW = datetime(2026, 2, 10, 12, tzinfo=UTC)


@dataclass
class Settable:
    """A clock that a test sets, with both of its hands."""

    moment: datetime = NOW

    def now(self) -> datetime:
        return self.moment

    def time_s(self) -> float:
        return self.moment.timestamp()


@pytest.fixture
def clock() -> Settable:
    return Settable()


@contextmanager
def writing(url: str, **options: Any) -> Iterator[Audit]:
    """Give a writer of its own process, as far as Redis can see."""
    client = connect(load(WebSettings, {"REDIS_URL": url, "REDIS_TIMEOUT_S": "0.5"}))
    store = options.pop("store", Store)(client)
    audit = Audit(store, options.pop("seal", Seal()), max_entries=options.pop("max_entries", 100_000), **options)
    yield audit
    audit.close()
    client.close()


def facts(request_id: str, when: datetime = NOW) -> dict[str, Any]:
    return {"requestId": request_id, "when": when.isoformat(), "who": None, "what": {}, "outcome": None}


def write_all(writers: list[Audit], threads: int, each: int) -> set[str]:
    """Write from many threads at once; answer the request ids."""
    barrier = threading.Barrier(threads)

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(each):
            writers[number % len(writers)].write(facts(f"{number}-{turn}"))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {f"{number}-{turn}" for number in range(threads) for turn in range(each)}


def kill(server: RedisServer) -> None:
    process = server._process
    assert process is not None
    process.kill()
    process.wait()


# --- one chain --------------------------------------------------------------------------------------------------------


def test_two_processes_with_many_threads_make_one_chain(redis_url: str):
    with writing(redis_url) as one, writing(redis_url) as other, redis.Redis.from_url(redis_url) as client:
        written = write_all([one, other], threads=16, each=50)
        found = entries(client)
        assert [entry["seq"] for entry in found] == list(range(1, 801))
        assert {entry["requestId"] for entry in found} == written
        assert assert_whole(redis_url) == "800 entries, 1 to 800: the chain is whole"


def test_threads_that_write_at_the_same_time_travel_together(redis_url: str):
    with writing(redis_url) as audit, redis.Redis.from_url(redis_url) as client:
        audit.write(facts("first"))
        before = commands_served(client)["script"]
        client.client_pause(300)
        write_all([audit], threads=16, each=1)
        assert client.xlen("ownup:audit") == 17
        assert commands_served(client)["script"] - before <= 3, "one that was first, and all that waited for it"


def test_a_lonely_entry_is_one_round_trip(redis_url: str):
    with writing(redis_url) as audit, redis.Redis.from_url(redis_url) as client:
        audit.write(facts("first"))
        client.config_resetstat()
        audit.write(facts("second"))
        assert commands_served(client)["script"] == 1
        assert request_ids(client) == ["first", "second"]


@pytest.mark.parametrize("secret", ["", "a secret"])
def test_the_oldest_go_where_there_are_too_many_and_the_rest_is_whole(redis_url: str, secret: str):
    with writing(redis_url, seal=Seal(secret), max_entries=50) as audit, redis.Redis.from_url(redis_url) as client:
        write_all([audit], threads=4, each=50)
        assert client.xlen("ownup:audit") == 50
        assert assert_whole(redis_url, AUDIT_SECRET=secret) == "50 entries, 151 to 200: the chain is whole"


def test_a_writer_with_another_bound_goes_on_with_the_same_chain(redis_url: str):
    with writing(redis_url, max_entries=20) as small, writing(redis_url, max_entries=30) as large:
        for number in range(40):
            small.write(facts(str(number)))
        for number in range(15):
            large.write(facts(f"l{number}"))
        assert assert_whole(redis_url) == "30 entries, 26 to 55: the chain is whole"
        small.write(facts("last"))
        assert assert_whole(redis_url) == "20 entries, 37 to 56: the chain is whole"


def test_a_trail_that_lost_its_end_is_noticed_by_who_wrote_it(redis_url: str, caplog: pytest.LogCaptureFixture):
    with writing(redis_url) as audit, redis.Redis.from_url(redis_url) as client:
        for number in range(3):
            audit.write(facts(str(number)))
        client.delete("ownup:audit", "ownup:audit:head")
        audit.write(facts("after"))
        audit.write(facts("last"))
        own = [entry["what"] for entry in entries(client) if entry["requestId"] is None]
        assert own == [{"event": "trail_went_back", "from": 3, "to": 0}]
        assert "audit_trail_went_back" in caplog.text
        assert_whole(redis_url)


# --- Redis is away ----------------------------------------------------------------------------------------------------


def test_what_is_written_while_redis_is_away_is_there_when_it_is_back(own_redis: RedisServer):
    with writing(own_redis.url) as audit:
        audit.write(facts("before"))
        kill(own_redis)
        for number in range(3):
            audit.write(facts(f"meanwhile {number}"))
        own_redis.start()
        with own_redis.client() as client:
            until(5, "the entries are there", lambda: client.xlen("ownup:audit") == 4)
            audit.write(facts("after"))
            assert request_ids(client) == ["before", *(f"meanwhile {number}" for number in range(3)), "after"]
        assert_whole(own_redis.url)


def test_a_redis_that_is_killed_under_load_loses_nothing_and_doubles_nothing(own_redis: RedisServer):
    with writing(own_redis.url) as one, writing(own_redis.url) as other, own_redis.client() as client:
        client.config_set("appendfsync", "always")
        written: set[str] = set()
        load_ = threading.Thread(target=lambda: written.update(write_all([one, other], threads=16, each=150)))
        load_.start()
        for _ in range(3):
            before = client.xlen("ownup:audit")
            until(10, "the load goes on", lambda before=before: client.xlen("ownup:audit") > before + 100)  # type: ignore[misc]
            kill(own_redis)
            own_redis.start()
            client.config_set("appendfsync", "always")
        load_.join()
        until(5, "all is there", lambda: client.xlen("ownup:audit") >= len(written))
        found = request_ids(client)
        print(f"{len(found)} entries of {len(written)} calls over 3 kills of Redis")
        assert sorted(found) == sorted(written)
        assert_whole(own_redis.url)


def test_nobody_waits_for_a_redis_that_is_known_to_be_away(own_redis: RedisServer):
    with writing(own_redis.url) as audit:
        audit.write(facts("before"))
        kill(own_redis)
        audit.write(facts("finds out"))
        held = audit._turn.acquire(timeout=5)
        assert held
        try:
            audit.write(facts("knows"))  # takes no turn
        finally:
            audit._turn.release()
        own_redis.start()
        with own_redis.client() as client:
            until(5, "all is there", lambda: client.xlen("ownup:audit") == 3)


def test_more_than_can_wait_is_counted_and_becomes_an_entry(own_redis: RedisServer, caplog: pytest.LogCaptureFixture):
    with writing(own_redis.url, max_waiting=5) as audit:
        kill(own_redis)
        for number in range(8):
            audit.write(facts(str(number)))
        own_redis.start()
        with own_redis.client() as client:
            until(5, "the entries are there", lambda: client.xlen("ownup:audit") == 6)
            assert request_ids(client) == ["0", "1", "2", "3", "4", None]
            assert entries(client)[-1]["what"] == {"event": "entries_lost", "count": 3}
        assert "audit_entries_lost" in caplog.text
        assert_whole(own_redis.url)


def test_who_ends_without_redis_says_how_much_is_lost(own_redis: RedisServer, caplog: pytest.LogCaptureFixture):
    with writing(own_redis.url) as audit:
        kill(own_redis)
        audit.write(facts("lost"))
    (record,) = [record for record in caplog.records if record.message == "audit_entries_lost"]
    assert vars(record)["count"] == 1


def test_a_store_that_refuses_loses_nothing_once_it_doesnt(redis_url: str):
    with writing(redis_url) as audit, redis.Redis.from_url(redis_url) as client:
        client.set("ownup:audit", "no stream")
        audit.write(facts("one"))
        client.delete("ownup:audit")
        until(5, "the entry is there", lambda: client.xlen("ownup:audit") == 1)
        audit.write(facts("two"))
        assert request_ids(client) == ["one", "two"]


# --- a reply was lost -------------------------------------------------------------------------------------------------


def is_append(call: Call[Any]) -> bool:
    return "XADD" in str(call.args[1])


class Deaf(Store):
    """Has its first few appends done and hears no reply."""

    misses = 2

    def run(self, call: Call[T]) -> T:
        reply = super().run(call)
        if is_append(call) and self.misses:
            self.misses -= 1
            raise StoreUnavailableError
        return reply


class Late(Store):
    """Its first append arrives only after somebody has looked whether it has."""

    late: Call[Any] | None = None
    seen = False

    def run(self, call: Call[T]) -> T:
        if is_append(call) and not self.seen:
            self.late, self.seen = call, True
            raise StoreUnavailableError
        reply = super().run(call)
        if not is_append(call) and self.late is not None:
            late, self.late = self.late, None
            super().run(late)
        return reply


@pytest.mark.parametrize("store", [Deaf, Late])
def test_an_entry_whose_reply_was_lost_is_there_once(redis_url: str, store: type[Store]):
    with writing(redis_url, store=store) as audit, redis.Redis.from_url(redis_url) as client:
        audit.write(facts("one"))
        audit.write(facts("two"))
        until(5, "both are there", lambda: client.xlen("ownup:audit") >= 2)
        audit.write(facts("three"))
        until(5, "all are there", lambda: "three" in request_ids(client))
        assert request_ids(client) == ["one", "two", "three"]
        assert_whole(redis_url)


def test_an_entry_whose_reply_was_lost_is_there_once_though_others_went_on(redis_url: str):
    with writing(redis_url, store=Deaf) as deaf, writing(redis_url) as other:
        other.write(facts("before"))
        deaf.write(facts("deaf"))
        for number in range(5):
            other.write(facts(str(number)))
        with redis.Redis.from_url(redis_url) as client:
            until(5, "it goes on", lambda: not deaf._away)
            deaf.write(facts("after"))
            until(5, "all are there", lambda: "after" in request_ids(client))
            assert sorted(request_ids(client)) == sorted(["before", "deaf", *"01234", "after"])
        assert_whole(redis_url)


# --- requests that never came to an end -------------------------------------------------------------------------------


def note(audit: Audit, client: redis.Redis, request_id: str, when: datetime) -> None:
    client.execute_command(*audit.note_intent(facts(request_id, when)).args)


def test_an_intent_is_gone_when_its_entry_is_there(redis_url: str, clock: Settable):
    with writing(redis_url, clock=clock.now, time_s=clock.time_s) as audit, redis.Redis.from_url(redis_url) as client:
        note(audit, client, "one", NOW)
        note(audit, client, "other", NOW)
        assert client.hlen("ownup:audit:open") == 2
        audit.write(facts("one"))
        assert client.hkeys("ownup:audit:open") == [b"other"]


def test_a_request_whose_process_died_gets_its_entry_from_another_one(redis_url: str, clock: Settable):
    with writing(redis_url, clock=clock.now, time_s=clock.time_s) as audit, redis.Redis.from_url(redis_url) as client:
        note(audit, client, "young", NOW - timedelta(minutes=50))
        note(audit, client, "old", NOW - timedelta(minutes=61))
        client.hset("ownup:audit:open", "broken", "no JSON")
        audit.write(facts("any"))
        assert sorted(request_ids(client)[1:]) == ["broken", "old"]
        left = next(entry for entry in entries(client) if entry["requestId"] == "old")
        assert left["outcome"] == {"status": None, "error": "unknown"}
        assert client.hkeys("ownup:audit:open") == [b"young"]
        clock.moment += timedelta(minutes=11)
        audit.write(facts("later"))
        assert request_ids(client)[-2:] == ["later", "young"]
        assert client.hlen("ownup:audit:open") == 0
        assert_whole(redis_url)


def test_of_many_processes_that_look_one_writes_the_entry(redis_url: str, clock: Settable):
    @contextmanager
    def writers(count: int) -> Iterator[list[Audit]]:
        if not count:
            yield []
            return
        with writing(redis_url, clock=clock.now, time_s=clock.time_s) as one, writers(count - 1) as others:
            yield [one, *others]

    with writers(8) as all_, redis.Redis.from_url(redis_url) as client:
        for number in range(20):
            note(all_[0], client, f"old {number}", NOW - timedelta(hours=2))
        written = write_all(all_, threads=8, each=1)
        assert sorted(request_ids(client)) == sorted({*written, *(f"old {number}" for number in range(20))})
        assert_whole(redis_url)


# --- the log ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    caplog.set_level(logging.INFO, logger="ownup.audit")
    return lambda: [json.loads(vars(record)["entry"]) for record in caplog.records if record.name == "ownup.audit"]


def test_the_log_has_each_entry_as_it_is_in_the_trail(redis_url: str, lines: Callable[[], list[dict[str, Any]]]):
    with writing(redis_url) as audit, redis.Redis.from_url(redis_url) as client:
        audit.write(facts("one"))
        audit.write(facts("two"))
        kept = [
            json.loads(fields[b"entry"]) | {"hash": fields[b"hash"].decode()}
            for _, fields in client.xrange("ownup:audit")
        ]
        assert lines() == kept


def test_the_log_has_an_entry_once_and_at_once_while_redis_is_away(
    own_redis: RedisServer, lines: Callable[[], list[dict[str, Any]]]
):
    with writing(own_redis.url) as audit:
        kill(own_redis)
        audit.write(facts("one"))
        assert lines() == [facts("one")]
        own_redis.start()
        with own_redis.client() as client:
            until(5, "the entry is there", lambda: client.xlen("ownup:audit") == 1)
        assert lines() == [facts("one")]
