"""Whatever is sent to a route of any face, the answer is one of that face; nothing breaks, and nothing refused stays.

The web half is asked in process, on a real Redis; what the routes are comes from the application itself.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, note, seed
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from tests.fuzz.budget import FACTOR, PATIENT, Tally, examples
from tests.fuzz.json_text import CHANGES, NASTY, Change
from tests.fuzz.operations import Operation, read_operations
from tests.fuzz.scene import EagerWorker, Scene

pytestmark = PATIENT

BODIES, PARAMETERS = 150, 40
"""So many for each route."""
NOTED_CHARS = 2000

ODD_BYTES = st.sampled_from([
    b"", b"0", b"-1", b"1e3", b"9" * 19, b"9" * 400, b"\xff", b"\xed\xa0\x80", b"\x00", b"a\x00b", b"../..", b"%",
    b"%00", b" ", b"\n", b"\xe2\x80\xae", b"\xc2\xb2", b"\xd9\xa3", b"null", b"*", b"'", b"{}", b"x" * 5000, b"/",
    b"//", b"current", b"1.0", b"+1", b"?#", b"base64", b"true", b"False", b"2026-02-10T00:00:00Z",
]) | st.binary(max_size=12)  # fmt: skip
ODD_TEXTS = ODD_BYTES.map(lambda raw: raw.decode("latin-1").translate({10: " ", 13: " ", 0: " "}))
"""For headers: a web server lets neither line feeds nor NUL through."""
HEADERS = st.dictionaries(
    st.sampled_from([
        "Idempotency-Key", "Content-Type", "Accept", "Authorization", "X-API-Key", "X-Auth-Token", "X-Subject-Token",
        "OpenStack-API-Version", "X-OpenStack-Nova-API-Version", "Host", "X-Forwarded-For", "X-Forwarded-Proto",
        "X-Request-Id", "Content-Encoding", "Range", "If-None-Match", "If-Modified-Since", "Cookie", "Origin",
    ]),
    ODD_TEXTS
    | st.none()
    | st.sampled_from([
        "application/json; charset=utf-16", "application/json; charset=\xff", "text/plain", "application/x+json",
        "multipart/form-data", "multipart/form-data; boundary=", "application/x-www-form-urlencoded", "Bearer ",
        "Bearer a b", "Basic Og==", "Basic \xff", "Bearer ownup_0123456789abcdef_x", "ownup__", "ownup_\xff_\xff",
        "compute 2.1",
        "compute 9999.9999", "compute", "bytes=0-0", "bytes=5-1", "[::1", "a:b:c", "x" * 300, "gzip",
    ]),
    max_size=2,
)  # fmt: skip
METHODS = st.sampled_from(
    [None] * 12 + ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "X"]
)
QUERY_TEXTS = ODD_BYTES.map(lambda raw: quote(raw, safe="%+*'/?:@").encode())
"""A web server lets only printable ASCII through."""


@pytest.fixture
def scene(redis_url: str) -> Iterator[Scene]:
    with EagerWorker(redis_url), Scene(redis_url) as scene:
        scene.set_up()
        yield scene


def queries(operation: Operation) -> st.SearchStrategy[bytes]:
    """Make queries of known names, of others, or of none."""
    names = st.sampled_from([*(name.encode() for name in operation.parameters), b"pid", b"x", b"", b"limit", b"%00"])
    pairs = st.tuples(names, QUERY_TEXTS).map(b"=".join)
    return st.lists(pairs, max_size=3).map(b"&".join) | QUERY_TEXTS | st.just(b"")


def try_often(count: int, operation: Operation, attempt: Callable[[Any], None], tried: st.SearchStrategy[Any]) -> None:
    """Try a route with generated inputs: always the same ones, but for a long run, and other ones for each route."""

    def one(given_input: Any) -> None:
        note(f"{operation.label}: {given_input!r:.{NOTED_CHARS}}")
        attempt(given_input)

    chosen = examples(count)(given(given_input=tried)(one))
    (seed(zlib.crc32(operation.label.encode()))(chosen) if FACTOR == 1 else chosen)()


class Watch:
    """Checks each answer, and that what was refused has left nothing behind."""

    def __init__(self, tally: Tally, scene: Scene) -> None:
        self._tally = tally
        self._scene = scene
        self._records = scene.records()
        self.left = 0

    def look(self, operation: Operation, response: TestResponse) -> None:
        self._scene.check(operation, response)
        self._tally.add(f"{response.status_code // 100}xx")
        records = self._scene.records()
        if 400 <= response.status_code < 500:
            assert not records - self._records, (response.status_code, response.data, records - self._records)
        self.left += len(records - self._records)
        self._records = records


def test_json_bodies_of_every_face(tally: Tally, scene: Scene) -> None:
    operations = [operation for operation in read_operations(scene.web.app) if operation.body is not None]
    refused, left = {}, 0
    for operation in operations:
        scene.set_up()
        query = scene.query(operation)
        first = scene.ask(operation, body=scene.body(operation), query=query)
        scene.check(operation, first)
        if first.status_code >= 400:
            refused[operation.label] = first.data[:300]
        watch = Watch(tally, scene)

        def attempt(
            chosen: tuple[list[Change], dict[str, str | None]],
            operation: Operation = operation,
            query: bytes = query,
            watch: Watch = watch,
        ) -> None:
            changes, headers = chosen
            body = scene.body(operation) or b""
            for change in changes:
                body = change(body)
            watch.look(operation, scene.ask(operation, body=body, query=query, headers=headers))

        bodies = st.lists(CHANGES, min_size=1, max_size=2)
        try_often(BODIES, operation, attempt, st.tuples(bodies, st.just({}) | st.just({}) | HEADERS))
        left += watch.left
    # What is changed was good: else nothing behind the first check would ever be reached.
    assert len(operations) > 10
    assert len(refused) <= len(operations) / 5, refused
    assert left


def test_parameters_of_every_face(tally: Tally, scene: Scene) -> None:
    operations = read_operations(scene.web.app)
    for operation in operations:
        scene.set_up()
        watch = Watch(tally, scene)
        names = [name for name in scene.known if f"{{{name}}}" in operation.path] or ["none"]

        def attempt(
            chosen: tuple[dict[str, bytes], bytes, dict[str, str | None], str | None],
            operation: Operation = operation,
            watch: Watch = watch,
        ) -> None:
            parts, query, headers, method = chosen
            path = scene.path(operation, parts)
            response = scene.ask(
                operation, body=scene.body(operation), method=method, path=path, query=query, headers=headers
            )
            watch.look(operation, response)

        parts: st.SearchStrategy[dict[str, bytes]] = st.just({}) | st.dictionaries(
            st.sampled_from(names), ODD_BYTES, max_size=2
        )
        try_often(PARAMETERS, operation, attempt, st.tuples(parts, queries(operation), HEADERS, METHODS))
    assert len(operations) > 50


def test_paths_of_no_face(tally: Tally, scene: Scene) -> None:
    nothing = Operation("GET", "/")
    bases = [
        b"",
        b"/",
        b"/api",
        b"/api/",
        b"/api/v2",
        b"/api/v2/",
        b"/v2.1/",
        b"/identity/",
        b"/identity/v3/auth/",
        b"//",
        b"/docs/assets/",
    ]

    def attempt(chosen: tuple[bytes, bytes, bytes, str | None]) -> None:
        base, rest, query, method = chosen
        response = scene.ask(nothing, method=method, path=base + rest, query=query)
        scene.check(nothing, response)
        tally.add(f"{response.status_code // 100}xx")

    paths = st.tuples(st.sampled_from(bases), ODD_BYTES, QUERY_TEXTS, METHODS)
    try_often(600, nothing, attempt, paths)


def test_nasty_texts_as_the_body_of_every_route(tally: Tally, scene: Scene) -> None:
    """Each nasty text once as the whole body of each route that takes one."""
    for operation in read_operations(scene.web.app):
        if operation.body is None:
            continue
        watch = Watch(tally, scene)
        for text in NASTY:
            body = text.encode(errors="surrogatepass")
            response = scene.ask(operation, body=body)
            watch.look(operation, response)
            if not isinstance(_loaded(body), dict | type(None)):
                assert 400 <= response.status_code < 500


def _loaded(body: bytes) -> Any:
    try:
        return json.loads(body or b"null")
    except (ValueError, RecursionError):
        return "nothing"
