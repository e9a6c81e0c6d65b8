"""The data of v1 answers, as functions of records."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api import command_bodies
from app.api.timestamps import timestamp
from app.api.v1 import bodies
from app.api.v1.schemas import ExecSchema, JobSchema, KillSchema, StatusSchema
from app.core.records import Command, CommandState, Job, JobKind, JobState, PowerAction
from app.core.store.commands import Result
from app.core.store.vms import VmView
from tests.web import RUNNING_VM

NOW = datetime(2026, 2, 10, tzinfo=UTC)
VIEW = VmView(RUNNING_VM, node_alive=True, last_pid=5)
COMMAND = Command(
    id="c", vmid=10000, account="acme", node="n", state=CommandState.RUNNING, created_at=NOW, deliver_by=NOW, pid=5
)
ENDS = [state for state in CommandState if state.ended]


def result_of(command: Command, stdout: bytes = b"", encoding: str | None = None) -> dict[str, object]:
    return dict(ExecSchema().dump(command_bodies.exec_result(VIEW.reach, Result(command, stdout, b""), encoding)))


@given(st.sampled_from(CommandState), st.none() | st.integers(0, 255), st.none() | st.integers(1, 64))
def test_client_that_loops_until_exited_gets_out_with_an_exit_code(
    state: CommandState, exit_code: int | None, signal: int | None
):
    data = result_of(replace(COMMAND, state=state, exit_code=exit_code, signal=signal))
    assert data["exited"] is state.ended
    assert ("exitcode" in data) is state.ended
    assert data["message"]
    assert data["state"] == state


@pytest.mark.parametrize("state", ENDS)
def test_reason_of_the_record_is_the_message(state: CommandState):
    assert result_of(replace(COMMAND, state=state, message="because"))["message"] == "because"


@pytest.mark.parametrize("signal", [1, 9, 15])
def test_signal_is_128_and_more(signal: int):
    data = result_of(replace(COMMAND, state=CommandState.EXITED, signal=signal))
    assert (data["exitcode"], data["signal"]) == (128 + signal, signal)


@given(
    st.sampled_from([state for state in ENDS if state is not CommandState.EXITED]),
    st.none() | st.integers(0, 255),
    st.none() | st.integers(1, 64),
)
def test_only_a_command_that_ended_by_itself_has_an_exit_code(
    state: CommandState, exit_code: int | None, signal: int | None
):
    data = result_of(replace(COMMAND, state=state, exit_code=exit_code, signal=signal))
    assert data["exitcode"] == -1
    assert data.get("signal") == signal


@pytest.mark.parametrize("state", [CommandState.RUNNING, *ENDS])
def test_kill_tells_how_the_command_is(state: CommandState):
    command = replace(COMMAND, state=state, exit_code=3 if state is CommandState.EXITED else None)
    killed = dict(KillSchema().dump(command_bodies.exec_killed(command)))
    read = result_of(command)
    same = set(killed) & set(read) - {"message"}
    assert {name: killed[name] for name in same} == {name: read[name] for name in same}
    assert same >= {"success", "pid", "exited", "state"} | ({"exitcode"} if state.ended else set())
    assert killed["message"] == (read["message"] if state.ended else "Kill requested; the command has not ended yet")


@given(st.binary())
def test_base64_gives_the_bytes(output: bytes):
    assert base64.b64decode(str(result_of(COMMAND, output, "base64")["stdout"])) == output


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_utf_8_comes_through(output: str):
    assert result_of(COMMAND, output.encode())["stdout"] == output


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 2, 10, tzinfo=UTC), "2026-02-10T00:00:00.000Z"),
        (datetime(2026, 2, 10, 23, 59, 59, 999_999, tzinfo=UTC), "2026-02-10T23:59:59.999Z"),
    ],
)
def test_moments_are_milliseconds_with_z(moment: datetime, text: str):
    assert timestamp(moment) == text


def test_uptime_is_whole_seconds_and_never_negative():
    def uptime(now: datetime) -> object:
        return StatusSchema().dump(bodies.vm_status(VIEW, now))["uptime"]

    assert uptime(NOW + timedelta(seconds=61.9)) == 61
    assert uptime(NOW - timedelta(seconds=5)) == 0
    assert uptime((NOW + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=5)))) == 1


@pytest.mark.parametrize("state", list(JobState))
def test_exactly_one_flag_of_a_job_is_set(state: JobState):
    job = Job(
        id="stop-1-1", vmid=1, account="a", node="n", kind=JobKind.STOP, state=state, created_at=NOW,
        start_by=NOW, finished_at=NOW if state in {JobState.COMPLETED, JobState.FAILED} else None,
    )  # fmt: skip
    data = JobSchema().dump(bodies.job_status(job))
    flags = {"queued": "isWaiting", "running": "isRunning", "completed": "isCompleted", "failed": "isFailed"}
    assert [name for name in flags.values() if data[name]] == [flags[state]]
    assert (data["result"] is None) is (data["finishedAt"] is None)
    assert data["message"]


def test_every_action_has_an_estimate():
    assert set(bodies.ESTIMATED_TIMES_S) == set(PowerAction)
