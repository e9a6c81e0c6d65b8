"""Many threads of a web process that ask Redis at the same time."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.core.store import Call
from tests.web import Web

CROWD = 300


@pytest.fixture
def web(redis_url: str) -> Iterator[Web]:
    application = Web(redis_url, REDIS_TIMEOUT_S="20")
    yield application
    application.close()


def all_at_once(ask: Callable[[int], object]) -> list[object]:
    """Let all of them ask something that Redis takes a second for."""
    together = threading.Barrier(CROWD)

    def wait_and_ask(number: int) -> object:
        together.wait(20)
        return ask(number)

    with ThreadPoolExecutor(CROWD) as threads:
        return list(threads.map(wait_and_ask, range(CROWD)))


def ask_alone(web: Web, number: int) -> object:
    return web.store.run(Call(("BLPOP", f"nothing-{number}", "1"), lambda reply: reply))


def ask_with_others(web: Web, number: int) -> object:
    with web.client.pipeline(transaction=False) as pipe:
        pipe.blpop(f"nothing-{number}", timeout=1)
        return pipe.execute()


def test_nobody_is_turned_away_however_the_others_ask(web: Web):
    assert all_at_once(lambda number: ask_alone(web, number)) == [None] * CROWD
    assert all_at_once(lambda number: ask_with_others(web, number)) == [[None]] * CROWD
    assert all_at_once(lambda number: ask_alone(web, number)) == [None] * CROWD


def test_connections_of_a_crowd_are_used_again(web: Web):
    for _ in range(2):
        all_at_once(lambda number: ask_alone(web, number))
        all_at_once(lambda number: ask_with_others(web, number))
    assert web.client.info("clients")["connected_clients"] <= CROWD + 32
