"""Virtuozzo's documented answer goes through our schema, in and out, unchanged; and our own answers have its fields."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.api.openstack import guest_agent_bodies as bodies
from app.api.openstack.guest_agent_schemas import CommandsAnswer
from app.core import ids
from app.core.records import Command, CommandKind, CommandState

DOCUMENTED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "virtuozzo_commands.json").read_text())
EXEC, FILE_WRITE = DOCUMENTED["commands"]


def record(**facts: Any) -> Command:
    moment = datetime(2026, 3, 9, 12, 10, 43, 900_000, tzinfo=UTC)
    facts = {"state": CommandState.QUEUED, "created_at": moment, "deliver_by": moment} | facts
    return Command(**{"id": EXEC["uuid"], "vmid": 10000, "account": "acme", "node": "n1"} | facts)


def test_documented_answer_is_loaded_and_dumped_unchanged():
    schema = CommandsAnswer()
    assert json.dumps(schema.dump(schema.load(DOCUMENTED))) == json.dumps(DOCUMENTED)


def test_our_own_answer_is_the_documented_one_for_the_same_facts():
    ended = record(
        state=CommandState.EXITED, started_at=record().created_at, ended_at=record().created_at, pid=5416, exit_code=0
    )
    dumped = CommandsAnswer().dump({"commands": [bodies.command(ended)]})
    assert dumped == {"commands": [EXEC | {"instance_uuid": ids.openstack_id(10000)}]}
    assert json.dumps(dumped["commands"][0]["result"]) == json.dumps(EXEC["result"])
    written = record(state=CommandState.EXITED, kind=CommandKind.FILE_WRITE)
    assert bodies.command(written)["result"] == FILE_WRITE["result"]


@pytest.mark.parametrize(
    ("state", "status", "says_why"),
    [
        (CommandState.QUEUED, "PENDING", False),
        (CommandState.RUNNING, "RUNNING", False),
        (CommandState.EXITED, "SUCCESS", False),
        (CommandState.FAILED, "ERROR", True),
        (CommandState.EXPIRED, "ERROR", True),
        (CommandState.TIMED_OUT, "ERROR", True),
        (CommandState.CANCELLED, "ERROR", True),
        (CommandState.LOST, "ERROR", True),
        (CommandState.UNKNOWN, "ERROR", True),
    ],
)
def test_each_state_has_a_status_and_each_error_its_reason(state: CommandState, status: str, says_why: bool):  # noqa: FBT001 - a parameter
    body = bodies.command(record(state=state))
    assert (body["status"], bool(body["error"])) == (status, says_why)


def test_what_is_not_known_is_absent_or_null():
    assert bodies.command(record())["updated_at"] is None
    assert bodies.command(record())["result"] is None
    assert bodies.command(record(state=CommandState.RUNNING, pid=7))["result"] == {"pid": 7}
    killed = bodies.command(record(state=CommandState.LOST, pid=7))["result"]
    assert killed == {"pid": 7, "out_truncated": False, "err_truncated": False}
    assert bodies.command(record(state=CommandState.EXITED, pid=7, signal=9))["result"]["exitcode"] == 137
    assert bodies.command(record(state=CommandState.RUNNING, kind=CommandKind.FILE_READ))["result"] is None
