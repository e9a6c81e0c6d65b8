"""Replies that were once met in fuzzing and got further than they should have, each by itself."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import AgentProtocolError, MonitorError
from workers.qga import wire
from workers.qmp import replies
from workers.vms import vm

QGA = Path("/run/ownup/1.qga")
STATS = {"rd_bytes": 1, "wr_bytes": 2, "rd_operations": 3, "wr_operations": 4}
HUGE = 10**400


def chardevs(*filenames: str) -> list[dict[str, Any]]:
    return [{"filename": filename, "frontend-open": True} for filename in filenames]


# --- the agent's ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [[], {}, ["guest-exec"], None, 5])
def test_an_rpc_without_a_usable_name_is_no_rpc(name: object) -> None:
    commands = [{"name": name, "enabled": True}, {"name": "guest-ping", "enabled": True}]
    info = wire.load_info({"version": "7.2.22", "supported_commands": commands})
    assert info.enabled == {"guest-ping"}


@pytest.mark.parametrize("pid", [0, -1, 2**63, HUGE])
def test_a_pid_that_nobody_could_ask_for_is_refused(pid: int) -> None:
    with pytest.raises(AgentProtocolError):
        wire.load_pid({"pid": pid})


@pytest.mark.parametrize("name", ["exitcode", "signal"])
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, HUGE])
def test_numbers_beyond_64_bits_are_refused(name: str, number: int) -> None:
    with pytest.raises(AgentProtocolError):
        wire.load_exec_status({"exited": True, name: number})


# --- QEMU's -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/a\0b", "/\ud800", "/" + "a/" * 1_000_000, "/" + "x" * 5000])
def test_a_chardev_with_a_path_that_no_socket_has_is_another_one(path: str) -> None:
    assert replies.load_port_open(chardevs(f"unix:{path},server=on"), QGA) is None


def test_a_list_of_very_many_chardevs_costs_little() -> None:
    began_s = time.process_time()
    reply = chardevs(f"unix:{QGA}") + chardevs("unix:/run/other") * 200_000
    assert replies.load_port_open(reply, QGA) is True
    assert time.process_time() - began_s < 0.5


@pytest.mark.parametrize("device", [None, 5, "virtio0", []])
def test_a_drive_that_is_no_object_is_none(device: object) -> None:
    assert replies.load_drives([device], [{"stats": STATS}]) == ()


@pytest.mark.parametrize(
    ("load", "reply"),
    [
        (replies.load_memory_bytes, {"base-memory": HUGE}),
        (replies.load_memory_bytes, {"base-memory": -1}),
        (replies.load_memory_bytes, {"base-memory": 1, "plugged-memory": 2**63}),
        (replies.load_block_bytes, [{"stats": STATS | {"rd_bytes": HUGE}}]),
        (replies.load_block_bytes, [{"stats": STATS | {"wr_bytes": -1}}]),
    ],
)
def test_figures_that_nothing_can_have_are_refused(load: Callable[[Any], object], reply: Any) -> None:
    with pytest.raises(MonitorError):
        load(reply)


def test_events_that_nobody_has_looked_at_are_bounded() -> None:
    events: asyncio.Queue[str] = asyncio.Queue(2)
    for name in ("STOP", "RESUME", "RESET"):
        vm._note(events, name)
    assert [events.get_nowait(), events.get_nowait()] == ["STOP", "RESUME"]
    assert events.empty()
