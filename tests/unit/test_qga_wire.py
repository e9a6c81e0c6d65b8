"""The guest agent's protocol as bytes and shapes."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import AgentProtocolError
from workers.qga import wire

ERROR_LINE = b'{"error": {"class": "GenericError", "desc": "JSON parse error, stray \'\\\\xff\'"}}\n'
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


def reply(sync_id):
    return wire.SENTINEL + json.dumps({"return": sync_id}).encode() + b"\n"


def test_a_sync_request_resets_the_parser_first():
    assert wire.dump_sync(7)[:1] == wire.SENTINEL
    assert json.loads(wire.dump_sync(7)[1:]) == {"execute": "guest-sync-delimited", "arguments": {"id": 7}}


def test_sync_ids_are_positive_int64_and_differ():
    made = {wire.make_sync_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(0 <= sync_id < 2**62 for sync_id in made)


@given(junk=st.binary(max_size=300).filter(lambda data: b"\n" not in data), data=st.data())
def test_the_sync_reply_is_found_behind_junk_and_in_any_pieces(junk, data):
    stale = junk + b"\n" + reply(41) + b'{"return": {"pid": 103}, "id": "x"}\n' + ERROR_LINE
    stream = stale + reply(42)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    scanner = wire.SyncScanner(42)
    found = [scanner.feed(piece) for piece in pieces if piece]
    assert found[-1] is True
    assert not any(found[:-1])
    assert scanner.discarded_bytes == len(stale)


def test_a_reply_without_sentinel_is_not_a_sync():
    assert wire.SyncScanner(42).feed(b'{"return": 42}\n') is False


def test_another_sync_id_is_not_a_sync():
    assert wire.SyncScanner(42).feed(reply(43)) is False


def test_bytes_behind_the_sync_reply_are_refused():
    with pytest.raises(AgentProtocolError):
        wire.SyncScanner(42).feed(reply(42) + b'{"return": {}}\n')


def test_an_endless_line_after_a_sentinel_takes_no_memory():
    scanner = wire.SyncScanner(42)
    scanner.feed(wire.SENTINEL)
    for _ in range(100):
        scanner.feed(b"x" * 65536)
    assert len(scanner._tail) < 10_000
    assert scanner.feed(b"\n" + reply(42)) is True


def test_the_scanner_survives_deep_json():
    scanner = wire.SyncScanner(42)
    assert scanner.feed(wire.SENTINEL + b"[" * 4000 + b"\n") is False
    assert scanner.feed(reply(42)) is True


def test_exec_arguments_capture_output_and_replace_the_environment():
    assert wire.dump_exec("/bin/sh", ["-c", "true"], {"HOME": "/root", "A": "b=c"}) == {
        "path": "/bin/sh",
        "arg": ["-c", "true"],
        "capture-output": True,
        "env": ["HOME=/root", "A=b=c"],
    }


def test_without_an_environment_the_agents_own_is_inherited():
    assert "env" not in wire.dump_exec("cmd.exe", [], None)


def test_a_running_command_has_no_result():
    assert wire.load_exec_status({"exited": False}) == wire.ExecStatus(exited=False)


@given(stdout=st.binary(), stderr=st.binary(), code=st.integers(0, 255))
def test_output_is_bytes_again(stdout, stderr, code):
    raw = {"exited": True, "exitcode": code}
    raw |= {"out-data": base64.b64encode(stdout).decode()} if stdout else {}
    raw |= {"err-data": base64.b64encode(stderr).decode()} if stderr else {}
    status = wire.load_exec_status(raw)
    assert (status.stdout, status.stderr, status.exit_code, status.signal) == (stdout, stderr, code, None)
    assert not status.out_truncated
    assert not status.err_truncated


@pytest.mark.parametrize(
    ("size", "flag", "truncated"),
    [
        (10, None, False),
        (10, False, False),
        (10, True, True),
        (wire.STREAM_LIMIT_BYTES, True, True),
        (wire.STREAM_LIMIT_BYTES, False, True),
        (wire.STREAM_LIMIT_BYTES, None, False),
    ],
    ids=["old-short", "new-short", "new-cut", "new-full", "old-cut", "old-full"],
)
def test_truncation_is_seen_on_old_and_new_agents(size, flag, truncated):
    raw = {"exited": True, "exitcode": 0, "out-data": base64.b64encode(b"x" * size).decode()}
    if flag is not None:
        raw["out-truncated"] = flag
    assert wire.load_exec_status(raw).out_truncated is truncated


FULL = base64.b64encode(bytes(wire.STREAM_LIMIT_BYTES)).decode()


def full_reply(**more):
    return {"exited": True, "exitcode": 0, "out-data": FULL, "out-truncated": False, **more}


def test_a_full_stream_of_an_agent_that_is_known_to_be_fixed_is_not_cut():
    status = wire.load_exec_status(full_reply(), flags_fixed=True)
    assert (status.out_truncated, status.flags_fixed) == (False, True)


def test_a_flag_beside_a_short_stream_shows_a_fixed_agent():
    """Before the fix the flag stood there only when output was cut, so never beside a short stream."""
    status = wire.load_exec_status(full_reply(**{"err-data": "eA==", "err-truncated": False}))
    assert (status.out_truncated, status.flags_fixed) == (False, True)


def test_a_short_stream_without_flag_shows_nothing():
    status = wire.load_exec_status(full_reply(**{"err-data": "eA=="}))
    assert (status.out_truncated, status.flags_fixed) == (True, False)


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ("10.2.0", True),
        ("11.0.1", True),
        ("10.1.9", False),
        ("7.2.22", False),
        ("10", False),
        ("x.y", False),
        ("", False),
    ],
)
def test_agents_from_10_2_on_are_fixed(version, fixed):
    assert wire.has_fixed_flags(version) is fixed


def test_more_than_an_agent_keeps_is_cut_and_flagged():
    raw = {"exited": True, "exitcode": 0, "out-data": base64.b64encode(bytes(wire.STREAM_LIMIT_BYTES + 3000)).decode()}
    status = wire.load_exec_status(raw)
    assert status.out_truncated
    assert len(status.stdout) >= wire.STREAM_LIMIT_BYTES


def line(**reply):
    return json.dumps(reply).encode() + b"\n"


@given(stdout=st.binary(), stderr=st.binary(), times=st.sampled_from([1, 300_000]))
def test_long_and_short_replies_are_read_alike(stdout, stderr, times):
    raw = {"exited": True, "exitcode": 3, "signal-or": ["other", {"members": "too"}]}
    raw |= {
        "out-data": base64.b64encode(stdout * times).decode(),
        "err-data": base64.b64encode(stderr * times).decode(),
    }
    reply = wire.load_reply(line(**{"return": raw, "id": "x-1"}))
    assert reply["id"] == "x-1"
    status = wire.load_exec_status(reply["return"])
    assert (status.stdout, status.stderr, status.exit_code) == (stdout * times, stderr * times, 3)


def test_what_is_no_reply_is_none():
    for text in (b"", b"\n", b"[]\n", b"nonsense\n", b'"out-data"\n', b"[" * 100_000, b"\xff\xfe\n"):
        assert wire.load_reply(text) is None


def test_nothing_but_output_may_be_long():
    long = "A" * wire.SMALL_REPLY_BYTES
    assert wire.load_reply(line(**{"return": {"buf-b64": long}})) is None
    assert wire.load_reply(line(**{"return": {"exited": True, "out-data": [long]}})) is None
    assert wire.load_reply(b'{"return": [' + b"[]," * wire.SMALL_REPLY_BYTES + b"[]]}\n") is None
    assert wire.load_reply(b'{"return": {"out-data": "' + long.encode()) is None


@given(junk=st.binary(max_size=200), long=st.booleans())
def test_whatever_stands_in_a_line_is_read_or_refused(junk, long):
    wire.load_reply(b'{"return": {"out-data": "' + b"A" * (wire.SMALL_REPLY_BYTES * long) + junk)


def test_only_enabled_rpcs_count():
    info = wire.load_info({
        "version": "7.2.22",
        "supported_commands": [
            {"name": "guest-exec", "enabled": False, "success-response": True},
            {"name": "guest-ping", "enabled": True, "success-response": True},
        ],
    })
    assert info == wire.AgentInfo("7.2.22", frozenset({"guest-ping"}))


@given(raw=JSON_VALUES)
def test_whatever_the_far_end_returns_is_read_or_refused(raw):
    for load in (wire.load_pid, wire.load_exec_status, wire.load_info):
        try:
            load(raw)
        except AgentProtocolError:
            continue


@given(
    raw=st.fixed_dictionaries(
        {"exited": JSON_VALUES | st.just(value=True)},
        optional=dict.fromkeys(
            ("exitcode", "signal", "out-data", "err-data", "out-truncated", "err-truncated"), JSON_VALUES
        ),
    )
)
def test_whatever_an_exec_status_holds_is_read_or_refused(raw):
    try:
        status = wire.load_exec_status(raw)
    except AgentProtocolError:
        return
    assert isinstance(status.stdout, bytes)
    assert status.exit_code is None or type(status.exit_code) is int
