"""The threads that serve requests: which one takes what, and how they end."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

import pytest

from app.request_threads import RequestThreads

DEADLINE_S = 10.0


@pytest.fixture
def pool() -> Iterator[RequestThreads]:
    threads = RequestThreads(3)
    yield threads
    threads.shutdown()


def _hold() -> tuple[Callable[[], int], threading.Event, threading.Event]:
    """Make a call that tells when it has begun and ends when it is let go; it gives its thread's id."""
    begun, may_end = threading.Event(), threading.Event()

    def call() -> int:
        begun.set()
        assert may_end.wait(DEADLINE_S)
        return threading.get_ident()

    return call, begun, may_end


def test_a_call_gets_its_arguments_and_gives_its_result(pool: RequestThreads) -> None:
    assert pool.submit(divmod, 7, 2).result(DEADLINE_S) == (3, 1)


def test_an_error_is_given_to_who_asks_and_its_thread_goes_on(pool: RequestThreads) -> None:
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result(DEADLINE_S)
    assert pool.submit(divmod, 7, 7).result(DEADLINE_S) == (1, 0)


def test_the_thread_that_became_idle_last_takes_the_next_call(pool: RequestThreads) -> None:
    (first, first_begun, end_first), (second, second_begun, end_second) = _hold(), _hold()
    both = [pool.submit(first), pool.submit(second)]
    assert first_begun.wait(DEADLINE_S)
    assert second_begun.wait(DEADLINE_S)
    end_second.set()
    both[1].result(DEADLINE_S)
    _await_idle(pool, 1)
    end_first.set()
    last = both[0].result(DEADLINE_S)
    _await_idle(pool, 2)

    for _ in range(20):
        assert pool.submit(threading.get_ident).result(DEADLINE_S) == last
        _await_idle(pool, 2)


def test_there_are_no_more_threads_than_may_be_and_the_rest_waits_in_its_order(pool: RequestThreads) -> None:
    held = [_hold() for _ in range(3)]
    futures = [pool.submit(call) for call, _, _ in held]
    for _, begun, _ in held:
        assert begun.wait(DEADLINE_S)
    order: list[int] = []
    later = [pool.submit(order.append, number) for number in range(5)]
    assert not any(future.running() or future.done() for future in later)

    held[0][2].set()  # one thread is free, and does them one after the other
    wait(later, DEADLINE_S)
    assert order == [0, 1, 2, 3, 4]
    for _, _, may_end in held:
        may_end.set()
    assert len({future.result(DEADLINE_S) for future in futures}) == 3


def test_where_the_system_gives_no_more_threads_those_there_are_do_the_work() -> None:
    started: list[threading.Thread] = []

    def start(call: Callable[[], None]) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(threading.Thread(target=call))
        started[0].start()

    pool = RequestThreads(3, start=start)
    call, begun, may_end = _hold()
    first = pool.submit(call)
    assert begun.wait(DEADLINE_S)
    second = pool.submit(threading.get_ident)
    may_end.set()
    assert first.result(DEADLINE_S) == second.result(DEADLINE_S)
    pool.shutdown()


def test_without_a_single_thread_nothing_is_taken() -> None:
    def start(call: Callable[[], None]) -> None:
        del call
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="can't start"):
        RequestThreads(3, start=start).submit(int)


def test_a_call_that_was_taken_back_while_it_waited_is_not_made(pool: RequestThreads) -> None:
    held = [_hold() for _ in range(3)]
    for call, _, _ in held:
        pool.submit(call)
    made: list[str] = []
    taken_back: Future[None] = pool.submit(made.append, "taken back")
    kept = pool.submit(made.append, "kept")
    assert taken_back.cancel()
    for _, _, may_end in held:
        may_end.set()
    kept.result(DEADLINE_S)
    assert made == ["kept"]


def test_a_closed_pool_does_what_waits_lets_its_threads_end_and_takes_nothing() -> None:
    before = set(threading.enumerate())
    pool = RequestThreads(1)
    call, begun, may_end = _hold()
    pool.submit(call)
    waiting = pool.submit(int, "7")
    assert begun.wait(DEADLINE_S)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(int)
    may_end.set()
    assert waiting.result(DEADLINE_S) == 7
    _await(lambda: not set(threading.enumerate()) - before)


def test_closing_ends_idle_threads() -> None:
    before = set(threading.enumerate())
    pool = RequestThreads(2)
    pool.submit(int).result(DEADLINE_S)
    _await_idle(pool, 1)
    pool.shutdown()
    _await(lambda: not set(threading.enumerate()) - before)


def _await_idle(pool: RequestThreads, count: int) -> None:
    _await(lambda: len(pool._idle) == count)


def _await(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)
