"""Metrics are kept in rings of fixed size: averages by time, in the real store."""

import math
import struct
from collections.abc import Iterator
from dataclasses import astuple
from datetime import UTC, datetime, timedelta

import pytest
import redis

from app.core.store import Store, disks, metrics, time
from app.core.store.disks import Disk
from app.core.store.metrics import Timeframe, Usage

SLOT = struct.Struct("<If6f")
IDLE = Usage(cpu=0.0, mem=0.5, diskread_bytes_per_s=0.0, diskwrite_bytes_per_s=0.0)
BUSY = Usage(cpu=1.0, mem=0.5, diskread_bytes_per_s=3000.0, diskwrite_bytes_per_s=10.0)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client)


def record(store: Store, usage: Usage, covered_s: float = 30, account: str = "acme") -> None:
    store.run(metrics.record(account, 7, usage, covered_s=covered_s))


def read(store: Store, timeframe: Timeframe = Timeframe.YEAR, account: str = "acme") -> tuple[metrics.Sample, ...]:
    return store.run(metrics.read(account, 7, timeframe))


def put(client: redis.Redis, store: Store, timeframe: Timeframe, steps_ago: int, cpu: float) -> datetime:
    """Write a slot as it was written so many steps ago; tell when its stretch began."""
    now_s = int(store.run(time()).timestamp())
    begin_s = now_s - now_s % timeframe.step_s - steps_ago * timeframe.step_s
    at = begin_s // timeframe.step_s % timeframe.slots * SLOT.size
    client.setrange(f"ownup:metrics:acme:7:{timeframe}", at, SLOT.pack(begin_s, 30, cpu, *[math.nan] * 5))
    return datetime.fromtimestamp(begin_s, UTC)


def test_nothing_is_known_of_a_vm_that_was_never_measured(store: Store):
    assert [read(store, timeframe) for timeframe in Timeframe] == [()] * len(Timeframe)


@pytest.mark.parametrize("timeframe", Timeframe)
def test_what_is_recorded_is_read_in_every_timeframe(store: Store, timeframe: Timeframe):
    before = store.run(time())
    record(store, BUSY)
    (sample,) = read(store, timeframe)
    assert sample.usage == BUSY
    assert before - timedelta(seconds=timeframe.step_s) < sample.recorded_at <= store.run(time())
    assert sample.recorded_at.timestamp() % timeframe.step_s == 0


def test_a_stretch_is_the_average_by_time(store: Store):
    record(store, IDLE, covered_s=30)
    record(store, BUSY, covered_s=10)
    (sample,) = read(store)
    assert sample.usage.cpu == pytest.approx(0.25)
    assert sample.usage.mem == pytest.approx(0.5)
    assert sample.usage.diskread_bytes_per_s == pytest.approx(750)
    record(store, BUSY, covered_s=20)
    assert read(store)[0].usage.cpu == pytest.approx(0.5)


def test_what_is_not_known_is_no_zero(store: Store):
    record(store, IDLE)
    assert read(store)[0].usage.netin_bytes_per_s is None
    record(store, Usage(netin_bytes_per_s=8.0))
    usage = read(store)[0].usage
    assert (usage.cpu, usage.netin_bytes_per_s, usage.netout_bytes_per_s) == (0.0, 8.0, None)


@pytest.mark.parametrize("timeframe", Timeframe)
def test_samples_are_told_oldest_first_and_no_further_back_than_the_ring(
    client: redis.Redis, store: Store, timeframe: Timeframe
):
    kept = [put(client, store, timeframe, ago, 0.5) for ago in (timeframe.slots - 2, 3, 2)]
    put(client, store, timeframe, timeframe.slots + 1, 0.9)
    record(store, IDLE)
    samples = read(store, timeframe)
    assert [sample.recorded_at for sample in samples][:3] == kept
    assert [sample.usage.cpu for sample in samples] == [0.5, 0.5, 0.5, 0.0]


@pytest.mark.parametrize("timeframe", Timeframe)
def test_a_slot_whose_turn_comes_again_begins_anew(client: redis.Redis, store: Store, timeframe: Timeframe):
    for ago in (timeframe.slots, timeframe.slots - 1):  # the next one too: a stretch may begin meanwhile
        put(client, store, timeframe, ago, 1.0)
    record(store, IDLE)
    assert read(store, timeframe)[-1].usage.cpu == 0.0


@pytest.mark.parametrize("timeframe", Timeframe)
def test_a_ring_has_a_size_it_never_exceeds_and_goes_when_nothing_is_written(
    client: redis.Redis, store: Store, timeframe: Timeframe
):
    for ago in range(timeframe.slots):
        put(client, store, timeframe, ago, 0.1)
    record(store, BUSY)
    key = f"ownup:metrics:acme:7:{timeframe}"
    assert client.strlen(key) == timeframe.slots * SLOT.size
    assert len(read(store, timeframe)) <= timeframe.slots
    assert 0 < client.ttl(key) <= timeframe.slots * timeframe.step_s


def test_all_rings_of_a_vm_weigh_little(client: redis.Redis, store: Store):
    assert sum(timeframe.slots for timeframe in Timeframe) * SLOT.size < 16 * 1024
    record(store, BUSY)
    assert len(client.keys("ownup:metrics:*")) == len(Timeframe)


def test_timeframes_reach_as_far_back_as_their_names_say():
    reach = {timeframe: timedelta(seconds=timeframe.step_s * timeframe.slots) for timeframe in Timeframe}
    assert reach == {
        "hour": timedelta(hours=1),
        "day": timedelta(days=1),
        "week": timedelta(days=7),
        "month": timedelta(days=31),
        "year": timedelta(days=366),
    }


def test_another_account_with_the_same_vmid_sees_nothing(store: Store):
    record(store, BUSY)
    store.run(disks.write("acme", 7, (DISK,)))
    assert read(store, account="other") == ()
    assert store.run(disks.read("other", 7)) is None


DISK = Disk(
    name="virtio0", removable=False, size_bytes=2**31, used_bytes=None, read_bytes=1, written_bytes=2, reads=3, writes=4
)


def test_disks_are_read_as_they_were_written(client: redis.Redis, store: Store):
    assert store.run(disks.read("acme", 7)) is None
    store.run(disks.write("acme", 7, (DISK,)))
    assert store.run(disks.read("acme", 7)) == (DISK,)
    store.run(disks.write("acme", 7, ()))
    assert store.run(disks.read("acme", 7)) == ()
    assert client.ttl("ownup:disks:acme:7") > 0


def test_every_value_has_its_place(store: Store):
    usage = Usage(*(float(2**place) for place in range(len(astuple(Usage())))))
    record(store, usage)
    assert read(store)[0].usage == usage
