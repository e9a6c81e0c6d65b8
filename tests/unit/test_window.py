"""How much may be asked of an agent before it has answered."""

import asyncio
import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.qga.window import Window


@contextlib.asynccontextmanager
async def room(window, size_bytes):
    taken_bytes = await window.take(size_bytes)
    try:
        yield
    finally:
        window.give(taken_bytes)


async def enter(window, size_bytes, log, name, leave):
    async with room(window, size_bytes):
        log.append(name)
        await leave.wait()


async def turn():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_fits_is_under_way_together_and_the_rest_waits():
    window, log, leave = Window(100), [], asyncio.Event()
    tasks = [asyncio.create_task(enter(window, 40, log, name, leave)) for name in "abc"]
    await turn()
    assert log == ["a", "b"]
    leave.set()
    await asyncio.gather(*tasks)
    assert log == ["a", "b", "c"]


async def test_a_request_longer_than_the_window_goes_alone_and_nobody_overtakes_it():
    window, log = Window(100), []
    leaves = {name: asyncio.Event() for name in ("small", "long", "late")}
    sizes = {"small": 10, "long": 5000, "late": 10}
    tasks = [asyncio.create_task(enter(window, sizes[name], log, name, leaves[name])) for name in leaves]
    await turn()
    assert log == ["small"]
    leaves["small"].set()
    await turn()
    assert log == ["small", "long"]
    leaves["long"].set()
    await turn()
    assert log == ["small", "long", "late"]
    leaves["late"].set()
    await asyncio.gather(*tasks)


async def test_who_gives_up_waiting_holds_nobody_up():
    window, log, leave = Window(100), [], asyncio.Event()
    first = asyncio.create_task(enter(window, 100, log, "first", leave))
    await turn()
    waiting = asyncio.create_task(enter(window, 50, log, "gone", leave))
    last = asyncio.create_task(enter(window, 50, log, "last", leave))
    await turn()
    waiting.cancel()
    leave.set()
    await asyncio.gather(first, last)
    assert log == ["first", "last"]


async def test_the_end_of_the_session_lets_everybody_through():
    window, log, leave = Window(10), [], asyncio.Event()
    tasks = [asyncio.create_task(enter(window, 10, log, number, leave)) for number in range(3)]
    await turn()
    window.open_for_all()
    await turn()
    assert log == [0, 1, 2]
    leave.set()
    await asyncio.gather(*tasks)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 300), max_size=30))
def test_never_more_than_the_window_is_under_way_and_all_get_their_turn(sizes):
    async def check():
        window, under_way, peaks = Window(100), [], []

        async def request(size_bytes):
            async with room(window, size_bytes):
                under_way.append(size_bytes)
                peaks.append(list(under_way))
                await asyncio.sleep(0)
                under_way.remove(size_bytes)

        await asyncio.gather(*map(request, sizes))
        assert len(peaks) == len(sizes)
        assert all(sum(peak) <= 100 or len(peak) == 1 for peak in peaks)

    asyncio.run(check())
