"""What is encoded for Redis is decoded to the same record."""

import types
import typing
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import records
from app.core.codec import decode, encode, unpack
from app.core.records import COMMAND_MOVES, ApiKey, Command, CommandEnd, CommandState, Job, Node, Vm

RECORDS = [
    kind
    for kind in vars(records).values()
    if isinstance(kind, type)
    and is_dataclass(kind)
    and kind is not CommandEnd  # an end is written as a part of a Command
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants naive bounds
st.register_type_strategy(str, TEXT)
st.register_type_strategy(datetime, MOMENTS)
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


def stored(record: Any) -> dict[bytes, bytes]:
    """Read back what Redis would hand out."""
    return {name.encode(): value.encode() for name, value in encode(record).items()}


@pytest.mark.parametrize("kind", RECORDS)
@given(data=st.data())
def test_every_record_survives(kind: type, data: st.DataObject):
    record = data.draw(st.from_type(kind))
    assert decode(kind, stored(record)) == record


@pytest.mark.parametrize("kind", [Command, Vm])
@given(data=st.data())
def test_packed_record_is_the_same(kind: type, data: st.DataObject):
    record = data.draw(st.from_type(kind))
    packed = msgspec.msgpack.encode(encode(record) | {"colour": "blue"})
    assert unpack(kind, packed) == decode(kind, stored(record)) == record


@pytest.mark.parametrize("kind", RECORDS)
def test_every_field_has_a_type_that_can_be_stored(kind: type):
    for hint in typing.get_type_hints(kind).values():
        arms = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        assert sum(arm is not types.NoneType for arm in arms) == 1, "more than one type can't be told apart"


@given(st.from_type(Command))
def test_none_is_the_absence_of_the_field(command: Command):
    absent = {field.name for field in fields(command) if getattr(command, field.name) is None}
    assert set(encode(command)) == {field.name for field in fields(command)} - absent


@given(st.from_type(Vm))
def test_fields_of_a_newer_version_are_ignored(vm: Vm):
    assert decode(Vm, stored(vm) | {b"colour": b"blue"}) == vm


@given(st.from_type(Node))
def test_moments_are_epoch_seconds_that_a_script_can_compare(node: Node):
    assert float(encode(node)["since"]) == node.since.timestamp()


def test_missing_required_field_is_an_error():
    with pytest.raises(msgspec.ValidationError, match="vmid"):
        decode(Job, {b"id": b"start-1-1"})


def test_tuples_stay_tuples():
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    key = ApiKey(id="k", secret_sha256="", account="a", name="n", scopes=(), created_at=moment)
    assert decode(ApiKey, stored(key)).scopes == ()


def test_part_of_a_record_can_be_written():
    assert encode({"state": CommandState.RUNNING, "pid": 7, "message": None}) == {"state": "running", "pid": "7"}


class TestMoves:
    def test_every_state_has_its_row(self):
        assert set(COMMAND_MOVES) == set(CommandState)

    def test_only_queued_and_running_can_be_left(self):
        assert {state for state in CommandState if not state.ended} == {CommandState.QUEUED, CommandState.RUNNING}

    def test_what_has_run_ends_as_having_run(self):
        ran = {CommandState.EXITED, CommandState.TIMED_OUT, CommandState.CANCELLED, CommandState.LOST}
        assert COMMAND_MOVES[CommandState.RUNNING] == ran

    def test_nothing_leads_back_to_the_queue(self):
        assert all(CommandState.QUEUED not in following for following in COMMAND_MOVES.values())
