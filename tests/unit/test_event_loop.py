"""The waits of the worker's event loop."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from selectors import EVENT_READ, SelectorKey

import pytest

from workers.event_loop import ExactSelector, make_event_loop


@pytest.fixture
def selector() -> Iterator[ExactSelector]:
    with ExactSelector() as made:
        yield made


@pytest.fixture
def writing(selector: ExactSelector) -> Iterator[int]:
    """Watch the other end of a pipe."""
    reading, writing = os.pipe()
    selector.register(reading, EVENT_READ, "pipe")
    yield writing
    os.close(reading)
    os.close(writing)


def told(found: list[tuple[SelectorKey, int]]) -> list[tuple[str, int]]:
    return [(key.data, events) for key, events in found]


def test_a_wait_of_less_than_a_millisecond_takes_no_whole_one(selector: ExactSelector) -> None:
    def wait_s() -> float:
        began_s = time.perf_counter()
        assert selector.select(0.0002) == []
        return time.perf_counter() - began_s

    assert 0.0002 <= min(wait_s() for _ in range(200)) < 0.001


def test_a_pause_of_the_loop_takes_no_whole_millisecond_either() -> None:
    async def pause_s() -> float:
        began_s = time.perf_counter()
        await asyncio.sleep(0.0002)
        return time.perf_counter() - began_s

    with asyncio.Runner(loop_factory=make_event_loop) as runner:
        assert 0.0002 <= min(runner.run(pause_s()) for _ in range(200)) < 0.001


@pytest.mark.parametrize("timeout_s", [None, -1, 0, 0.001, 0.1])
def test_what_is_ready_is_told_at_once(selector: ExactSelector, writing: int, timeout_s: float | None) -> None:
    assert selector.select(0) == []
    os.write(writing, b"x")
    assert told(selector.select(timeout_s)) == [("pipe", EVENT_READ)]


def test_what_gets_ready_meanwhile_ends_a_short_wait(selector: ExactSelector, writing: int) -> None:
    threading.Timer(0.005, os.write, (writing, b"x")).start()
    found: list[tuple[SelectorKey, int]] = []
    while not found:
        found = selector.select(0.003)
    assert told(found) == [("pipe", EVENT_READ)]
