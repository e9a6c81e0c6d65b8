"""The net under a test run holds: what was printed where it doesn't belong is found."""

import secrets

import pytest

from tests.canaries import Canary, Finder
from tests.net import Net

CORE = "Ab-_" * 10 + "xyz"
KEY = f"ownup_0123456789abcdef_{CORE}"


@pytest.mark.parametrize("printed", [f"key={KEY} ", f"token={CORE}\n", f"{{'a': '{KEY}'}}", f"(hidden){CORE}"])
def test_a_watched_key_is_found_and_said_where(printed: str) -> None:
    net = Net()
    net.watch_key(KEY)
    net.search("web.log", f"event=request {printed}".encode())
    assert net.findings
    assert all("in web.log, after" in finding and "event=request" in finding for finding in net.findings)


def test_a_key_is_found_though_nobody_watches_it() -> None:
    net = Net()
    net.search("web.log", KEY.encode())
    assert len(net.findings) == 1


def test_another_secret_is_found_by_its_name() -> None:
    net = Net()
    net.search("web.log", net.watch("the password", secrets.token_hex(8)).encode())
    assert net.findings == {"the password in web.log, after ''"}


def test_nothing_is_found_where_nothing_is() -> None:
    net = Net()
    net.watch_key(KEY)
    net.search("web.log", f"{KEY[:40]} (hidden) {CORE[:-1]} {'x' * 100}".encode())
    assert net.findings == set()
    assert "1 secrets watched, 193 bytes searched, 0 found" in net.summary()


def test_a_closer_search_counts_too() -> None:
    net, finder = Net(), Finder()
    finder.search("place", finder.watch(Canary.make("planted")).encode())
    net.take(finder)
    assert "1 secrets watched" in net.summary()
    assert "planted in place" in net.summary()
