"""The product in a fault run: a private Redis, web and worker as the Procfile names them, and who brings them back.

Every process is started from the main thread: the kernel ends a child of ours when the thread that started it ends.
"""

import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lab import LabError, processes
from lab.demo import Api, read_key
from lab.limits import HIGH_LIMITS
from lab.run import ping_redis
from tests.faults.guests import Guests
from tests.faults.plan import Peer
from tests.net import NET

NODE = "node-1"

QUICK = {"AGENT_PROBE_S": "1", "AGENT_LOST_S": "20"}
"""Waits of the worker that are made shorter, so that a run sees more; all other settings are the product's defaults."""

_ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 60
_REDIS_STOP_TIMEOUT_S = 20
_POLL_S = 0.02

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


class Stage:
    """Everything that runs beside the guests."""

    def __init__(self, folder: Path, guests: Guests, accelerator: str) -> None:
        self._folder = folder
        self._guests = guests
        self._redis_socket = folder / "redis.sock"
        self._accelerator = accelerator
        self._procfile = processes.parse_procfile((_ROOT / "Procfile").read_text(encoding="utf-8"))
        self._children: dict[str, processes.Child] = {}
        self.redis_url = f"unix://{self._redis_socket}"
        self.port = _free_port()
        self.fallen: list[str] = []
        """What ended without having been told to."""
        self.hung_up_agents = 0
        """How often a qemu-ga ended because its client was killed before its reply (only one that listens does)."""

    def start(self) -> Api:
        """Start everything; answer the way in, with a key that may do all."""
        (self._folder / "redis").mkdir()
        self.start_redis()
        key = read_key(self._folder / "key", Path(sys.executable).with_name("ownup"), self._environ())
        api = Api(self.port, NET.watch_key(key))
        for name in self._procfile:
            self._start(name, self._procfile[name])
        until(_START_TIMEOUT_S, "web and worker are ready", lambda: api.find("/readyz"))
        return api

    def stop(self) -> None:
        """End everything: the worker before its VM, which it would see fall, and Redis last."""
        processes.stop(child for name, child in self._children.items() if name != "redis")
        processes.stop_vms(self._guests.sockets)
        processes.stop(child for name, child in self._children.items() if name == "redis")
        for name in self._children:
            NET.search_file(self.log(name))

    def supervise(self) -> None:
        """Bring back what has ended by itself, as a supervisor would, and take note of it."""
        for name, child in list(self._children.items()):
            if child.process.poll() is not None:
                self.fallen.append(f"{name} ended by itself, with status {child.process.returncode}")
                self.start_redis() if name == "redis" else self._start(name, self._procfile[name])
        for guest, status in list(self._guests.find_fallen()):
            if guest.peer is Peer.QEMU_GA and status == 0:
                self.hung_up_agents += 1
            else:
                self.fallen.append(f"the agent of VM {guest.vmid} ended by itself, with status {status}")
            self._guests.start_agent(guest)

    def kill_worker(self) -> None:
        """SIGKILL the worker and start the next one at once."""
        self._end("worker")
        self._start("worker", self._procfile["worker"])

    def end_redis(self, *, politely: bool) -> None:
        """End Redis: by SHUTDOWN, as a restart of its service does, or by SIGKILL."""
        if not politely:
            self._end("redis")
            return
        process = self._children.pop("redis").process
        with redis.Redis(unix_socket_path=str(self._redis_socket), retry=Retry(NoBackoff(), 0)) as client:
            client.shutdown(nosave=True)
        process.wait(_REDIS_STOP_TIMEOUT_S)

    def signal_redis(self, number: signal.Signals) -> None:
        self._children["redis"].process.send_signal(number)

    def start_redis(self) -> None:
        """Start Redis on what it has kept.

        `appendfsync always`: what it has acknowledged is in the file. With `everysec` it would put a write off for up
        to two seconds while a sync is under way, and a SIGKILL then loses what was acknowledged.
        """
        argv = ["redis-server", "--port", "0", "--unixsocket", str(self._redis_socket), "--save", ""]
        argv += ["--dir", str(self._folder / "redis"), "--appendonly", "yes", "--appendfsync", "always"]
        self._start("redis", shlex.join(argv))
        until(_START_TIMEOUT_S, "Redis answers", lambda: ping_redis(self._redis_socket))

    def worker_rss_bytes(self) -> int:
        """Measure the memory that the worker occupies."""
        pages = int(Path(f"/proc/{self._children['worker'].process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log(self, name: str) -> Path:
        """Name the file with everything that a program has printed, over all its lives."""
        return self._folder / f"{name}.log"

    def _start(self, name: str, shell_line: str) -> None:
        line = f"{shell_line} >>{shlex.quote(str(self.log(name)))} 2>&1"
        self._children[name] = processes.start(name, line, self._environ())

    def _end(self, name: str) -> None:
        process = self._children.pop(name).process
        process.kill()
        process.wait()

    def _environ(self) -> dict[str, str]:
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "REDIS_URL": self.redis_url,
            "VM_DIR": str(self._guests.definitions),
            "SPOOL_DIR": str(self._folder / "spool"),
            "NODE_NAME": NODE,
            "QEMU_ACCEL": self._accelerator,
        }
        return {**os.environ, **HIGH_LIMITS, **own, **QUICK}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
