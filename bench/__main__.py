"""`python -m bench`: starts everything, measures piece by piece, prints the table, writes `$VAR_DIR/bench/latest.json`.

`python -m bench PIECE …` measures some pieces only. A piece that fails leaves its keys out and doesn't stop the others.
The exit status is 0 whatever the figures are.
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import agents, fleet, get, hung, many, output, restart, roundtrip, vms, waiters
from bench.agents import Fakes
from bench.goals import GOALS, table
from bench.scene import Node, Scene
from lab import accel, guest

LIMIT_S = 440
_OPEN_FILES = 16384
"""Each agent is a socket, and many shells give a process no more than 1024."""

VM, VM_TWIN = 10000, 10001
REAL = range(11000, 11050)
REAL_TWINS = range(12000, 12050)
ALONE = 20000
HONEST = range(30000, 30790)
SILENT = range(30790, 30990)
REAL_OF_FLEET = range(31000, 31010)
FLEET = (*HONEST, *SILENT, *REAL_OF_FLEET)

Figures = Iterator[tuple[str, float]]


class TimeIsUpError(KeyboardInterrupt):
    """The run has taken as long as it may. An event loop lets nothing else pass that a signal's handler raises."""


class Host:
    """All that runs in a bench, started when the first piece needs it."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        var_dir = Path(os.environ.get("VAR_DIR") or "var")
        self.guest = guest.build(var_dir)
        self.scene = Scene(folder, accel.choose(var_dir, self.guest), cleanup)
        self.scene.start_web()
        self._small: Node | None = None
        self._fleet: tuple[Node, Sequence[Fakes]] | None = None

    def small(self) -> Node:
        """Give the node with fifty real agents."""
        if self._small is None:
            agents.start_real([*REAL, *REAL_TWINS], self.scene.sockets, self.scene.cleanup)
            self._small = self._node("small", REAL)
        return self._small

    def fleet(self) -> tuple[Node, Sequence[Fakes]]:
        """Give the node with a thousand agents, and the processes of the fake ones."""
        if self._fleet is None:
            fakes = [Fakes(vmids, self.scene.sockets, self.scene.cleanup) for vmids in (HONEST, SILENT)]
            agents.start_real(REAL_OF_FLEET, self.scene.sockets, self.scene.cleanup)
            self._fleet = self._node("fleet", FLEET), fakes
        return self._fleet

    def alone(self) -> None:
        """Start a node with a single agent."""
        agents.start_real([ALONE], self.scene.sockets, self.scene.cleanup)
        self._node("alone", [ALONE])

    def twin(self, vmid: int) -> Path:
        """Name the socket that the raw road may use."""
        return self.scene.sockets / f"{vmid}.qga"

    def _node(self, name: str, vmids: Sequence[int]) -> Node:
        node = self.scene.node(name)
        for vmid in vmids:
            node.carry(vmid)
        node.start()
        self.scene.await_agents(vmids)
        return node


def _vm(host: Host) -> Figures:
    vms.boot(host.scene, host.small(), host.guest, VM, VM_TWIN)
    return roundtrip.measure_vm(host.scene, VM, host.twin(VM_TWIN))


def _agent(host: Host) -> Figures:
    host.small()
    return roundtrip.measure_agent(host.scene, REAL[0], host.twin(REAL_TWINS[0]))


def _get(host: Host) -> Figures:
    host.small()
    return get.measure(host.scene, REAL[0])


def _many(host: Host) -> Figures:
    host.small()
    return many.measure(host.scene, REAL, [host.twin(vmid) for vmid in REAL_TWINS])


def _output(host: Host) -> Figures:
    host.small()
    return output.measure(host.scene, REAL[0], host.twin(REAL_TWINS[0]))


def _waiters(host: Host) -> Figures:
    host.small()
    return waiters.measure(host.scene, REAL)


def _fleet(host: Host) -> Figures:
    node, _ = host.fleet()
    yield from fleet.measure_idle(FLEET, node)
    host.alone()
    yield from fleet.measure_one(host.scene, REAL_OF_FLEET[0], ALONE)
    yield from fleet.measure_ends(host.scene, FLEET)


def _hung(host: Host) -> Figures:
    _, (_, silent) = host.fleet()
    return hung.measure(host.scene, HONEST, silent)


def _restart(host: Host) -> Figures:
    node, fakes = host.fleet()
    return restart.measure(host.scene, node, FLEET, fakes)


PIECES: dict[str, Callable[[Host], Figures]] = {
    "agent": _agent,
    "vm": _vm,
    "get": _get,
    "many": _many,
    "output": _output,
    "waiters": _waiters,
    "fleet": _fleet,
    "hung": _hung,
    "restart": _restart,
}


def measure(wanted: Sequence[str], folder: Path, found: dict[str, float]) -> bool:
    """Measure piece by piece into `found`; answer whether all went well."""
    well = True
    with ExitStack() as cleanup:
        host = Host(folder, cleanup)
        for name in wanted:
            began_s = time.monotonic()
            try:
                for key, value in PIECES[name](host):
                    found[key] = round(value, 3)
                    print(f"  {key} {found[key]:g}", flush=True)
            except Exception:  # noqa: BLE001 - whatever goes wrong with one piece, the others can be measured
                traceback.print_exc()
                well = False
            print(f"{name}: {time.monotonic() - began_s:.0f} s", flush=True)
    return well


def write(found: dict[str, float], folder: Path) -> Path:
    """Write the figures, in the table's order."""
    folder.mkdir(parents=True, exist_ok=True)
    partial, path = folder / "latest.partial", folder / "latest.json"
    partial.write_text(json.dumps({key: found[key] for key in GOALS if key in found}, indent=2) + "\n")
    partial.rename(path)
    return path


def main() -> int:
    """Run; the exit status says whether the run itself came to its end, not what came out."""
    wanted = sys.argv[1:] or list(PIECES)
    if unknown := set(wanted) - set(PIECES):
        print(f"no such piece: {', '.join(sorted(unknown))}; there are {', '.join(PIECES)}")
        return 2
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _OPEN_FILES), most))
    signal.signal(signal.SIGALRM, _end_in_time)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.alarm(LIMIT_S)
    folder = Path(tempfile.mkdtemp(prefix="ownup-bench-"))
    found: dict[str, float] = {}
    well = False
    try:
        well = measure(wanted, folder, found)
    except TimeIsUpError:
        print(f"after {LIMIT_S} s the rest is left out")
    except KeyboardInterrupt:
        print("stopped; the rest is left out")
    signal.alarm(0)
    print(f"\n{table(found)}\n\n{write(found, Path(os.environ.get('VAR_DIR') or 'var') / 'bench')}")
    if well:
        shutil.rmtree(folder)
    else:
        print(f"logs: {folder}")
    return 0


def _end_in_time(*_: object) -> None:
    raise TimeIsUpError


if __name__ == "__main__":
    sys.exit(main())
