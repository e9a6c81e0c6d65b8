"""The product in a bench run: a private Redis, the web half, a worker for each node, and definitions of its VMs.

Started as the Procfile says, with the product's own defaults but for rate limits that are out of reach. Everything is
started from the main thread, because the kernel ends a child when the thread that started it ends, and ended by
`cleanup`.
"""

import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench.client import Client
from lab import LabError, processes, run
from lab.definitions import ACCOUNT
from lab.demo import Api, read_key
from lab.limits import HIGH_LIMITS
from lab.processes import Child
from lab.watch import Watch

_ROOT = Path(__file__).resolve().parents[1]
_START_TIMEOUT_S = 60
_POLL_S = 0.005

T = TypeVar("T")


def until(timeout_s: float, what: str, probe: Callable[[], T | None], pause_s: float = _POLL_S) -> T:
    """Probe until there is an answer that counts.

    Raises:
        LabError: There was none in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (found := probe()):
        if time.monotonic() > deadline_s:
            raise LabError(f"not within {timeout_s:g} s: {what}")
        time.sleep(pause_s)
    return found


class Scene:
    """What every measurement shares."""

    def __init__(self, folder: Path, accelerator: str, cleanup: ExitStack) -> None:
        self.folder = folder
        self.cleanup = cleanup
        self.sockets = folder / "run"
        self.sockets.mkdir(mode=0o700)
        self._procfile = processes.parse_procfile((_ROOT / "Procfile").read_text(encoding="utf-8"))
        self.redis_url = run.start_redis(Watch(), cleanup, folder, self.sockets)
        self.port = _free_port()
        self._environ = {
            **os.environ,
            **HIGH_LIMITS,
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "REDIS_URL": self.redis_url,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "QEMU_ACCEL": accelerator,
        }
        self.key = read_key(folder / "key", Path(sys.executable).with_name("ownup"), self._environ)
        self.api = Api(self.port, self.key)

    def client(self) -> Client:
        """Connect to the web half."""
        return Client(self.port, self.key)

    def start_web(self) -> Child:
        """Start the web half and wait until it answers."""
        web = self._start("web", self._procfile["web"], {})
        until(_START_TIMEOUT_S, "the web half answers", lambda: self.api.find("/healthz"))
        return web

    def start_bare(self, answers: Path) -> int:
        """Start the bare Flask view under the web half's own gunicorn settings; answer its port."""
        port = _free_port()
        line = self._procfile["web"].replace("app.wsgi:app", "bench.bare:app")
        self._start("bare", line, {"PORT": str(port), "BENCH_ANSWERS": str(answers)})
        api = Api(port, "")
        until(_START_TIMEOUT_S, "the bare view answers", lambda: api.find("/result"))
        return port

    def node(self, name: str) -> "Node":
        """Describe a node; its worker isn't started yet."""
        return Node(self, name)

    def start_worker(self, name: str, own: Mapping[str, str]) -> Child:
        """Start a worker."""
        return self._start(f"worker-{name}", self._procfile["worker"], own)

    def await_agents(self, vmids: Iterable[int]) -> None:
        """Wait until commands can be run in each of these VMs."""
        for vmid in vmids:
            until(_START_TIMEOUT_S, f"the agent of VM {vmid} is available", partial(self._is_available, vmid))

    def _is_available(self, vmid: int) -> bool:
        found = self.api.find(f"/api/vm/{vmid}/agent/exec")
        return bool(found and found["available"])

    def _start(self, name: str, shell_line: str, own: Mapping[str, str]) -> Child:
        log = self.folder / f"{name}.log"
        line = f"{shell_line} >>{shlex.quote(str(log))} 2>&1"
        child = processes.start(name, line, {**self._environ, **own})
        self.cleanup.callback(processes.stop, [child])
        return child


class Node:
    """One node: its definitions and its worker."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene = scene
        self._name = name
        self._definitions = scene.folder / f"vms-{name}"
        self._definitions.mkdir()
        self._own = {
            "NODE_NAME": name,
            "VM_DIR": str(self._definitions),
            "SPOOL_DIR": str(scene.folder / f"spool-{name}"),
        }
        self._worker: Child | None = None

    def carry(self, vmid: int) -> None:
        """Define a VM that has an agent socket and nothing else."""
        qga = self._scene.sockets / f"{vmid}.qga"
        text = f'vmid = {vmid}\nname = "vm-{vmid}"\naccount = "{ACCOUNT}"\n[sockets]\nqga = "{qga}"\n'
        self.define(vmid, text)

    def define(self, vmid: int, text: str) -> None:
        """Write a definition; it appears whole."""
        partial = self._definitions / f"{vmid}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(self._definitions / f"{vmid}.toml")

    def drop(self, vmid: int) -> None:
        """Take a definition away."""
        (self._definitions / f"{vmid}.toml").unlink()

    def start(self) -> None:
        """Start its worker."""
        self._worker = self._scene.start_worker(self._name, self._own)

    def kill(self) -> None:
        """Kill its worker as nothing else does: no handler runs."""
        worker = self._get_worker()
        worker.process.kill()
        worker.process.wait()

    def rss_bytes(self) -> int:
        """Measure the memory that its worker holds."""
        lines = Path(f"/proc/{self._get_worker().process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024

    def cpu_s(self) -> float:
        """Measure how long its worker has computed."""
        fields = (
            Path(f"/proc/{self._get_worker().process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _get_worker(self) -> Child:
        if self._worker is None:
            raise LabError(f"the worker of node {self._name} was not started")
        return self._worker


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
