"""Files on their way through Redis: numbered, bounded in time, and gone afterwards; and records of kinds."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from app.core.codec import decode, encode
from app.core.errors import IllegalMoveError, TransferBrokenError
from app.core.records import Command, CommandEnd, CommandKind, CommandRequest, CommandState
from app.core.store import WAKE_CHANNEL, Store, commands, files
from app.core.store.files import Incoming, Lane, Message, MessageKind

NOW = datetime(2026, 2, 10, tzinfo=UTC)
FILE = Command(
    id="f1",
    vmid=10000,
    account="acme",
    node="n1",
    state=CommandState.QUEUED,
    created_at=NOW,
    deliver_by=NOW,
    kind=CommandKind.FILE_WRITE,
)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client)


def put(store: Store, message: Message) -> None:
    store.run(files.put("f1", Lane.BYTES, message, ttl_s=60))


def take(store: Store, wait_s: float = 0.05) -> Message | None:
    return store.run(files.take("f1", Lane.BYTES, wait_s=wait_s))


class TestLane:
    def test_messages_come_in_their_order_as_they_were(self, store: Store):
        sent = [Message(number, kind, bytes(range(256))) for number, kind in enumerate(MessageKind)]
        for message in sent:
            put(store, message)
        assert [take(store) for _ in sent] == sent
        assert take(store) is None

    def test_lanes_are_apart_and_expire(self, store: Store, client: redis.Redis):
        put(store, Message(0, MessageKind.CHUNK, b"x"))
        assert store.run(files.take("f1", Lane.WORD, wait_s=0.05)) is None
        assert store.run(files.take("f2", Lane.BYTES, wait_s=0.05)) is None
        assert 0 < client.ttl("ownup:file:f1:bytes") <= 60
        store.run(files.forget("f1", Lane.BYTES))
        assert list(client.scan_iter()) == []

    def test_waits_no_longer_than_it_should(self, store: Store):
        began_s = time.monotonic()
        assert take(store, 0.2) is None
        assert 0.15 < time.monotonic() - began_s < 2


class TestIncoming:
    @given(st.lists(st.integers(0, 5), max_size=6))
    def test_only_an_unbroken_row_passes(self, numbers: list[int]):
        incoming, passed = Incoming(), []
        try:
            passed.extend(incoming.check(Message(number, MessageKind.CHUNK)).number for number in numbers)
        except TransferBrokenError:
            assert numbers[len(passed)] != len(passed)
        assert passed == list(range(len(passed)))
        assert len(passed) == len(numbers) or numbers[len(passed)] != len(passed)

    def test_news_of_the_end_passes_at_any_time_and_says_why(self):
        with pytest.raises(TransferBrokenError, match="no room"):
            Incoming().check(Message(99, MessageKind.BROKEN, b"no room"))


class TestRecord:
    def test_file_runs_without_a_pid_and_ends(self, store: Store, client: redis.Redis):
        store.run(commands.create(FILE, CommandRequest(path="/a"), deliver_within_s=9))
        assert store.run(commands.claim("f1")).request == CommandRequest(path="/a")
        with client.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(WAKE_CHANNEL)
            subscription.get_message(timeout=5)
            store.run(commands.begin("f1", NOW))
            store.run(commands.end("f1", CommandEnd(state=CommandState.EXITED, ended_at=NOW), ttl_s=60))
            told = [subscription.get_message(timeout=5)["data"] for _ in range(2)]
        assert told == [b"f1 running ", b"f1 exited "]
        ended = store.run(commands.find("f1"))
        assert (ended.kind, ended.state, ended.started_at) == (CommandKind.FILE_WRITE, CommandState.EXITED, NOW)
        assert not list(client.scan_iter("ownup:pid:*"))
        assert not client.exists("ownup:vm:10000:pid")

    def test_begins_once(self, store: Store):
        store.run(commands.create(FILE, CommandRequest(path="/a"), deliver_within_s=9))
        store.run(commands.begin("f1", NOW))
        with pytest.raises(IllegalMoveError):
            store.run(commands.begin("f1", NOW))

    def test_record_of_an_older_version_is_a_programs(self):
        fields = {name.encode(): text.encode() for name, text in encode(FILE).items() if name != "kind"}
        assert decode(Command, fields).kind is CommandKind.EXEC
