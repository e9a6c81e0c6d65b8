"""Whatever bytes a guest sends, its agent's protocol makes replies, values or `AgentProtocolError` of them.

Pure: no socket, no time. What is read is also fit for what comes after: it can be written to JSON and to UTF-8.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

from hypothesis import given, note
from hypothesis import strategies as st

from app.core.errors import AgentProtocolError
from tests.fuzz.budget import PATIENT, Tally, examples
from tests.fuzz.json_text import CHANGES, TEXTS, Change
from workers.qga import settings, wire

pytestmark = PATIENT

SYNC_ID = 2**61 + 12345
LONGEST_S = 2.0
"""What one input may take on a busy machine: 1 MB of anything is read in a tenth of it."""
NOTED_BYTES = 1000
INT64 = range(-(2**63), 2**63)

REPLIES: list[tuple[Callable[[Any], Any], Any]] = [
    (wire.load_pid, {"pid": 4711}),
    (wire.load_exec_status, {"exited": False}),
    (
        wire.load_exec_status,
        {"exited": True, "exitcode": 0, "out-data": "aGk=", "err-data": "", "out-truncated": False},
    ),
    (wire.load_exec_status, {"exited": True, "signal": 9, "err-data": "aGk=", "err-truncated": True}),
    (wire.load_info, {"version": "7.2.22", "supported_commands": [{"name": "guest-exec", "enabled": True}]}),
    (settings.load_hostname, {"host-name": "web-1"}),
    (settings.load_ssh_keys, {"keys": ["ssh-ed25519 AAAA ann", ""]}),
]
"""What reads a reply's `return`, and a good one."""

CHUNKS = st.lists(
    st.binary(max_size=64)
    | st.sampled_from([
        wire.SENTINEL,
        b"\n",
        b"\xff\n" * 2000,
        str(SYNC_ID).encode(),
        b'{"return": %d}\n' % SYNC_ID,
        b'\xff{"return": %d}\n' % SYNC_ID,
        b'\xff{"return": %d' % SYNC_ID,
        b'\xff{"return": %d.0}\n' % SYNC_ID,
        b"\xff[%d]\n" % SYNC_ID,
        b"\xff" + b"[" * 100_000 + b"%d\n" % SYNC_ID,
        b"\xff" + b"9" * 5000 + b"%d\n" % SYNC_ID,
        (b"%d\n" % SYNC_ID) * 1000,
    ])
    | TEXTS,
    max_size=12,
)


def is_plain(value: Any) -> bool:
    """Tell whether a value can go on its way: no number beyond 64 bits, nothing that JSON or UTF-8 can't hold."""
    if isinstance(value, int):
        return value in INT64
    if isinstance(value, str):
        return bool(value.encode(errors="replace")) or not value
    if isinstance(value, list | tuple | frozenset):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bytes)


def parts(value: Any) -> list[Any]:
    return list(dataclasses.asdict(value).values()) if dataclasses.is_dataclass(value) else [value]  # type: ignore[arg-type]


def load(tally: Tally, load_return: Callable[[Any], Any], line: bytes) -> None:
    """Read a line as a session and its caller do."""
    note(repr(line[:NOTED_BYTES]))
    reply = wire.load_reply(line)
    if reply is None:
        tally.add("no reply")
        return
    assert isinstance(reply, dict)
    try:
        value = load_return(reply.get("return"))
    except AgentProtocolError:
        tally.add("refused")
        return
    tally.add("read")
    assert all(map(is_plain, parts(value))), value


@examples(1000)
@given(changes=st.lists(st.tuples(CHANGES, st.sampled_from(REPLIES)), min_size=10, max_size=10))
def test_agent_replies(tally: Tally, changes: list[tuple[Change, tuple[Callable[[Any], Any], Any]]]) -> None:
    for change, (load_return, good) in changes:
        began_s = time.process_time()
        load(tally, load_return, change(json.dumps({"return": good, "id": "x-1"}).encode() + b"\n"))
        assert time.process_time() - began_s < LONGEST_S


@examples(150)
@given(change=CHANGES, reply=st.sampled_from(REPLIES), padding=st.sampled_from([b"A", b"\xff", b"[", b'"', b"\\u"]))
def test_agent_replies_that_are_long(
    tally: Tally, change: Change, reply: tuple[Callable[[Any], Any], Any], padding: bytes
) -> None:
    load_return, good = reply
    line = json.dumps({"return": good | {"out-data": "@"}, "id": "x-1"}).encode() + b"\n"
    load(tally, load_return, change(line.replace(b"@", padding * wire.SMALL_REPLY_BYTES)))


@examples(1500)
@given(chunks=CHUNKS)
def test_bytes_before_the_agent_is_in_step(tally: Tally, chunks: list[bytes]) -> None:
    scanner, began_s = wire.SyncScanner(SYNC_ID), time.process_time()
    try:
        in_step = any(scanner.feed(chunk) for chunk in chunks)  # as a session does, to the first that says so
    except AgentProtocolError:
        tally.add("refused")
    else:
        tally.add("in step" if in_step else "not in step")
    assert len(scanner._tail) <= 4096
    assert 0 <= scanner.discarded_bytes <= sum(map(len, chunks))
    assert time.process_time() - began_s < LONGEST_S


@examples(150)
@given(junk=st.lists(st.binary(max_size=64) | TEXTS, max_size=6), data=st.data())
def test_an_agent_is_found_behind_any_junk(tally: Tally, junk: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(junk) + b"\n" + wire.SENTINEL + b'{"return": %d}\n' % SYNC_ID
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    scanner = wire.SyncScanner(SYNC_ID)
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [scanner.feed(piece) for piece in pieces if piece][-1]
    tally.add("found")
