"""What the fault tests share: real workers, real agents, and a customer who goes without the web half.

Everything that is started here ends with its ``with`` block, also when the test fails.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from app.core import ids
from app.core.clock import now
from app.core.queues import START_COMMAND, queue_name
from app.core.records import Command, CommandRequest, CommandState
from app.core.store import Store, commands, vms
from app.core.store.commands import Result
from app.core.store.vms import VmView

BLOCKED = (
    "guest-shutdown,guest-set-time,guest-set-user-password,guest-set-vcpus,guest-set-memory-blocks,guest-suspend-disk,"
    "guest-suspend-ram,guest-suspend-hybrid,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,"
    "guest-fstrim,guest-ssh-add-authorized-keys,guest-ssh-remove-authorized-keys"
)
"""What the real agent must not do to the machine the tests run on."""

MIB = 1024 * 1024
ACCOUNT = "acme"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0

T = TypeVar("T")


def until(timeout_s: float, what: str, probe: Callable[[], T | None], pause_s: float = 0.005) -> T:
    """Probe until there is an answer that counts."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(pause_s)
    return found


@contextlib.contextmanager
def running(argv: Sequence[str | Path], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program that ends, with the whole of its process group, when the block does."""
    process = subprocess.Popen(argv, process_group=0, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def real_agent(path: Path, *, prefix: Sequence[str] = ()) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a real qemu-ga; what it is told to run, runs on this machine."""
    state = path.with_suffix(".state")
    state.mkdir(exist_ok=True)
    with running([*prefix, "qemu-ga", "-m", "unix-listen", "-p", path, "-t", state, "-b", BLOCKED]) as agent:
        until(5, "qemu-ga listens", path.exists)
        yield agent


@contextlib.contextmanager
def fake_agents(folder: Path, first_vmid: int, count: int, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run fake agents in a process of their own; their sockets are ``<folder>/<vmid>.qga``."""
    argv = [sys.executable, "-m", "lab.fake_agent", "--dir", folder, "--first-vmid", str(first_vmid)]
    with running([*argv, "--count", str(count), *options], stdout=subprocess.DEVNULL) as agents:
        for vmid in range(first_vmid, first_vmid + count):
            until(10, f"agent {vmid} listens", (folder / f"{vmid}.qga").exists)
        yield agents


class Worker:
    """A real worker process with folders and a log of its own."""

    def __init__(
        self, folder: Path, redis_url: str, *, node: str = "node-1", prefix: Sequence[str] = (), **environ: str
    ) -> None:
        self.folder = folder
        self.vm_dir, self.log_path = folder / "vms", folder / "worker.log"
        self.vm_dir.mkdir(parents=True, exist_ok=True)
        self._argv = [*prefix, sys.executable, "-m", "workers"]
        own = {"REDIS_URL": redis_url, "NODE_NAME": node, "VM_DIR": str(self.vm_dir), "VM_SCAN_S": "0.2"}
        self._environ = {**os.environ, **own, "SPOOL_DIR": str(folder / "spool"), **environ}
        self._process: subprocess.Popen[bytes] | None = None
        self._before = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        """Everything that all lives of this worker have written."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def carry(self, vmid: int, qga: Path) -> None:
        """Define a VM that has an agent socket and nothing else."""
        text = f'vmid = {vmid}\nname = "vm-{vmid}"\naccount = "{ACCOUNT}"\n[sockets]\nqga = "{qga}"\n'
        partial = self.vm_dir / f"{vmid}.partial"
        partial.write_text(text)
        partial.rename(self.vm_dir / f"{vmid}.toml")

    def drop(self, vmid: int) -> None:
        """Take the definition of a VM away."""
        (self.vm_dir / f"{vmid}.toml").unlink()

    def start(self) -> None:
        """Start a life of it; doesn't wait."""
        self._before = len(self.log)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(self._argv, env=self._environ, stdin=subprocess.DEVNULL, stderr=log)

    @property
    def last_words(self) -> str:
        """What its present life has written."""
        return self.log[self._before :]

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it takes jobs."""

        def ready() -> bool:
            assert self.process.poll() is None, self.last_words
            return "event=worker_ready" in self.last_words

        until(timeout_s, "the worker is ready", ready)

    def kill(self) -> None:
        """Kill it as nothing else does: no handler runs."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end; answer its exit code."""
        self.process.terminate()
        return self.process.wait(STOP_TIMEOUT_S)

    def rss_bytes(self) -> int:
        """Tell how much memory it holds."""
        return self._memory("VmRSS")

    def peak_bytes(self) -> int:
        """Tell the most memory it held since the last ``forget_peak``."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Begin to measure the peak anew (Source: proc(5), clear_refs, 5)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        """Tell how long it has computed."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _memory(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


class Customer:
    """Starts commands as the web half does, and reads their records."""

    def __init__(self, redis_url: str, *, node: str = "node-1") -> None:
        self.client = redis.Redis.from_url(redis_url)
        self.store = Store(self.client)
        self._node = node
        self._queue = Queue(queue_name(node), connection=self.client, serializer=JSONSerializer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def vm(self, vmid: int) -> VmView | None:
        """Read a VM."""
        return self.store.run(vms.read(vmid))

    def wait_available(self, vmid: int, timeout_s: float = 15) -> None:
        """Wait until commands can be run in a VM."""

        def available() -> bool:
            view = self.vm(vmid)
            return view is not None and view.node_alive and view.vm.agent_available

        until(timeout_s, f"the agent of VM {vmid} is available", available)

    def start(self, vmid: int, line: str, *, deliver_within_s: float = 10) -> str:
        """Record a command and hand it to the node; answer the record's id."""
        command = Command(
            id=ids.command_id(),
            vmid=vmid,
            account=ACCOUNT,
            node=self._node,
            state=CommandState.QUEUED,
            created_at=now(),
            deliver_by=now() + timedelta(seconds=deliver_within_s),
        )
        call = commands.create(command, CommandRequest(line=line), deliver_within_s=deliver_within_s)
        assert self.store.run(call)
        self._queue.enqueue_call(START_COMMAND, args=(command.id, vmid), timeout=600, result_ttl=60)
        return command.id

    def find(self, command_id: str) -> Command:
        """Read a record."""
        found = self.store.run(commands.find(command_id))
        assert found is not None
        return found

    def wait(self, command_id: str, timeout_s: float = 30, pause_s: float = 0.002) -> Command:
        """Wait until a command has ended."""

        def ended() -> Command | None:
            command = self.find(command_id)
            return command if command.state.ended else None

        return until(timeout_s, f"command {command_id} ends", ended, pause_s)

    def wait_running(self, command_id: str, timeout_s: float = 10) -> Command:
        """Wait until a command runs, or has run."""

        def started() -> Command | None:
            command = self.find(command_id)
            return command if command.state is not CommandState.QUEUED else None

        return until(timeout_s, f"command {command_id} starts", started)

    def result(self, command: Command) -> Result:
        """Read a command's output."""
        assert command.pid is not None, command
        found = self.store.run(commands.read_result(command.vmid, command.pid)).result
        assert found is not None
        return found if found.whole else self.store.run(commands.fetch_output(found))

    def run(self, vmid: int, line: str, timeout_s: float = 30) -> Result:
        """Run a command to its end."""
        return self.result(self.wait(self.start(vmid, line), timeout_s))


class Pulse(threading.Thread):
    """Runs a command in one VM again and again; each must come back with its own output."""

    def __init__(
        self, redis_url: str, vmid: int, *, node: str = "node-1", line: str = "echo {}", size: int = 0
    ) -> None:
        """Describe the pulse.

        Args:
            redis_url: Where the node's queue is.
            vmid: The VM.
            node: The VM's node.
            line: What is run; ``{}`` stands for a number that is never used twice.
            size: How long the output must be; 0 wants the number and nothing else.
        """
        super().__init__(daemon=True)
        self._url, self._vmid, self._node, self._line, self._size = redis_url, vmid, node, line, size
        self._over = threading.Event()
        self._beats: list[tuple[float, float]] = []
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        with Customer(self._url, node=self._node) as customer:
            number = 0
            while not self._over.is_set() and len(self.wrong) < 10:
                number += 1
                began_s = time.monotonic()
                try:
                    self._beat(customer, number)
                except Exception as exc:  # noqa: BLE001 - whatever goes wrong in this thread, the test must see it
                    self.wrong.append(repr(exc))
                self._beats.append((began_s, time.monotonic() - began_s))

    def _beat(self, customer: Customer, number: int) -> None:
        result = customer.run(self._vmid, self._line.format(number), timeout_s=60)
        fits = len(result.stdout) == self._size if self._size else result.stdout == f"{number}\n".encode()
        if result.command.state is not CommandState.EXITED or not fits:
            self.wrong.append(f"{number}: {result.command.state} {result.command.message} {result.stdout[:60]!r}")

    def beats_s(self, since_s: float, until_s: float = float("inf")) -> list[float]:
        """Tell how long each command took that was started in a stretch of time, sorted."""
        return sorted(took_s for began_s, took_s in self._beats if since_s <= began_s < until_s)


def quantile(values: Sequence[float], share: float) -> float:
    """Pick the value that this share of sorted values doesn't exceed."""
    return values[min(int(len(values) * share), len(values) - 1)]


def in_ms(values_s: Sequence[float]) -> str:
    """Write latencies down for people."""
    if not values_s:
        return "none"
    p50, p95 = quantile(values_s, 0.5) * 1000, quantile(values_s, 0.95) * 1000
    return f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, max {values_s[-1] * 1000:.0f} ms of {len(values_s)}"
