"""`get.*`: how many reads a second, against a bare Flask view of the same JSON under the same gunicorn settings."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from bench.client import exec_path
from bench.figures import median
from bench.scene import Scene
from lab import LabError

CONNECTIONS = 16
ROUNDS = 15
ROUND_S = 1

_RPS = re.compile(r"Requests/sec:\s+([0-9.]+)")


@dataclass(frozen=True)
class _Target:
    name: str
    url: str
    headers: tuple[str, ...]


def measure(scene: Scene, vmid: int) -> Iterator[tuple[str, float]]:
    """Let wrk ask for a finished result, for a status and for their bare twins, in turns."""
    with scene.client() as client:
        pid = client.post(exec_path(vmid), command="echo hi", wait=30)["pid"]
    paths = {"result": f"{exec_path(vmid)}?pid={pid}", "status": f"/api/vm/{vmid}/status"}
    for name, path in paths.items():
        (scene.folder / f"{name}.json").write_text(json.dumps(_whole(scene, path)))
    bare_port = scene.start_bare(scene.folder)
    key = (f"X-API-Key: {scene.key}",)
    targets = [_Target(name, f"http://127.0.0.1:{scene.port}{path}", key) for name, path in paths.items()]
    targets += [_Target(f"bare {name}", f"http://127.0.0.1:{bare_port}/{name}", key) for name in paths]
    rates = _in_turns(targets)
    yield "get.result_rps", rates["result"]
    yield "get.status_rps", rates["status"]
    yield "get.bare_flask_rps", rates["bare result"]
    yield "get.result_over_bare", rates["result"] / rates["bare result"]
    yield "get.status_over_bare", rates["status"] / rates["bare status"]


def _whole(scene: Scene, path: str) -> object:
    _, data = scene.api.call("GET", path)
    stamp, request_id = "2026-02-10T00:00:00.000Z", "2121ae20-bd9d-41e9-aeeb-5dd1dd1a24ba"
    return {"success": True, "timestamp": stamp, "requestId": request_id, "data": data}


def _in_turns(targets: list[_Target]) -> dict[str, float]:
    for target in targets:
        _rate(target, 1)  # warm
    rates: dict[str, list[float]] = {target.name: [] for target in targets}
    for _ in range(ROUNDS):
        for target in targets:
            rates[target.name].append(_rate(target, ROUND_S))
    for name, found in rates.items():
        print(f"    {name}: {min(found):.0f} to {max(found):.0f} requests a second")
    return {name: median(found) for name, found in rates.items()}


def _rate(target: _Target, seconds: int) -> float:
    argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    for header in target.headers:
        argv += ["-H", header]
    done = subprocess.run([*argv, target.url], capture_output=True, text=True, check=True).stdout
    found = _RPS.search(done)
    if found is None or "Non-2xx" in done or "Socket errors" in done:
        raise LabError(f"wrk on {target.name}: {done}")
    return float(found[1])
