"""Wrong keys from one address, counted in a real Redis."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from app.core.env import load
from app.core.errors import RateLimitedError, StoreUnavailableError, UnauthorizedError
from app.factory import connect
from app.rates import Rates
from app.settings import WebSettings
from app.throttle import Tally
from app.tries import Tries
from tests.conftest import RedisServer

HERE, THERE = "192.0.2.1", "192.0.2.2"
NAMES = (f"{number:064x}" for number in itertools.count())
"""Digests that were never seen before."""


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(load(WebSettings, {"REDIS_URL": redis_url})) as connected:
        yield connected


def make(client: redis.Redis, rate: str = "3/minute", time_s=time.monotonic) -> Tries:
    """Make what one web process has."""
    return Tries(Tally(client), Rates.parse(rate), time_s=time_s)


def look_up() -> None:
    """Find out that a key is wrong."""
    raise UnauthorizedError


def fail(tries: Tries, address: str | None = HERE, sha256: str | None = None) -> bool:
    """Try a wrong key; tell whether it got as far as being looked up."""
    reached = False
    try:
        with tries.trying(sha256 or next(NAMES), address):
            reached = True
            look_up()
    except RateLimitedError:
        assert not reached
    except UnauthorizedError:
        assert reached
    return reached


def succeed(tries: Tries, sha256: str, address: str = HERE) -> None:
    with tries.trying(sha256, address):
        pass


def commands(client: redis.Redis) -> int:
    return client.info("stats")["total_commands_processed"]


def block(tries: Tries) -> None:
    assert [fail(tries) for _ in range(5)] == [True] * 4 + [False]  # that it was one too many is known afterwards


def test_after_so_many_wrong_keys_no_other_one_is_looked_up(client: redis.Redis):
    tries = make(client)
    block(tries)
    with pytest.raises(RateLimitedError) as caught, tries.trying(next(NAMES), HERE):
        pytest.fail("a key that may be right would be looked up")
    assert (caught.value.limit, caught.value.remaining) == (3, 0)
    assert 1 <= caught.value.retry_after_s <= 60


def test_turning_away_costs_redis_nothing(client: redis.Redis):
    tries = make(client)
    next_ms(client, tries)
    before = commands(client)
    assert not any(fail(tries) for _ in range(1000))
    assert commands(client) - before <= 1


def next_ms(client: redis.Redis, tries: Tries) -> None:
    """Block an address, over a millisecond at least: see test_throttle."""
    assert fail(tries)
    (key,) = client.keys("ownup:limit:*")
    deadline_s = time.monotonic() + 5
    while client.pttl(key) > 119_990:
        assert time.monotonic() < deadline_s
    assert [fail(tries) for _ in range(4)] == [True] * 3 + [False]


def test_a_key_that_was_right_before_is_served_all_the_same(client: redis.Redis):
    tries = make(client)
    succeed(tries, "good")
    block(tries)
    succeed(tries, "good")
    assert not fail(tries, sha256="unknown here")


def test_a_key_that_was_right_and_is_no_more_is_one_of_the_wrong_ones(client: redis.Redis):
    tries = make(client)
    succeed(tries, "good")
    block(tries)
    assert fail(tries, sha256="good")
    assert not fail(tries, sha256="good")


def test_other_addresses_are_not_affected(client: redis.Redis):
    tries = make(client)
    block(tries)
    assert fail(tries, THERE)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", HERE, True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        (None, "", True),
    ],
)
def test_whose_addresses_count_together(client: redis.Redis, one: str | None, other: str, *, together: bool):
    tries = make(client)
    assert [fail(tries, one) for _ in range(5)] == [True] * 4 + [False]
    assert fail(tries, other) is not together


def test_processes_count_together_and_each_learns_it_by_one_try(client: redis.Redis):
    first, second = make(client), make(client)
    block(first)
    assert [fail(second) for _ in range(3)] == [True, False, False]


def test_an_address_that_was_over_its_limit_is_counted_before_anything_is_looked_up(client: redis.Redis):
    now_s = [0.0]
    tries = make(client, "3/minute;1000/hour", lambda: now_s[0])
    block(tries)
    now_s[0] += 61  # it thinks that its time is over, and Redis knows better
    assert not fail(tries)


def test_an_address_is_let_in_again_when_its_time_is_over(client: redis.Redis):
    now_s = [0.0]
    tries = make(client, "2/second", lambda: now_s[0])
    assert [fail(tries) for _ in range(4)] == [True] * 3 + [False]
    deadline_s = time.monotonic() + 5
    while not fail(tries):
        now_s[0] += 0.5
        assert time.monotonic() < deadline_s
    now_s[0] += 2
    for _ in range(20):
        succeed(tries, next(NAMES))


def test_however_many_try_at_once_hardly_more_than_the_limit_are_looked_up(client: redis.Redis):
    tries = make(client, "5/minute")
    with ThreadPoolExecutor(16) as pool:
        looked_up = Counter(pool.map(lambda _turn: fail(tries), range(2000)))
    assert 5 <= looked_up[True] <= 5 + 16


def test_right_keys_are_never_counted(client: redis.Redis):
    tries = make(client)
    for _ in range(50):
        succeed(tries, next(NAMES))
    assert client.keys("ownup:limit:*") == []


def test_unlimited(client: redis.Redis):
    tries = make(client, "unlimited")
    assert all(fail(tries) for _ in range(100))
    assert client.keys() == []


def test_memory_is_bounded(client: redis.Redis):
    tries = make(client, "1000000/minute")
    for number in range(10_100):
        succeed(tries, str(number))
    assert len(tries._right._things) == 10_000


class TestRedisAway:
    def test_a_wrong_key_is_still_no_more_than_that(self, own_redis: RedisServer):
        with connect(load(WebSettings, {"REDIS_URL": own_redis.url})) as client:
            tries = make(client)
            own_redis.stop()
            assert all(fail(tries) for _ in range(10))

    def test_an_address_that_was_over_its_limit_stays_out(self, own_redis: RedisServer):
        now_s = [0.0]
        with connect(load(WebSettings, {"REDIS_URL": own_redis.url})) as client:
            tries = make(client, "3/minute;1000/hour", lambda: now_s[0])
            block(tries)
            own_redis.stop()
            assert not fail(tries)
            now_s[0] += 61
            with pytest.raises(StoreUnavailableError), tries.trying(next(NAMES), HERE):
                pytest.fail("it would be looked up")
            assert not fail(tries)
