"""Results on disk survive whole, or are reported."""

import errno
import os
import tempfile
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.records import CommandEnd, CommandStart, CommandState
from workers.commands.spool import Spool, _dump_head, _load, is_large

END = CommandEnd(state=CommandState.EXITED, ended_at=datetime.now(UTC), exit_code=3, stdout=b"a\nb", stderr=b"\xff")
START = CommandStart(pid=77, started_at=datetime.now(UTC), agent_identity="1-2")
LARGE_BYTES = 300_000
FIRST_LOG = "000000000001.log"

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
    Spool(tmp_path).put("c1", END)
    assert read(Spool(tmp_path)) == {"c1": END}
    Spool(tmp_path).remove("c1")
    assert read(Spool(tmp_path)) == {}
    Spool(tmp_path).remove("c1")


def test_starts_are_there_until_they_are_removed(tmp_path):
    Spool(tmp_path).put_start("c1", START)
    assert Spool(tmp_path).starts() == [("c1", START)]
    spool = Spool(tmp_path)
    spool.put("c1", END)
    spool.remove_start("c1")
    assert (Spool(tmp_path).starts(), read(Spool(tmp_path))) == ([], {"c1": END})


def test_small_ones_share_a_file_and_a_large_one_has_its_own(tmp_path):
    large = replace(END, stdout=b"x" * LARGE_BYTES)
    spool = Spool(tmp_path)
    for number in range(20):
        spool.put(f"c{number}", END)
    spool.put("large", large)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FIRST_LOG, "large.result"]
    assert read(spool) == read(Spool(tmp_path)) == {f"c{number}": END for number in range(20)} | {"large": large}
    spool.remove("large")
    assert [path.name for path in tmp_path.iterdir()] == [FIRST_LOG]


def test_nothing_of_an_output_stays_on_the_disk(tmp_path):
    spool = Spool(tmp_path)
    for number in range(5):
        spool.put(f"c{number}", replace(END, stdout=b"an output"))
    for number in range(5):
        assert b"an output" in (tmp_path / FIRST_LOG).read_bytes()
        spool.remove(f"c{number}")
    assert (tmp_path / FIRST_LOG).read_bytes() == b""
    assert list(Spool(tmp_path).ids()) == []
    assert list(tmp_path.iterdir()) == []


def test_one_that_stays_doesnt_keep_the_others(tmp_path):
    """Something is always on its way, so that no log would ever be empty if there were only one."""
    spool = Spool(tmp_path)
    spool.put("stays", END)
    for number in range(10_000):
        spool.put(f"c{number}", END)
        spool.remove(f"c{number - 1}")
    assert len(list(tmp_path.glob("*.log"))) <= 3
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 300_000
    assert sorted(read(Spool(tmp_path))) == ["c9999", "stays"]
    spool.remove("stays")
    assert len(list(tmp_path.glob("*.log"))) <= 2


def test_the_latest_of_a_name_counts(tmp_path):
    later = replace(END, exit_code=4)
    spool = Spool(tmp_path)
    spool.put("c1", END)
    spool.put("c1", later)
    assert read(spool) == read(Spool(tmp_path)) == {"c1": later}
    spool = Spool(tmp_path)
    spool.put("c1", END)
    assert read(spool) == read(Spool(tmp_path)) == {"c1": END}
    spool.remove("c1")
    assert read(Spool(tmp_path)) == {}


def test_what_a_killed_worker_had_not_appended_to_its_end_counts_for_nothing(tmp_path):
    spool = Spool(tmp_path / "whole")
    spool.put("a", END)
    a_bytes = (tmp_path / "whole" / FIRST_LOG).stat().st_size
    spool.put_start("b", START)
    b_bytes = (tmp_path / "whole" / FIRST_LOG).stat().st_size
    spool.remove("a")
    whole = (tmp_path / "whole" / FIRST_LOG).read_bytes()
    for size in range(len(whole)):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / FIRST_LOG).write_bytes(whole[:size])
        for _ in range(2):  # and the next one, which is killed too, sees the same
            left = Spool(folder)
            assert left.ids() == (["a"] if size >= a_bytes else [])
            assert left.starts() == ([("b", START)] if size >= b_bytes else [])
        left.put("c", END)
        left.remove("a")
        assert Spool(folder).ids() == ["c"]


def test_a_damaged_log_is_reported_and_left_alone_and_hides_no_other(tmp_path, caplog):
    spool = Spool(tmp_path)
    for name in ("a", "b", "c"):
        spool.put(name, replace(END, stdout=name.encode() * 10))
    log = tmp_path / FIRST_LOG
    damaged = log.read_bytes().replace(b"bbbbbbbbbb", b"bbbbb?bbbb")
    log.write_bytes(damaged)
    later = Spool(tmp_path)
    assert later.ids() == ["a"]
    later.put("d", END)
    later.remove("a")
    assert log.read_bytes().startswith(damaged)
    assert "spool_file_unreadable" in caplog.text
    assert "d" in Spool(tmp_path).ids()


def test_a_full_disk_leaves_everything_as_it_was(tmp_path, monkeypatch):
    spool = Spool(tmp_path)
    spool.put("a", END)
    before = (tmp_path / FIRST_LOG).read_bytes()
    write = os.write
    room = iter([7])

    def fill(descriptor, data):
        size = next(room, 0)
        if not size:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:size])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill)
        with pytest.raises(OSError, match="No space"):
            spool.put("b", END)
    assert (tmp_path / FIRST_LOG).read_bytes() == before
    spool.put("c", END)
    assert read(spool) == read(Spool(tmp_path)) == {"a": END, "c": END}


def test_one_that_is_read_while_it_goes_is_whole_or_gone(tmp_path, caplog):
    spool = Spool(tmp_path)
    ends = [replace(END, exit_code=number, stdout=b"%d" % number * 50) for number in range(3000)]
    seen, is_over = [], threading.Event()

    def look():
        while not is_over.is_set():
            seen.extend((command_id, spool.get(command_id)) for command_id in spool.ids())

    reader = threading.Thread(target=look)
    reader.start()
    for number, end in enumerate(ends):
        spool.put(f"{number}", end)
        spool.remove(f"{number}")
    is_over.set()
    reader.join()
    assert all(end is None or end == ends[int(command_id)] for command_id, end in seen)
    assert caplog.text == ""


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put large", "remove", "put_start", "remove_start", "restart"]), st.sampled_from("abc")
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_what_is_left_is_what_was_put_and_not_removed(steps):
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        results, starts = {}, {}
        for number, (step, name) in enumerate(steps):
            end = replace(END, exit_code=number, stdout=b"x" * (LARGE_BYTES if step == "put large" else 9))
            start = replace(START, pid=number)
            match step:
                case "put" | "put large":
                    if name not in results or is_large(results[name]) == is_large(end):  # a result is never put twice
                        spool.put(name, end)
                        results[name] = end
                case "remove":
                    spool.remove(name)
                    results.pop(name, None)
                case "put_start":
                    spool.put_start(name, start)
                    starts[name] = start
                case "remove_start":
                    spool.remove_start(name)
                    starts.pop(name, None)
                case _:
                    spool = Spool(Path(folder))
            assert read(spool) == results
            assert dict(spool.starts()) == starts


def test_results_are_for_the_worker_alone(tmp_path):
    spool = Spool(tmp_path / "new")
    spool.put("c1", END)
    spool.put("c2", replace(END, stdout=b"x" * LARGE_BYTES))
    assert oct((tmp_path / "new").stat().st_mode)[-3:] == "700"
    assert {oct(path.stat().st_mode)[-3:] for path in (tmp_path / "new").iterdir()} == {"600"}


def test_what_was_not_written_to_its_end_goes_with_the_next_worker(tmp_path):
    Spool(tmp_path).put("c1", END)
    for name in ("c2.result.partial", "c2.start.partial"):
        (tmp_path / name).write_bytes(b"half of it")
    assert list(read(Spool(tmp_path))) == ["c1"]
    assert [path.name for path in tmp_path.iterdir()] == [FIRST_LOG]


def test_files_of_an_earlier_version_are_read_and_removed(tmp_path):
    (tmp_path / "c1.result").write_bytes(_dump_head(END) + END.stdout + END.stderr)
    (tmp_path / "c1.start").write_text('{"pid": 7, "started_at": "2026-11-22T20:00:00+00:00", "agent_identity": null}')
    spool = Spool(tmp_path)
    assert read(spool) == {"c1": END}
    assert [(command_id, start.pid) for command_id, start in spool.starts()] == [("c1", 7)]
    spool.remove_start("c1")
    spool.remove("c1")
    assert list(tmp_path.iterdir()) == []
