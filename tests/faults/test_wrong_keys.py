"""100,000 wrong keys are turned away, cheaply, while a good key from the same address is served as before.

The attackers share the machine with what they attack. So most of them keep to a rate, the rest comes as fast as it is
answered; and to tell what is plain competition for the processors, harmless requests come at the same rate first.
"""

import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
import redis

from lab import processes
from tests.conftest import RedisServer
from tests.faults.attacker import HARMLESS, Connection, request
from tests.faults.peers import until
from tests.web import Web

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
ATTACKERS = 2
RATE, PACED, UNPACED = 1000, 50_000, 50_000
"""Tries a second, how many come at that rate, and how many as fast as they can; by all attackers together."""
CONTROL_S = 12
GOOD_PAUSE_S = 0.01
MOST_COMMANDS_PER_TRY = 0.2
MOST_GROWTH_BYTES = 64 * 1024 * 1024
MOST_P95 = 10
"""Times the idle p95, at the given rate: the figure to reach is 2; a machine that does other work too must not fail."""


class GoodClient:
    """Asks for a status with a good key over a few connections all the time, and measures how long each takes."""

    def __init__(self, port: int, key: str) -> None:
        self._connections = [Connection(port) for _ in range(8)]
        self._message = request("GET", "/api/vm/10000/status", f"X-API-Key: {key}")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.statuses: Counter[int] = Counter()
        self.took_ms: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for connection in self._connections:
            connection.close()

    def _run(self) -> None:
        turn = 0
        while not self._ending.wait(GOOD_PAUSE_S):
            connection = self._connections[turn % len(self._connections)]
            turn += 1
            began_s = time.perf_counter()
            connection.send(self._message)
            self.statuses[connection.receive() or 0] += 1
            self.took_ms.append((time.perf_counter() - began_s) * 1000)

    def take(self) -> list[float]:
        """Take what was measured since the last time."""
        taken, self.took_ms = self.took_ms, []
        return taken


@dataclass(frozen=True)
class Served:
    """The web half under attack."""

    port: int
    gunicorn: processes.Child
    redis: redis.Redis
    key: str

    def commands(self) -> Counter[str]:
        """Count what Redis has been asked, what scripts ask it included, by command."""
        return Counter({
            name.removeprefix("cmdstat_"): stats["calls"] for name, stats in self.redis.info("commandstats").items()
        })

    def memory_bytes(self) -> int:
        """Measure the memory of all its processes."""
        pid = self.gunicorn.process.pid
        group = os.getpgid(pid)
        pages = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(folder.name)) == group:
                    pages += int((folder / "statm").read_text().split()[1])
            except OSError:  # it has ended meanwhile
                continue
        return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def served(own_redis: RedisServer, tmp_path: Path) -> Iterator[Served]:
    """Two processes with all limits as they are by default, but for reads: the good client alone makes 100 a second."""
    web = Web(own_redis.url)
    web.key = web.make_key()
    web.publish()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}", "PORT": str(port)}
    environ |= {"REDIS_URL": own_redis.url, "WEB_PROCESSES": "2", "RATE_LIMIT_READS": "60000/minute"}
    line = processes.parse_procfile((ROOT / "Procfile").read_text())["web"]
    log = tmp_path / "web.log"
    child = processes.start("web", f"{line} >{shlex.quote(str(log))} 2>&1", os.environ | environ)
    with ExitStack() as cleanup:
        cleanup.callback(web.close)
        cleanup.callback(processes.stop, [child])
        until(30, "the web half listens", lambda: _listens(port))
        yield Served(port, child, cleanup.enter_context(own_redis.client()), web.key)
    assert "Traceback" not in log.read_text()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def attack(served: Served, count: int, rate: float, key_id: str) -> tuple[Counter[int], float]:
    """Let all attackers try; tell how they were answered, and how long it took."""
    argv = [sys.executable, "-m", "tests.faults.attacker", str(served.port), str(count // ATTACKERS)]
    running = [
        subprocess.Popen([*argv, str(rate / ATTACKERS), str(seed), key_id], stdout=subprocess.PIPE, cwd=ROOT, text=True)
        for seed in range(ATTACKERS)
    ]
    statuses: Counter[int] = Counter()
    longest_s = 0.0
    for process in running:
        told, _ = process.communicate(timeout=200)
        assert process.returncode == 0
        found = json.loads(told)
        statuses.update({int(status): number for status, number in found["statuses"].items()})
        longest_s = max(longest_s, found["took_s"])
    return statuses, longest_s


def p95(took_ms: list[float]) -> float:
    return statistics.quantiles(took_ms, n=20)[-1]


def test_wrong_keys_are_turned_away_and_a_good_one_hardly_notices(served: Served):
    key_id = served.key.split("_")[1]
    found: dict[str, list[float]] = {}
    with GoodClient(served.port, served.key) as good:
        until(20, "both processes know the good key", lambda: len(good.took_ms) >= 200)
        good.take()
        before = served.commands()
        until(30, "it was measured without anybody else", lambda: len(good.took_ms) >= 1500)
        asked_alone = served.commands() - before
        found["alone"] = good.take()
        per_good = asked_alone.total() / len(found["alone"])

        harmless, _ = attack(served, RATE * CONTROL_S, RATE, HARMLESS)
        found[f"with {RATE:,} harmless requests a second"] = good.take()
        assert set(harmless) == {200}

        before, memory_before = served.commands(), served.memory_bytes()
        paced, paced_s = attack(served, PACED, RATE, key_id)
        found[f"with {RATE:,} wrong keys a second"] = good.take()
        unpaced, unpaced_s = attack(served, UNPACED, 0, key_id)
        found["with as many wrong keys as get answers"] = good.take()
        asked = served.commands() - before
        memory_after = served.memory_bytes()
    answers = paced + unpaced
    good_ones = sum(len(times) for name, times in found.items() if "wrong" in name)
    for_tries = asked.total() - per_good * good_ones

    alone = p95(found["alone"])
    print()
    for name, times in found.items():
        ratio = p95(times) / alone
        print(f"good key {name}: p50 {statistics.median(times):.2f} ms, p95 {p95(times):.2f} ms ({ratio:.1f} x)")
    print(f"answers to wrong keys: {dict(answers)}; {PACED / paced_s:.0f} a second, then {UNPACED / unpaced_s:.0f}")
    print(
        f"Redis was asked {asked.total()} times, {for_tries:.0f} of them for wrong keys: {dict(asked.most_common(8))}"
    )
    print(f"memory of the web half: {memory_before >> 20} MB before, {memory_after >> 20} MB after")

    assert answers.total() == PACED + UNPACED
    assert set(answers) <= {401, 429}
    assert answers[401] < answers.total() / 100
    assert set(good.statuses) == {200}
    assert for_tries < MOST_COMMANDS_PER_TRY * answers.total()
    assert memory_after - memory_before < MOST_GROWTH_BYTES
    assert p95(found[f"with {RATE:,} wrong keys a second"]) < MOST_P95 * alone
