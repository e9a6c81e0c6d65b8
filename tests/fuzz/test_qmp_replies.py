"""Whatever a QEMU answers, each query of the worker's makes a value or `MonitorError` of it. A guest may own its QEMU.

Pure: no socket, no time. What is read is also fit for what comes after: for arithmetic, for Redis, for JSON.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from hypothesis import given, note
from hypothesis import strategies as st

from app.core.errors import MonitorError
from tests.fuzz.budget import PATIENT, Tally, examples
from tests.fuzz.json_text import CHANGES, Change
from tests.fuzz.qemu import ANSWERS, QGA
from workers.qmp import replies
from workers.vms import snapshot_rules

pytestmark = PATIENT

LONGEST_S = 2.0
NOTED_BYTES = 1000
LARGEST = 2**80
"""A sum of many sizes, each of 63 bits."""

LOADERS: list[tuple[str, Callable[[Any], Any]]] = [
    ("query-status", replies.load_run_state),
    ("query-cpus-fast", replies.load_cpu_count),
    ("query-memory-size-summary", replies.load_memory_bytes),
    ("query-blockstats", replies.load_block_bytes),
    ("query-chardev", lambda reply: replies.load_port_open(reply, QGA)),
    ("query-block", replies.load_images),
    ("query-block", lambda reply: replies.load_drives(reply, ANSWERS["query-blockstats"])),
    ("query-blockstats", lambda reply: replies.load_drives(ANSWERS["query-block"], reply)),
    ("query-block", lambda reply: replies.load_drives(reply, [{"stats": {}}])),
    ("query-block", lambda reply: snapshot_rules.merge(replies.load_images(reply))),
    ("query-jobs", replies.load_jobs),
    ("qemu-img info", replies.load_snapshots),
]
"""Each query, and what reads its answer."""


def is_plain(value: Any) -> bool:
    """Tell whether a value can go on its way."""
    if dataclasses.is_dataclass(value):
        return all(is_plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, int):
        return 0 <= value < LARGEST
    if isinstance(value, datetime):
        return value.year >= 1970
    return value is None or isinstance(value, str)


@examples(1200)
@given(changes=st.lists(st.tuples(st.sampled_from(LOADERS), CHANGES), min_size=10, max_size=10))
def test_qmp_replies(tally: Tally, changes: list[tuple[tuple[str, Callable[[Any], Any]], Change]]) -> None:
    for (query, load), change in changes:
        text = change(json.dumps(ANSWERS[query]).encode())
        note(f"{query}: {text[:NOTED_BYTES]!r}")
        try:
            reply = json.loads(text)
        except (ValueError, RecursionError):
            tally.add("no JSON")
            continue
        began_s = time.process_time()
        try:
            value = load(reply)
        except MonitorError:
            tally.add("refused")
        else:
            assert is_plain(value), value
            tally.add("read")
        assert time.process_time() - began_s < LONGEST_S


PATHS = st.text(max_size=20) | st.sampled_from([
    str(QGA), f"{QGA},server=on", "/", "", "/a\0b", "/\ud800", "/" + "a/" * 5000, "/proc/self/root", "//", "/..",
    "/proc/self/fd/0", "/dev/stdin",
])  # fmt: skip
FILENAMES = st.tuples(
    st.sampled_from(["", "disconnected:", "disconnected:disconnected:"]),
    st.sampled_from(["unix:", "tcp:", "", "fd:", "unix"]),
    PATHS,
    st.sampled_from(["", ",server=on", ",server", ",server=on,server=on"]),
).map("".join)


@examples(400)
@given(
    names=st.lists(FILENAMES, max_size=8),
    path=st.sampled_from([QGA, Path("/run/a,server=on"), Path("/proc/self/cwd/x")]),
)
def test_names_of_sockets_as_qmp_tells_them(tally: Tally, names: list[str], path: Path) -> None:
    reply = [{"filename": name, "frontend-open": True, "label": "x"} for name in names]
    tally.add(str(replies.load_port_open(reply, path)))
