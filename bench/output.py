"""`output.*`: how fast 8 MiB of output come through HTTP, against the raw socket and a base64 decoder."""

import base64
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.client import exec_path
from bench.figures import median
from bench.raw import RawAgent
from bench.scene import Scene
from lab import LabError

SIZE_BYTES = 8 * 1024 * 1024
ROUNDS = 7

_WAIT_S = 30


def measure(scene: Scene, vmid: int, twin: Path) -> Iterator[tuple[str, float]]:
    """Fetch the same text by both roads in turns. It is random, so that nothing is gained by compression."""
    file = scene.folder / "output.txt"
    file.write_bytes(base64.b64encode(os.urandom(SIZE_BYTES * 3 // 4)))
    line = f"cat {file}"
    with scene.client() as client, RawAgent(twin) as raw:
        http_s, raw_s = _in_turns(
            lambda: len(client.post(exec_path(vmid), command=line, wait=_WAIT_S)["stdout"]),
            lambda: len(raw.run(line).stdout),
        )
    yield "output.mb_per_s_over_raw", raw_s / http_s


def _in_turns(http: Callable[[], int], raw: Callable[[], int]) -> tuple[float, float]:
    times = [(_time_s(http), _time_s(raw)) for _ in range(ROUNDS)][1:]
    return median([http_s for http_s, _ in times]), median([raw_s for _, raw_s in times])


def _time_s(fetch: Callable[[], int]) -> float:
    began_s = time.perf_counter()
    size_bytes = fetch()
    took_s = time.perf_counter() - began_s
    if size_bytes != SIZE_BYTES:
        raise LabError(f"{size_bytes} bytes of output instead of {SIZE_BYTES}")
    return took_s
