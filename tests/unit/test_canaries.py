"""The search for planted secrets finds them: in every kind of place, in every spelling, and packed."""

import base64
import gzip
import json
import logging
import pickle
import zlib
from io import StringIO
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
import redis
import zstandard
from rq import Queue
from rq.serializers import JSONSerializer

from app.core.logs import LogfmtFormatter
from tests.canaries import KEY, Canary, Finder, spellings
from tests.redis_contents import everything_in, parts_in

PLANTED = Canary.make("planted", ' "ü\\%\n')


@pytest.fixture
def finder() -> Finder:
    found = Finder()
    found.watch(PLANTED)
    found.plant("never planted")
    return found


def log_line(value: str) -> bytes:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogfmtFormatter())
    handler.handle(logging.makeLogRecord({"msg": "event", "reason": value}))
    return stream.getvalue().encode()


def failed(value: str) -> bytes:
    try:
        int(value)
    except ValueError as exc:
        return repr(exc).encode()
    raise AssertionError


@pytest.mark.parametrize(
    "place",
    [
        PLANTED.text.encode(),
        log_line(PLANTED.text),
        failed(PLANTED.text),
        repr({"env": {"A": PLANTED.text}}).encode(),
        json.dumps({"details": [PLANTED.text]}).encode(),
        "".join(f"\\u{ord(char):04x}" for char in PLANTED.text).encode(),
        quote_from_bytes(PLANTED.text.encode()).encode(),
        "".join(f"%{byte:02X}" for byte in PLANTED.text.encode()).encode(),
        PLANTED.text.encode().hex().encode(),
        PLANTED.text[::-1].encode(),
        pickle.dumps({"args": (PLANTED.text,)}),
        zlib.compress(json.dumps([PLANTED.text]).encode()),
        gzip.compress(PLANTED.text.encode()),
        zstandard.ZstdCompressor(level=1).compress(PLANTED.text.encode() * 100),
        base64.b64encode(zlib.compress(pickle.dumps(PLANTED.text))),
    ],
)
def test_it_is_found_in_any_spelling(finder: Finder, place: bytes) -> None:
    assert {finding.name for finding in finder.search("here", place)} == {"planted"}
    assert finder.findings


@pytest.mark.parametrize("before", ["", "a", "ab", "abc", "abcd"])
def test_it_is_found_in_base64_whatever_stands_before_it(finder: Finder, before: str) -> None:
    for coded in (base64.b64encode, base64.urlsafe_b64encode):
        assert finder.search("here", b"x=" + coded(f"{before}{PLANTED.text}".encode()) + b" y")


def test_all_spellings_of_it_differ() -> None:
    found = spellings(PLANTED.core)
    assert len(set(found.values())) == len(found) > 12


def test_nothing_is_found_where_nothing_is(finder: Finder) -> None:
    for place in (b"", b"kn", PLANTED.core[:-1].encode(), zlib.compress(b"other" * 1000)):
        assert finder.search("here", place) == []
    assert finder.searched_bytes > 5000


def test_a_place_may_hold_what_belongs_there_and_nothing_else(finder: Finder) -> None:
    data = PLANTED.text.encode()
    assert finder.search("here", data, may_hold=("plan",)) == []
    assert finder.search("here", data, may_hold=("other",))


def test_a_finding_says_where_it_was(finder: Finder, tmp_path: Path) -> None:
    file = tmp_path / "web.log"
    file.write_bytes(b"event=request key=" + PLANTED.text.encode())
    (finding,) = finder.search_file(file)
    assert (finding.name, finding.spelling) == ("planted", "as it is")
    assert str(file) in str(finding)
    assert "event=request key=" in str(finding)


def test_an_api_key_is_known_by_its_looks() -> None:
    assert KEY.search(b"a ownup_0123456789abcdef_" + b"A-_z" * 10 + b"xyz b")


class TestRedis:
    @pytest.fixture
    def client(self, redis_url: str) -> redis.Redis:
        return redis.Redis.from_url(redis_url)

    @pytest.mark.parametrize("kind", ["string", "field", "value", "list", "set", "zset", "stream", "key", "packed"])
    def test_it_is_found_in_every_type(self, finder: Finder, client: redis.Redis, kind: str) -> None:
        text = PLANTED.text
        plant = {
            "string": lambda: client.set("a", text),
            "field": lambda: client.hset("a", text, "b"),
            "value": lambda: client.hset("a", "b", text),
            "list": lambda: client.rpush("a", text),
            "set": lambda: client.sadd("a", text),
            "zset": lambda: client.zadd("a", {text: 1}),
            "stream": lambda: client.xadd("a", {"entry": text}),
            "key": lambda: client.set(f"a:{text}", "b"),
            "packed": lambda: client.set("a", zstandard.ZstdCompressor().compress(text.encode())),
        }
        plant[kind]()
        with client:
            assert any(finder.search(key, part) for key, part in parts_in(client))
            assert PLANTED.core.encode() in everything_in(client)

    def test_it_is_found_in_an_rq_job(self, finder: Finder, client: redis.Redis) -> None:
        with client:
            Queue("q", connection=client, serializer=JSONSerializer).enqueue_call("f", args=(PLANTED.text,))
            places = [key for key, part in parts_in(client) if finder.search(key, part)]
        assert places
        assert all(place.startswith("rq:job:") for place in places)
