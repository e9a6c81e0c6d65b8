"""Results on disk survive whole, or are reported."""

import os
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from app.core.records import CommandEnd, CommandState
from workers.commands.spool import Spool, _dump_head, _load

ENDS = st.builds(
    CommandEnd,
    state=st.sampled_from([state for state in CommandState if state.ended]),
    ended_at=st.datetimes(timezones=st.just(UTC)),
    exit_code=st.none() | st.integers(),
    signal=st.none() | st.integers(),
    stdout=st.binary(),
    stderr=st.binary(),
    out_truncated=st.booleans(),
    err_truncated=st.booleans(),
    message=st.none() | st.text(),
)


def read(spool):
    return {command_id: end for command_id in spool.ids() if (end := spool.get(command_id))}


@given(end=ENDS)
def test_what_is_put_is_what_is_read(end):
    assert _load(_dump_head(end) + end.stdout + end.stderr) == end


def test_a_result_is_there_until_it_is_removed(tmp_path):
    end = CommandEnd(state=CommandState.EXITED, ended_at=datetime.now(UTC), exit_code=3, stdout=b"a\nb", stderr=b"\xff")
    Spool(tmp_path).put("c1", end)
    assert read(Spool(tmp_path)) == {"c1": end}
    Spool(tmp_path).remove("c1")
    assert read(Spool(tmp_path)) == {}
    Spool(tmp_path).remove("c1")


def test_a_torn_file_is_left_alone_and_hides_no_other(tmp_path):
    end = CommandEnd(state=CommandState.EXITED, ended_at=datetime.now(UTC), exit_code=0, stdout=b"whole")
    spool = Spool(tmp_path)
    spool.put("a-torn", end)
    os.truncate(tmp_path / "a-torn.result", 40)
    spool.put("b", end)
    assert read(spool) == {"b": end}
    assert (tmp_path / "a-torn.result").exists()


def test_results_are_for_the_worker_alone(tmp_path):
    spool = Spool(tmp_path / "new")
    spool.put("c1", CommandEnd(state=CommandState.EXITED, ended_at=datetime.now(UTC)))
    assert oct((tmp_path / "new").stat().st_mode)[-3:] == "700"
    assert oct((tmp_path / "new" / "c1.result").stat().st_mode)[-3:] == "600"


def test_what_was_not_written_to_its_end_goes_with_the_next_worker(tmp_path):
    Spool(tmp_path).put("c1", CommandEnd(state=CommandState.EXITED, ended_at=datetime.now(UTC), stdout=b"whole"))
    for name in ("c2.result.partial", "c2.start.partial"):
        (tmp_path / name).write_bytes(b"half of it")
    assert list(read(Spool(tmp_path))) == ["c1"]
    assert [path.name for path in tmp_path.iterdir()] == ["c1.result"]
