"""The judge of the fault run: a story that holds is let through, and every lie in it is found."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.core.records import Command, CommandState
from tests.faults.clients import Answer, Ticket
from tests.faults.plan import Order
from tests.faults.records import Record
from tests.faults.verdict import Evidence, judge

VMID = 10001
AT = datetime(2026, 2, 10, tzinfo=UTC)
ORDER = Order(token="T00001x0123456789ab", vmid=VMID, at_s=0.0, bulk_bytes=50, exit_code=3)
COMMAND = Command(
    id="c-1",
    vmid=VMID,
    account="demo",
    node="node-1",
    state=CommandState.EXITED,
    created_at=AT,
    deliver_by=AT,
    pid=77,
    exit_code=3,
    request_id="r-1",
)
RECORD = Record(COMMAND, ORDER.stdout, ORDER.stderr)
RESULT = {
    "exited": True,
    "state": "exited",
    "exitcode": 3,
    "stdout": ORDER.stdout.decode(),
    "stderr": ORDER.stderr.decode(),
}
TICKET = Ticket(ORDER, posts=[Answer(200, "r-1", data={"pid": 77})], pid=77, result=RESULT)
LOST_RESULT = {"exited": True, "state": "lost", "exitcode": -1, "stdout": "", "stderr": ""}
NO_PID = "Failed to execute command - no PID returned"


def record(state, **changes):
    end = {"exit_code": None} | changes
    return Record(replace(COMMAND, state=state, **end), b"", b"")


def ticket(status, message="", result=None):
    return Ticket(ORDER, posts=[Answer(status, "r-1", message)], pid=77 if status == 200 else None, result=result)


def rules(*, tickets=(TICKET,), records=(RECORD,), tokens=(ORDER.token,), by_key=None, vmid=VMID):
    evidence = Evidence(tickets=tickets, records=records, by_key=by_key or {}, tokens={vmid: tokens})
    return {violation.rule for violation in judge(evidence).violations}


def test_a_story_that_holds_has_no_violations():
    assert rules() == set()


@pytest.mark.parametrize(
    ("told", "kept", "standing"),
    [
        (ticket(200, result=LOST_RESULT), record(CommandState.LOST), True),
        (ticket(200, result=LOST_RESULT), record(CommandState.LOST), False),
        (ticket(500, NO_PID), record(CommandState.UNKNOWN, pid=None), True),
        (ticket(500, NO_PID), record(CommandState.UNKNOWN, pid=None), False),
        (ticket(500, NO_PID), record(CommandState.FAILED, pid=None), False),
        (ticket(504), record(CommandState.EXPIRED, pid=None), False),
        (ticket(503), record(CommandState.LOST), True),
    ],
)
def test_other_stories_that_hold(told, kept, standing):
    assert rules(tickets=[told], records=[kept], tokens=[ORDER.token] * standing) == set()


@pytest.mark.parametrize("answer", [ticket(400, "VM must be running to execute commands"), ticket(503), ticket(None)])
def test_a_post_without_a_record_left_nothing_in_the_guest(answer):
    assert rules(tickets=[answer], records=[], tokens=[]) == set()
    assert rules(tickets=[answer], records=[]) == {"a token stands and no record tells of it"}


@pytest.mark.parametrize("state", [CommandState.QUEUED, CommandState.RUNNING])
def test_a_record_without_an_end_is_found(state):
    found = rules(tickets=[ticket(503)], records=[record(state)], tokens=[])
    assert found == {"a record is not in an end state"}


def test_a_doubled_token_is_found():
    assert rules(tokens=[ORDER.token, ORDER.token]) == {"a token stands twice"}


def test_a_token_in_another_guest_is_found():
    assert rules(vmid=10002) == {"a token stands in another guest"}


def test_what_nobody_ordered_is_found():
    assert rules(tokens=[ORDER.token, "half a tok"]) == {"something stands in a guest that nobody ordered"}


@pytest.mark.parametrize(
    "wrong",
    [
        Record(COMMAND, ORDER.stdout[:-1], ORDER.stderr),
        Record(COMMAND, ORDER.stdout, b""),
        Record(replace(COMMAND, exit_code=4), ORDER.stdout, ORDER.stderr),
        Record(replace(COMMAND, exit_code=None, signal=9), ORDER.stdout, ORDER.stderr),
        Record(replace(COMMAND, out_truncated=True), ORDER.stdout, ORDER.stderr),
    ],
)
def test_an_exited_record_with_anything_but_its_own_result_is_found(wrong):
    assert "an exited record doesn't have exactly its own output and exit code" in rules(records=[wrong])


def test_an_invented_exit_is_found():
    assert rules(tokens=[]) == {"an exited record has no token in its guest"}


@pytest.mark.parametrize(("state", "status"), [(CommandState.FAILED, 500), (CommandState.EXPIRED, 504)])
def test_a_command_that_ran_though_its_record_says_no_is_found(state, status):
    found = rules(tickets=[ticket(status, NO_PID)], records=[record(state, pid=None)])
    assert found == {"a record says that it has not run, and its token stands"}


def test_an_end_that_nobody_asked_for_is_found():
    cancelled = record(CommandState.CANCELLED)
    found = rules(tickets=[ticket(200, result=LOST_RESULT | {"state": "cancelled"})], records=[cancelled])
    assert found == {"a token stands whose record is neither exited nor lost nor unknown"}


def test_a_client_that_was_told_anything_else_than_the_record_is_found():
    for told in ({"stdout": "another's\n"}, {"exitcode": 0}, {"state": "lost"}, {"stderr": ""}):
        found = rules(tickets=[replace(TICKET, result=RESULT | told)])
        assert found == {"a client was told another result than the record has"}


def test_a_client_may_be_told_the_result_of_a_later_command_with_the_same_pid():
    later = Order(token="T00002x0123456789ab", vmid=VMID, at_s=1.0)
    other = Record(replace(COMMAND, id="c-2", request_id="r-2", exit_code=0), later.stdout, later.stderr)
    result = {"exited": True, "state": "exited", "exitcode": 0, "stdout": later.stdout.decode()}
    result["stderr"] = later.stderr.decode()
    tickets = [
        replace(TICKET, result=result),
        Ticket(later, posts=[Answer(200, "r-2", data={"pid": 77})], pid=77, result=result),
    ]
    assert rules(tickets=tickets, records=[RECORD, other], tokens=[ORDER.token, later.token]) == set()


def test_a_client_that_never_got_out_is_found():
    assert rules(tickets=[replace(TICKET, result={"exited": False})]) == {"a client never saw the end of its command"}


def test_a_pid_that_the_record_does_not_have_is_found():
    assert rules(tickets=[replace(TICKET, pid=78)]) == {"a client was told a pid that its record doesn't have"}


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (ticket(504), CommandState.LOST),
        (ticket(400), CommandState.LOST),
        (ticket(500, "An unexpected error occurred"), CommandState.UNKNOWN),
        (ticket(404), CommandState.UNKNOWN),
    ],
)
def test_a_post_whose_answer_does_not_fit_is_found(answer, state):
    assert rules(tickets=[answer], records=[record(state)]) == {"a POST was answered what doesn't fit its record"}


def test_a_poll_that_is_refused_is_found():
    polled = replace(TICKET, polls=[Answer(503), Answer(None), Answer(404, message="Command not found")])
    assert rules(tickets=[polled]) == {"a poll was answered wrongly"}


def test_a_record_that_nobody_ordered_is_found():
    extra = Record(replace(COMMAND, id="c-9", request_id="r-9", pid=99), b"", b"")
    assert rules(records=[RECORD, extra]) == {"a record that nobody ordered"}
    silent = Ticket(replace(ORDER, token="T00003x0123456789ab"), posts=[Answer(None)])
    assert rules(tickets=[TICKET, silent], records=[RECORD, extra]) == set()


def test_a_keyed_command_is_found_by_its_key_whichever_post_made_it():
    keyed = Ticket(replace(ORDER, keyed=True), [Answer(None), Answer(200, "r-2")], pid=77, result=RESULT)
    assert rules(tickets=[keyed], by_key={ORDER.token: "c-1"}) == set()


def test_a_violation_tells_all_there_is_to_know():
    [violation] = judge(Evidence([TICKET], [RECORD], {}, {VMID: [ORDER.token] * 2})).violations
    text = str(violation)
    assert all(part in text for part in (ORDER.token, "2 times", "request r-1", "pid=77", "id=c-1", "state=exited"))
