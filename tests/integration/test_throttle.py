"""Limits of keys, counted in a real Redis by processes that take shares of them."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from limits import RateLimitItem

from app.core.env import load
from app.core.errors import RateLimitedError, StoreUnavailableError
from app.factory import connect
from app.rates import Rates
from app.settings import WebSettings
from app.throttle import RouteClass, Tally, Throttle
from tests.conftest import RedisServer
from tests.e2e.conftest import until
from tests.redis_counts import commands_served

KEY = "0123456789abcdef"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(load(WebSettings, {"REDIS_URL": redis_url, "WEB_THREADS": "64"})) as connected:
        yield connected


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make(client: redis.Redis, reads: str, exec_: str = "unlimited", clock: Clock | None = None) -> Throttle:
    """Make what one web process has."""
    rates = {RouteClass.READS: reads, RouteClass.EXEC: exec_, RouteClass.POWER: "unlimited"}
    return Throttle(Tally(client), {name: Rates.parse(text) for name, text in rates.items()}, time_s=clock or Clock())


def is_let_through(throttle: Throttle, key_id: str = KEY, route_class: RouteClass = RouteClass.READS) -> bool:
    try:
        throttle.spend(key_id, route_class)
    except RateLimitedError:
        return False
    return True


def spend_all(client: redis.Redis, throttle: Throttle, limit: int) -> None:
    """Use a limit up, over a millisecond at least: within the first one the library sees no time at all to wait for."""
    assert is_let_through(throttle)
    (key,) = client.keys("ownup:limit:*")
    deadline_s = time.monotonic() + 5
    while client.pttl(key) > 119_990:
        assert time.monotonic() < deadline_s
    assert [is_let_through(throttle) for _ in range(limit)] == [True] * (limit - 1) + [False]


@pytest.mark.parametrize("limit", [1, 5, 60, 199])
def test_a_small_limit_is_kept_to_the_single_request_by_all_processes_together(client: redis.Redis, limit: int):
    processes = [make(client, f"{limit}/minute") for _ in range(3)]
    let_through = [is_let_through(processes[turn % 3]) for turn in range(limit + 10)]
    assert let_through == [True] * limit + [False] * 10


@pytest.mark.parametrize("limit", [200, 600, 6000])
def test_a_large_limit_is_never_exceeded_and_hardly_underused(client: redis.Redis, limit: int):
    processes = [make(client, f"{limit}/hour") for _ in range(3)]
    let_through = sum(is_let_through(processes[turn % 3]) for turn in range(limit + 300))
    assert limit * 0.97 <= let_through <= limit


def test_what_is_left_can_be_spent_to_the_last_one_by_one_process(client: redis.Redis):
    throttle = make(client, "1000/hour")
    assert sum(is_let_through(throttle) for _ in range(1200)) == 1000


def test_threads_never_exceed_it_together(client: redis.Redis):
    processes = [make(client, "600/hour") for _ in range(2)]
    with ThreadPoolExecutor(24) as pool:
        outcomes = Counter(pool.map(lambda turn: is_let_through(processes[turn % 2]), range(1500)))
    assert 0.9 * 600 <= outcomes[True] <= 600


def test_redis_is_asked_once_for_many_requests(client: redis.Redis):
    throttle = make(client, "6000/minute")
    before = commands_served(client)["script"]
    assert all(is_let_through(throttle) for _ in range(2000))
    asked = commands_served(client)["script"] - before
    assert asked <= 6 + 2000 / 60 + 2


class HeldTally(Tally):
    """Notes what is taken; once it is told so, each one's taking goes on when it may."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.costs: list[int] = []
        self.may_go_on: dict[bool, threading.Event] = {}

    def take(self, limit: RateLimitItem, *whose: str, cost: int = 1) -> bool:
        self.costs.append(cost)
        if self.may_go_on:
            assert self.may_go_on[cost > 1].wait(5)
        return super().take(limit, *whose, cost=cost)


def test_who_asks_beside_the_one_that_takes_a_share_does_not_make_the_next_one_small(client: redis.Redis):
    tally = HeldTally(client)
    throttle = Throttle(tally, {name: Rates.parse("600000/minute") for name in RouteClass}, time_s=Clock())
    for _ in range(1 + 2 + 4 + 8):
        throttle.spend(KEY, RouteClass.READS)
    tally.may_go_on = {True: threading.Event(), False: threading.Event()}
    with ThreadPoolExecutor(2) as pool:
        taker = pool.submit(throttle.spend, KEY, RouteClass.READS)
        until(5, "it takes a share", lambda: tally.costs[-1] == 16)
        other = pool.submit(throttle.spend, KEY, RouteClass.READS)
        until(5, "the other one takes one", lambda: tally.costs[-1] == 1)
        for each in (taker, other):
            tally.may_go_on[each is taker].set()
            each.result(5)
    for _ in range(16):
        throttle.spend(KEY, RouteClass.READS)
    assert tally.costs == [1, 2, 4, 8, 16, 1, 32]


def test_what_was_asked_for_once_takes_no_more_than_one(client: redis.Redis):
    assert is_let_through(make(client, "6000/minute"))
    assert sum(is_let_through(make(client, "6000/minute"), KEY) for _ in range(50)) == 50
    (key,) = client.keys("ownup:limit:*")
    assert int(client.get(key)) == 51


def test_who_is_refused_costs_redis_next_to_nothing(client: redis.Redis):
    throttle = make(client, "5/minute")
    spend_all(client, throttle, 5)
    before = client.info("stats")["total_commands_processed"]
    assert not any(is_let_through(throttle) for _ in range(1000))
    assert client.info("stats")["total_commands_processed"] - before <= 2


def test_a_refusal_says_how_many_are_allowed_and_when_the_next_one_will_be(client: redis.Redis):
    throttle = make(client, "3/minute")
    spend_all(client, throttle, 3)
    refusals = []
    for _ in range(2):  # the second one is from memory
        with pytest.raises(RateLimitedError) as caught:
            throttle.spend(KEY, RouteClass.READS)
        refusals.append(caught.value)
    for refusal in refusals:
        assert (refusal.limit, refusal.remaining) == (3, 0)
        assert 55 <= refusal.retry_after_s <= 60
        assert -1 < refusal.reset.timestamp() - time.time() - refusal.retry_after_s <= 0
        assert refusal.reset.utcoffset().total_seconds() == 0


def test_after_the_time_it_names_a_request_is_let_through(client: redis.Redis):
    clock = Clock()
    throttle = make(client, "2/second", clock=clock)
    assert [is_let_through(throttle) for _ in range(3)] == [True, True, False]
    with pytest.raises(RateLimitedError) as caught:
        throttle.spend(KEY, RouteClass.READS)
    deadline_s = time.monotonic() + 2 * caught.value.retry_after_s
    while not is_let_through(throttle):
        clock.now_s += 1
        assert time.monotonic() < deadline_s
    assert time.time() >= caught.value.reset.timestamp() - 0.01


def test_each_key_and_each_class_has_its_own(client: redis.Redis):
    throttle = make(client, "1/minute", "2/minute")
    assert [is_let_through(throttle) for _ in range(2)] == [True, False]
    assert [is_let_through(throttle, "another") for _ in range(2)] == [True, False]
    assert [is_let_through(throttle, KEY, RouteClass.EXEC) for _ in range(3)] == [True, True, False]
    assert all(is_let_through(throttle, KEY, RouteClass.POWER) for _ in range(100))


def test_of_several_limits_each_holds(client: redis.Redis):
    throttle = make(client, "3/second;4/hour")
    assert [is_let_through(throttle) for _ in range(4)] == [True, True, True, False]
    other = make(client, "100/second;4/hour")
    assert [is_let_through(other, "another") for _ in range(6)] == [True] * 4 + [False] * 2


def test_a_share_lapses_with_the_time_of_its_limit(client: redis.Redis):
    clock = Clock()
    throttle = make(client, "6000/minute", clock=clock)
    assert all(is_let_through(throttle) for _ in range(20))
    clock.now_s += 61
    before = commands_served(client)["script"]
    assert is_let_through(throttle)
    assert commands_served(client)["script"] == before + 1


def test_everything_it_keeps_in_redis_expires(client: redis.Redis):
    throttle = make(client, "5/minute", "600/minute")
    for _ in range(7):
        is_let_through(throttle)
        is_let_through(throttle, KEY, RouteClass.EXEC)
    keys = client.keys()
    assert keys
    assert all(key.startswith(b"ownup:limit:") and 0 < client.ttl(key) <= 120 for key in keys)


class TestRedisAway:
    def test_what_was_taken_can_be_spent_and_then_the_store_is_away(self, own_redis: RedisServer):
        with connect(load(WebSettings, {"REDIS_URL": own_redis.url, "REDIS_TIMEOUT_S": "0.5"})) as client:
            throttle = make(client, "6000/minute")
            for _ in range(8):  # 1 + 2 + 4 are spent, and 1 of the next 8
                throttle.spend(KEY, RouteClass.READS)
            own_redis.stop()
            for _ in range(7):
                throttle.spend(KEY, RouteClass.READS)
            for _ in range(2):
                with pytest.raises(StoreUnavailableError):
                    throttle.spend(KEY, RouteClass.READS)
            own_redis.start()
            throttle.spend(KEY, RouteClass.READS)

    def test_nobody_waits_for_somebody_else_who_waits_for_redis(self, own_redis: RedisServer):
        """Those of one key wait side by side, and those of another one that has something left don't wait at all."""
        environ = {"REDIS_URL": own_redis.url, "REDIS_TIMEOUT_S": "1"}
        with connect(load(WebSettings, environ)) as client, own_redis.client() as other:
            throttle = make(client, "6000/minute")
            for _ in range(8):
                throttle.spend("rich", RouteClass.READS)
            other.execute_command("CLIENT", "PAUSE", "5000", "ALL")
            began_s = time.monotonic()
            barrier = threading.Barrier(9)

            def wait(_turn: int) -> float:
                barrier.wait()
                with pytest.raises(StoreUnavailableError):
                    throttle.spend("poor", RouteClass.READS)
                return time.monotonic() - began_s

            with ThreadPoolExecutor(8) as pool:
                waits = pool.map(wait, range(8))
                barrier.wait()
                for _ in range(7):
                    throttle.spend("rich", RouteClass.READS)
                rich_s = time.monotonic() - began_s
                assert max(waits) < 3
            assert rich_s < 0.9
            own_redis.stop()
