"""`fleet.*`: one worker and a thousand agents: what they cost it, and what a command notices of the others."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import redis

from app.core.records import CommandState
from app.core.store import WAKE_CHANNEL, Store, commands
from bench import crowd
from bench.client import exec_path
from bench.figures import in_ms, median, quantile
from bench.roundtrip import run_waiting
from bench.scene import Node, Scene, until
from lab import LabError

_SETTLE_S = 3.0
_IDLE_S = 10.0
_ROUNDS = 220
_WARM_ROUNDS = 20
_SLEEP_S = 10
_SPARE_S = 2
_END_TIMEOUT_S = 60
_SHARE = 0.95
_LISTEN_S = 0.2
_MIB = 1024 * 1024

_LINE = "sleep {}; read up rest </proc/uptime; echo $up"
"""Tells when it ended, by a clock that the host has too, in steps of 10 ms; nothing is started after the sleep."""


def measure_idle(vmids: Sequence[int], node: Node) -> Iterator[tuple[str, float]]:
    """Leave the worker alone with its agents, which are known to be available."""
    time.sleep(_SETTLE_S)
    before_s = node.cpu_s()
    time.sleep(_IDLE_S)
    spent_s = node.cpu_s() - before_s
    yield "fleet.vms", len(vmids)
    yield "fleet.worker_rss_mb", node.rss_bytes() / _MIB
    yield "fleet.idle_cpu_percent", 100 * spent_s / _IDLE_S


def measure_one(scene: Scene, one_of_many: int, alone: int) -> Iterator[tuple[str, float]]:
    """Run a command on one of the fleet and on the only agent of another worker, in turns."""
    times: dict[int, list[float]] = {one_of_many: [], alone: []}
    with scene.client() as client:
        for _ in range(_WARM_ROUNDS + _ROUNDS):
            for vmid, found in times.items():
                began_s = time.perf_counter()
                run_waiting(client, vmid)
                found.append(time.perf_counter() - began_s)
    many_s, one_s = (median(times[vmid][_WARM_ROUNDS:]) for vmid in (one_of_many, alone))
    yield "fleet.one_command_over_alone", many_s / one_s


def measure_ends(scene: Scene, vmids: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Run a command in every VM at once, and see how long after its end each result can be read.

    Where the last one can't be started before the first one ends, they take longer: older commands are polled less
    often, so that the figure can only be worse for it.
    """
    run = _run_all(scene, vmids, _SLEEP_S)
    if not run.at_once:
        run = _run_all(scene, vmids, math.ceil(run.starting_s) + _SPARE_S)
    if run.at_once:
        yield "fleet.end_seen_p95_ms", in_ms(quantile(run.lags_s, _SHARE))


@dataclass(frozen=True)
class _Run:
    """What came of a thousand commands."""

    starting_s: float
    at_once: bool
    lags_s: Sequence[float]


def _run_all(scene: Scene, vmids: Sequence[int], sleep_s: int) -> _Run:
    with _Ends(scene.redis_url) as ends:
        first_start_s = _uptime_s()
        started = asyncio.run(crowd.start(scene, vmids, _LINE.format(sleep_s)))
        last_start_s = _uptime_s()
        until(_END_TIMEOUT_S, "all commands have ended", lambda: len(ends.seen_s) >= len(started))
        ended_s = {command: _told_end_s(scene, *command) for command in started}
        lags_s = [ends.seen_s[ends.find_id(*command)] - end_s for command, end_s in ended_s.items()]
    run = _Run(last_start_s - first_start_s, min(ended_s.values()) >= last_start_s, lags_s)
    print(f"    {len(started)} commands of {sleep_s} s, started in {run.starting_s:.1f} s: all at once: {run.at_once}")
    return run


def _told_end_s(scene: Scene, vmid: int, pid: int) -> float:
    _, result = scene.api.call("GET", f"{exec_path(vmid)}?pid={pid}")
    return float(result["stdout"])


def _uptime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Ends(threading.Thread):
    """Listens to what wakes the web half: a result can be read from the moment on that its state is told."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(daemon=True)
        self._client = redis.Redis.from_url(redis_url)
        self._store = Store(self._client)
        self._subscription = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._over = threading.Event()
        self.seen_s: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._subscription.subscribe(WAKE_CHANNEL)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._subscription.close()
        self._client.close()

    def run(self) -> None:
        """Listen until the end."""
        while not self._over.is_set():
            message = self._subscription.get_message(timeout=_LISTEN_S)
            if message is None:
                continue
            command_id, *told = message["data"].partition(b"\n")[0].decode().split(" ")
            if told and told[0] != CommandState.RUNNING:
                self.seen_s[command_id] = _uptime_s()

    def find_id(self, vmid: int, pid: int) -> str:
        """Find the record of a command.

        Raises:
            LabError: There is none.
        """
        result = self._store.run(commands.read_result(vmid, pid)).result
        if result is None:
            raise LabError(f"no record of pid {pid} in VM {vmid}")
        return result.command.id
