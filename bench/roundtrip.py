"""One short command at a time, by every road in turns: what a road adds shows, whatever else the machine does.

`vm.*` in a real VM, `agent.*` with a real agent without a VM. The raw road has a twin of its own, because an agent
talks to one client at a time.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from bench.client import Client, exec_path
from bench.figures import in_ms, median
from bench.raw import RawAgent
from bench.scene import Scene
from lab import LabError

ROUNDS = 220
_WARM_ROUNDS = 20
_LINE = "echo hi"
_OUTPUT = "hi\n"
_WAIT_S = 30


def measure_vm(scene: Scene, vmid: int, twin: Path) -> Iterator[tuple[str, float]]:
    """Compare the roads into a VM."""
    with ExitStack() as opened:
        client = opened.enter_context(scene.client())
        raw = opened.enter_context(RawAgent(twin))
        medians = _in_turns({
            "raw": lambda: _run_raw(raw),
            "patient": lambda: _run_raw(raw, leave_alone=True),
            "http": lambda: run_waiting(client, vmid),
            "poll": lambda: _run_polling(client, vmid),
        })
    yield "vm.raw_p50_ms", in_ms(medians["raw"])
    yield "vm.http_p50_ms", in_ms(medians["http"])
    yield "vm.http_over_raw", medians["http"] / medians["raw"]
    yield "vm.http_poll_over_raw", medians["poll"] / medians["raw"]
    yield "vm.http_over_patient_raw", medians["http"] / medians["patient"]


def measure_agent(scene: Scene, vmid: int, twin: Path) -> Iterator[tuple[str, float]]:
    """Compare the roads to an agent on this host."""
    with scene.client() as client, RawAgent(twin) as raw:
        medians = _in_turns({
            "raw": lambda: _run_raw(raw),
            "http": lambda: run_waiting(client, vmid),
        })
    yield "agent.http_minus_raw_p50_ms", in_ms(medians["http"] - medians["raw"])


def run_waiting(client: Client, vmid: int) -> str:
    """Run the command in one request."""
    stdout: str = client.post(exec_path(vmid), command=_LINE, wait=_WAIT_S)["stdout"]
    return stdout


def _run_raw(agent: RawAgent, *, leave_alone: bool = False) -> str:
    return agent.run(_LINE, leave_alone=leave_alone).stdout.decode()


def _run_polling(client: Client, vmid: int) -> str:
    pid = client.post(exec_path(vmid), command=_LINE)["pid"]
    while not (result := client.get(f"{exec_path(vmid)}?pid={pid}"))["exited"]:
        pass
    stdout: str = result["stdout"]
    return stdout


def _in_turns(roads: dict[str, Callable[[], str]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in roads}
    for _ in range(_WARM_ROUNDS + ROUNDS):
        for name, road in roads.items():
            began_s = time.perf_counter()
            output = road()
            times[name].append(time.perf_counter() - began_s)
            if output != _OUTPUT:
                raise LabError(f"{_LINE!r} by the road {name} gave {output!r}")
    return {name: median(found[_WARM_ROUNDS:]) for name, found in times.items()}
