"""The audit trail under faults: each call that was answered has its one entry, and what was begun never has none."""

import json
import os
import queue
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import redis
import requests

from app.audit import Audit
from app.audit_chain import Seal
from app.core import clock, ids
from app.core.store import Store
from app.core.store.audit import Link
from lab.demo import Api
from tests.audit_trail import TAMPERINGS, assert_whole, entries, ownup_audit, request_ids
from tests.faults.guests import Guests
from tests.faults.plan import Guest, Peer
from tests.faults.stage import Stage, until

SECRET = "the secret of this run"
CALLS, CLIENTS, SPAN_S = 1000, 16, 16.0
VMIDS = (10001, 10002, 10003)
TAMPERED = 100

FAULTS = ((2.0, "worker"), (4.0, "redis"), (8.0, "worker"), (10.0, "redis"), (13.0, "both"))
REDIS_DOWN_S = 1.2


@dataclass(frozen=True)
class Told:
    """What a client was told of a call."""

    mark: str
    status: int
    request_id: str


@dataclass(frozen=True)
class Scene:
    """The product, with agents and no VM."""

    stage: Stage
    api: Api
    redis: "redis.Redis"
    folder: Path


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    patch = pytest.MonkeyPatch()
    patch.setenv("AUDIT_COMMANDS", "full")
    patch.setenv("AUDIT_SECRET", SECRET)
    with tempfile.TemporaryDirectory(prefix="ownup") as name, patch.context():
        folder = Path(name)
        fleet = tuple(Guest(vmid, Peer.FAKE) for vmid in VMIDS)
        guests = Guests(folder, fleet, None)  # only a VM would be made of it
        guests.prepare()
        guests.start_agents()
        stage = Stage(folder, guests, "tcg")
        try:
            api = stage.start()
            for vmid in VMIDS:
                until(20, f"VM {vmid} is there", lambda vmid=vmid: _available(api, vmid))  # type: ignore[misc]
            with redis.Redis.from_url(stage.redis_url) as client:
                yield Scene(stage, api, client, folder)
        finally:
            stage.stop()
            guests.stop_agents()
            patch.undo()


def _available(api: Api, vmid: int) -> bool:
    found = api.find(f"/api/vm/{vmid}/agent/exec")
    return bool(found and found["available"])


def call(http: requests.Session, url: str, number: int) -> Told:
    """Do something that is to be audited; each sixth is something else than a command, or wrong."""
    vmid, mark = VMIDS[number % len(VMIDS)], f"mark-{number:04}"
    line = {"command": f"echo {mark}"}
    exec_path = f"{url}/api/vm/{vmid}/agent/exec"
    match number % 6:
        case 0:
            answer = http.post(exec_path, json=line | {"wait": 5}, timeout=60)
        case 1:
            answer = http.post(f"{url}/api/v2/vps/{ids.vps_id(vmid)}/agent/exec", json=line, timeout=60)
        case 2:
            answer = http.post(f"{url}/api/vm/99999/agent/exec", json=line, timeout=60)
        case 3:
            answer = http.post(exec_path, json={"command": f"rm -rf /; {mark}"}, timeout=60)
        case 4:
            body = {"command": {"type": "exec", "arguments": {"command": ["echo", mark]}}}
            path = f"{url}/v2.1/servers/{ids.openstack_id(vmid)}/guest-agent/commands"
            answer = http.post(path, json=body, timeout=60)
        case _:
            answer = http.post(exec_path, json=line, timeout=60)
    return Told(mark, answer.status_code, answer.headers["X-Request-Id"])


def work(scene: Scene, numbers: "queue.SimpleQueue[int]", began_s: float, told: list[Told], broken: list[str]) -> None:
    """Be one client: take the next call when its moment has come."""
    with requests.Session() as http:
        http.headers.update({"X-API-Key": scene.api.key, "X-Auth-Token": scene.api.key})
        while (number := _next(numbers)) is not None:
            time.sleep(max(0.0, began_s + number * SPAN_S / CALLS - time.monotonic()))
            try:
                told.append(call(http, f"http://127.0.0.1:{scene.api.port}", number))
            except requests.RequestException as exc:
                broken.append(f"{number}: {exc!r}")


def _next(numbers: "queue.SimpleQueue[int]") -> int | None:
    try:
        return numbers.get_nowait()
    except queue.Empty:
        return None


def do_faults(scene: Scene, began_s: float) -> Counter[str]:
    """Kill what is to be killed, at its moment, and bring it back."""
    done: Counter[str] = Counter()
    for at_s, target in FAULTS:
        time.sleep(max(0.0, began_s + at_s - time.monotonic()))
        if target != "worker":
            scene.stage.end_redis(politely=False)
            done["redis"] += 1
        if target != "redis":
            scene.stage.kill_worker()
            done["worker"] += 1
        if target != "worker":
            time.sleep(REDIS_DOWN_S)
            scene.stage.start_redis()
    return done


@pytest.mark.timeout(120)
def test_each_call_that_was_answered_has_its_one_entry(scene: Scene):
    told: list[Told] = []
    broken: list[str] = []
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(CALLS):
        numbers.put(number)
    began_s = time.monotonic()
    clients = [threading.Thread(target=work, args=(scene, numbers, began_s, told, broken)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    faults = do_faults(scene, began_s)
    for client in clients:
        client.join()
    took_s = time.monotonic() - began_s
    until(10, "no entry waits", lambda: scene.redis.xlen("ownup:audit") >= CALLS)

    found = {entry["requestId"]: entry for entry in entries(scene.redis)}
    counts = Counter(request_ids(scene.redis))
    statuses = Counter(each.status for each in told)
    lines = [
        json.loads(line) for line in scene.stage.log("web").read_text().splitlines() if line.startswith('{"event"')
    ]
    logged = Counter(line["requestId"] for line in lines)
    print(
        f"\n{len(told)} calls by {CLIENTS} clients in {took_s:.1f} s, answered {dict(sorted(statuses.items()))}; "
        f"killed {dict(faults)}\n{sum(counts.values())} entries of {len(counts)} request ids; "
        f"{sum('seq' not in line for line in lines)} of them waited for Redis"
    )
    assert broken == []
    assert len(told) == CALLS
    assert statuses[503] > 10
    assert statuses[200] > CALLS / 3
    assert counts == Counter(each.request_id for each in told) == logged
    for each in told:
        entry = found[each.request_id]
        assert entry["outcome"]["status"] == each.status
        assert each.mark in entry["what"].get("command", each.mark)
    assert scene.redis.hlen("ownup:audit:open") == 0
    assert (
        assert_whole(scene.stage.redis_url, AUDIT_SECRET=SECRET) == f"{CALLS} entries, 1 to {CALLS}: the chain is whole"
    )


def test_each_of_many_random_tamperings_is_found(scene: Scene):
    """In Redis itself, by who has its password and not the secret."""
    draw = random.Random(20260210)
    scene.redis.copy("ownup:audit", "backup")
    kept = [Link(fields[b"entry"].decode(), fields[b"hash"].decode()) for _, fields in scene.redis.xrange("backup")]
    kinds: Counter[str] = Counter()
    missed = []
    for number in range(TAMPERED):
        tamper = TAMPERINGS[number % len(TAMPERINGS)]
        with scene.redis.pipeline() as pipe:
            pipe.delete("ownup:audit")
            for link in tamper(kept, draw):
                pipe.xadd("ownup:audit", {"entry": link.text, "hash": link.hash})
            pipe.execute()
        result = ownup_audit(scene.stage.redis_url, "verify", AUDIT_SECRET=SECRET)
        if result.exit_code != 1:
            missed.append(f"{tamper.__name__}: {result.output}")
        kinds.update({word for word in ("changed", "removed", "added", "order") if f": {word} (" in result.output})
    print(f"\n{TAMPERED - len(missed)} of {TAMPERED} tamperings of {len(kept)} entries found, as {dict(kinds)}")
    scene.redis.rename("backup", "ownup:audit")
    assert missed == []
    assert_whole(scene.stage.redis_url, AUDIT_SECRET=SECRET)


def test_what_a_killed_web_process_had_handed_over_gets_its_entry(scene: Scene):
    before = scene.redis.xlen("ownup:audit")
    asked = threading.Thread(target=_ask_and_wait, args=(scene,))
    asked.start()
    until(10, "it is handed over", lambda: scene.redis.hlen("ownup:audit:open"))
    (request_id,) = scene.redis.hkeys("ownup:audit:open")
    os.killpg(scene.stage._children["web"].process.pid, signal.SIGKILL)
    asked.join()
    assert scene.redis.xlen("ownup:audit") == before
    later = Audit(
        Store(scene.redis), Seal(SECRET), max_entries=100_000, clock=lambda: clock.now() + timedelta(hours=1, seconds=1)
    )
    later.write({"requestId": "any", "when": clock.now().isoformat()})
    left = entries(scene.redis)[-1]
    assert left["requestId"] == request_id.decode()
    assert left["outcome"] == {"status": None, "error": "unknown"}
    assert left["what"]["command"] == "sleep 30"
    assert_whole(scene.stage.redis_url, AUDIT_SECRET=SECRET)


def _ask_and_wait(scene: Scene) -> None:
    headers = {"X-API-Key": scene.api.key}
    url = f"http://127.0.0.1:{scene.api.port}/api/vm/{VMIDS[0]}/agent/exec"
    with pytest.raises(requests.ConnectionError):
        requests.post(url, json={"command": "sleep 30", "wait": 30}, headers=headers, timeout=60)
