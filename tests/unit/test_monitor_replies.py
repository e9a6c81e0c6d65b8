"""What QEMU answers, from whichever version, is read or refused; nothing else comes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import MonitorError
from workers.qmp import replies

QGA = Path("/run/ownup/1.qga")


def chardev(filename: str, *, frontend_open: bool = True) -> dict[str, Any]:
    return {"filename": filename, "frontend-open": frontend_open, "label": "x"}


@pytest.mark.parametrize(
    "filename",
    [
        "unix:/run/ownup/1.qga,server=on",
        "disconnected:unix:/run/ownup/1.qga,server=on",
        "unix:/run/ownup/1.qga,server",
        "disconnected:unix:/run/ownup/1.qga,server",
        "unix:/run/ownup/1.qga",
    ],
)
def test_the_port_behind_a_socket_is_found_by_its_path(filename: str) -> None:
    assert replies.load_port_open([chardev("file"), chardev(filename)], QGA) is True
    assert replies.load_port_open([chardev("file"), chardev(filename, frontend_open=False)], QGA) is False


@pytest.mark.parametrize(
    "filename",
    [
        "unix:/run/ownup/1.qga2,server=on",
        "unix:/run/ownup/1.qg,server=on",
        "unix:/run/ownup/1.qga,other,server=on",
        "unix:/x/run/ownup/1.qga,server=on",
        "disconnected:fd:31,server=on",
        "tcp:/run/ownup/1.qga,server=on",
        "unix:1.qga,server=on",
        "file",
        "",
    ],
)
def test_another_ports_socket_is_not_taken_for_it(filename: str) -> None:
    assert replies.load_port_open([chardev(filename)], QGA) is None


def test_a_path_that_ends_like_qemus_own_suffix_is_found() -> None:
    odd = Path("/run/a,server=on")
    assert replies.load_port_open([chardev("unix:/run/a,server=on,server=on")], odd) is True
    assert replies.load_port_open([chardev("unix:/run/a,server=on")], Path("/run/a")) is True


def test_a_socket_is_found_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    reply = [chardev(f"unix:{tmp_path}/link/1.qga,server=on")]
    assert replies.load_port_open(reply, tmp_path / "real/1.qga") is True
    assert replies.load_port_open(reply, tmp_path / "link/1.qga") is True


def test_figures_are_summed() -> None:
    disks = [{"stats": {"rd_bytes": 1, "wr_bytes": 10}}, {"stats": {"rd_bytes": 2, "wr_bytes": 20}}]
    assert replies.load_block_bytes(disks) == (3, 30)
    assert replies.load_block_bytes([]) == (0, 0)
    assert replies.load_memory_bytes({"base-memory": 5, "plugged-memory": 2}) == 7
    assert replies.load_memory_bytes({"base-memory": 5}) == 5
    assert replies.load_cpu_count([{}, {}]) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "filename", "frontend-open", "stats", "rd_bytes", "base-memory"]), inner
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "read",
    [
        replies.load_run_state,
        replies.load_cpu_count,
        replies.load_memory_bytes,
        replies.load_block_bytes,
        lambda reply: replies.load_port_open(reply, QGA),
    ],
)
@given(reply=JSON)
def test_any_answer_is_read_or_refused(read: Callable[[Any], object], reply: Any) -> None:
    try:
        read(reply)
    except MonitorError:
        return


# --- images, snapshots, jobs ------------------------------------------------------------------------------------------

SNAPSHOT = {
    "id": "1",
    "name": "before",
    "date-sec": 1_795_305_362,
    "date-nsec": 500_000_000,
    "vm-clock-sec": 3,
    "vm-clock-nsec": 1,
    "vm-state-size": 105_428_692,
}


def drive(**changes: Any) -> dict[str, Any]:
    inserted = {"node-name": "#block1", "drv": "qcow2", "ro": False, "image": {"snapshots": [SNAPSHOT]}}
    return {"device": "virtio0", "removable": False, "inserted": inserted | changes}


def test_the_images_in_the_drives_are_read_with_their_snapshots() -> None:
    empty, anonymous = {"device": "cd", "removable": True}, drive(ro=True, image={}) | {"device": "", "qdev": "/m/d"}
    (first, second) = replies.load_images([drive(), empty, anonymous])
    assert (first.drive, first.node, first.format, first.writable) == ("virtio0", "#block1", "qcow2", True)
    [snapshot] = first.snapshots
    assert (snapshot.id, snapshot.name, snapshot.state_bytes) == ("1", "before", 105_428_692)
    assert snapshot.taken_at.timestamp() == 1_795_305_362.5
    assert (second.drive, second.writable, second.snapshots) == ("/m/d", False, ())


@pytest.mark.parametrize(
    "reply",
    [
        {},
        [drive(ro="no")],
        [drive(image=None)],
        [drive(image={"snapshots": {}})],
        [drive(image={"snapshots": [SNAPSHOT | {"date-sec": 2**70}]})],
        [drive(image={"snapshots": [SNAPSHOT | {"date-sec": -1}]})],
        [drive(image={"snapshots": [SNAPSHOT | {"name": 1}]})],
        [drive(image={"snapshots": ["before"]})],
        [{"inserted": {}}],
    ],
)
def test_images_that_qemu_would_not_tell_like_that_are_refused(reply: Any) -> None:
    with pytest.raises(MonitorError):
        replies.load_images(reply)


def test_jobs_are_read_by_id() -> None:
    running = {"id": "a", "status": "running", "type": "snapshot-save", "current-progress": 0, "total-progress": 1}
    failed = running | {"id": "b", "status": "concluded", "error": "No space left on device"}
    assert replies.load_jobs([running, failed]) == {
        "a": replies.JobStatus("running", None),
        "b": replies.JobStatus("concluded", "No space left on device"),
    }
    with pytest.raises(MonitorError):
        replies.load_jobs([{"id": "a"}])
