"""A real worker with a real qemu-ga, for tests that need both and no VM. The agent acts on this very machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.web import ACCOUNT, NODE

VMID = 10001
DANGEROUS = (
    "guest-shutdown,guest-set-time,guest-set-user-password,guest-set-vcpus,guest-set-memory-blocks,guest-suspend-disk,"
    "guest-suspend-ram,guest-suspend-hybrid,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,"
    "guest-fstrim,guest-ssh-add-authorized-keys,guest-ssh-remove-authorized-keys"
)
_TIMEOUT_S = 20


def until(what: str, reached: Callable[[], object], timeout_s: float = _TIMEOUT_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def agent(folder: Path, blocked: str = DANGEROUS) -> Iterator["subprocess.Popen[bytes]"]:
    """Let a qemu-ga live on the socket that the definition of `worker` names, and again where it has died.

    One that listens itself, and not behind a virtio port, dies of SIGPIPE when its client does in the midst of a reply.
    """
    path = folder / "agent"
    argv = ["qemu-ga", "-m", "unix-listen", "-p", path, "-t", folder, "-b", blocked]
    again = ["/bin/sh", "-c", 'while :; do "$@"; rm -f "$0"; sleep 0.1; done', path]
    process = subprocess.Popen([*again, *argv], start_new_session=True)
    try:
        until("qemu-ga listens", path.exists)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        path.unlink(missing_ok=True)


@dataclass
class Worker:
    """A worker process, which a test may end and start again."""

    folder: Path
    redis_url: str
    environ: dict[str, str]
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        (self.folder / "vm.toml").write_text(
            f'vmid = {VMID}\nname = "a"\naccount = "{ACCOUNT}"\n[sockets]\nqga = "agent"\n'
        )
        own = {"REDIS_URL": self.redis_url, "VM_DIR": str(self.folder), "SPOOL_DIR": str(self.folder / "spool")}
        quick = {"NODE_NAME": NODE, "AGENT_PROBE_S": "0.2", "AGENT_SYNC_TIMEOUT_S": "1", "AGENT_RPC_TIMEOUT_S": "2"}
        argv = [sys.executable, "-m", "workers"]
        with (self.folder / "printed").open("ab") as printed:
            self.process = subprocess.Popen(argv, env=os.environ | own | quick | self.environ, stderr=printed)

    def end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(_TIMEOUT_S)
            self.process = None

    def printed(self) -> str:
        return (self.folder / "printed").read_text()


@contextlib.contextmanager
def worker(folder: Path, redis_url: str, **environ: str) -> Iterator[Worker]:
    """Let a worker live; no defect may show in what it logs."""
    living = Worker(folder, redis_url, environ)
    living.start()
    try:
        yield living
    finally:
        living.end(signal.SIGTERM)
    assert "Traceback" not in living.printed(), living.printed()
