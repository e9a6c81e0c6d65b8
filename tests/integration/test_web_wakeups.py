"""One subscription for all waiters, and none of them is forgotten."""

import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.core.store import WAKE_CHANNEL
from app.wakeups import Wakeups
from tests.conftest import RedisServer


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_redis.url, retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture
def wakeups(client: redis.Redis) -> Iterator[Wakeups]:
    wakeups = Wakeups(client)
    yield wakeups
    wakeups.close()


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "didn't happen"


def test_waiter_is_woken_for_its_own_record_only(client: redis.Redis, wakeups: Wakeups):
    with wakeups.expect("a") as a, wakeups.expect("b") as b:
        assert a.wait(5), "everybody is woken when the subscription stands"
        assert b.wait(5)
        client.publish(WAKE_CHANNEL, "a")
        assert a.wait(5)
        assert not b.is_set()


def test_all_waiters_share_one_subscription(client: redis.Redis, wakeups: Wakeups):
    with wakeups.expect("a") as a, wakeups.expect("b"), wakeups.expect("c"):
        assert a.wait(5)
        assert client.pubsub_numsub(WAKE_CHANNEL) == [(WAKE_CHANNEL.encode(), 1)]


def test_all_waiters_for_one_record_are_woken(client: redis.Redis, wakeups: Wakeups):
    with wakeups.expect("a") as first, wakeups.expect("a") as second:
        with wakeups.expect("a") as gone:
            assert gone.wait(5)
        assert first.wait(5)
        assert second.wait(5)
        client.publish(WAKE_CHANNEL, "a")
        assert first.wait(5)
        assert second.wait(5)
        assert not gone.is_set()


def test_news_that_need_wake_nobody_are_kept(client: redis.Redis, wakeups: Wakeups):
    with wakeups.expect("a", not_for="running") as idle, wakeups.expect("a") as awake:
        assert idle.wait(5)
        assert awake.wait(5)
        client.publish(WAKE_CHANNEL, "a running 7")
        assert awake.wait(5)
        assert (idle.is_set(), idle.news.state, idle.news.pid) == (False, "running", 7)
        client.publish(WAKE_CHANNEL, "a exited 7")
        assert idle.wait(5)


def test_nothing_is_subscribed_before_somebody_waits(client: redis.Redis, wakeups: Wakeups):
    assert wakeups._thread is None
    assert client.pubsub_numsub(WAKE_CHANNEL) == [(WAKE_CHANNEL.encode(), 0)]


def test_nothing_is_kept_of_those_who_have_left(wakeups: Wakeups):
    with pytest.raises(ZeroDivisionError), wakeups.expect("a"), wakeups.expect("a"):
        raise ZeroDivisionError
    assert wakeups._waiters == {}


def test_subscription_comes_back_after_a_restart_and_wakes_everybody(
    own_redis: RedisServer, client: redis.Redis, wakeups: Wakeups
):
    with wakeups.expect("a") as a:
        assert a.wait(5)
        own_redis.stop()
        own_redis.start()
        assert a.wait(5), "what was told meanwhile was told to nobody"
        client.publish(WAKE_CHANNEL, "a")
        assert a.wait(5)


def test_connection_that_is_cut_is_replaced(client: redis.Redis, wakeups: Wakeups):
    with wakeups.expect("a") as a:
        assert a.wait(5)
        assert client.client_kill_filter(_type="pubsub") == 1
        assert a.wait(5)
        eventually(lambda: client.pubsub_numsub(WAKE_CHANNEL)[0][1] == 1)


def test_child_of_a_fork_listens_by_itself(wakeups: Wakeups):
    with wakeups.expect("parent") as parent:
        assert parent.wait(5)
        child = os.fork()
        if child == 0:
            with wakeups.expect("child") as event:
                os._exit(0 if event.wait(5) else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0


def test_many_waiters_in_many_threads(client: redis.Redis, wakeups: Wakeups):
    def wait(number: int) -> None:
        with wakeups.expect(str(number)) as event:
            ready.wait()
            event.wait(0)
            cleared.wait()
            woken.append(event.wait(5))

    woken: list[bool] = []
    ready, cleared = threading.Barrier(21), threading.Barrier(21)
    threads = [threading.Thread(target=wait, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    eventually(lambda: client.pubsub_numsub(WAKE_CHANNEL)[0][1] == 1)
    ready.wait()
    cleared.wait()
    for number in range(20):
        client.publish(WAKE_CHANNEL, str(number))
    for thread in threads:
        thread.join()
    assert woken == [True] * 20
