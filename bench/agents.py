"""Guest agents without VMs: real qemu-ga processes, and fake ones by the hundreds.

What they are told to run, runs on this machine.
"""

import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lab import LabError, processes
from lab.processes import Child

_DANGEROUS = (
    "guest-shutdown,guest-set-time,guest-set-user-password,guest-set-vcpus,guest-set-memory-blocks,guest-suspend-disk,"
    "guest-suspend-ram,guest-suspend-hybrid,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,"
    "guest-fstrim,guest-ssh-add-authorized-keys,guest-ssh-remove-authorized-keys"
)
"""What the real agent must not do to this machine."""

_START_TIMEOUT_S = 30
_STOP_GRACE_S = 2
_POLL_S = 0.01


def start_real(vmids: Sequence[int], sockets: Path, cleanup: ExitStack) -> list[Child]:
    """Start a real qemu-ga for each number; each has a socket `<vmid>.qga`."""
    children = []
    for vmid in vmids:
        state = sockets / f"{vmid}.state"
        state.mkdir()
        argv = ["qemu-ga", "-m", "unix-listen", "-p", str(sockets / f"{vmid}.qga"), "-t", str(state), "-b", _DANGEROUS]
        children.append(processes.start(f"qemu-ga {vmid}", f"{shlex.join(argv)} >/dev/null 2>&1", os.environ))
    cleanup.callback(processes.stop, children, _STOP_GRACE_S)
    await_sockets(vmids, sockets)
    return children


class Fakes:
    """A process of fake agents that also tells how many of them were polled, see `fake_fleet`."""

    def __init__(self, vmids: range, sockets: Path, cleanup: ExitStack) -> None:
        self.vmids = vmids
        argv = [sys.executable, "-m", "bench.fake_fleet", str(sockets), str(vmids.start), str(len(vmids))]
        log = sockets / f"{vmids.start}.log"
        line = f"{shlex.join(argv)} >{shlex.quote(str(log))} 2>&1"
        self._child = processes.start(f"fake agents {vmids.start}", line, os.environ)
        cleanup.callback(processes.stop, [self._child], _STOP_GRACE_S)
        cleanup.callback(self.speak_again)
        self._polls = sockets / f"{vmids.start}.polls"
        await_sockets(vmids, sockets)

    def go_silent(self) -> None:
        """Stop all of them in their tracks: they take connections and requests, and say nothing."""
        self._child.process.send_signal(signal.SIGSTOP)

    def speak_again(self) -> None:
        """Let them go on, with all that was asked meanwhile."""
        self._child.process.send_signal(signal.SIGCONT)

    def mark(self) -> None:
        """Begin to count anew."""
        self._ask(b"mark\n")

    def polled(self) -> int:
        """Count those that were polled since the mark."""
        return self._ask(b"count\n")

    def _ask(self, line: bytes) -> int:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_START_TIMEOUT_S)
            connection.connect(str(self._polls))
            connection.sendall(line)
            return int(connection.recv(64))


def await_sockets(vmids: Sequence[int], sockets: Path) -> None:
    """Wait until every agent listens.

    Raises:
        LabError: One doesn't.
    """
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    for vmid in vmids:
        while not (sockets / f"{vmid}.qga").exists():
            if time.monotonic() > deadline_s:
                raise LabError(f"the agent {vmid} doesn't listen")
            time.sleep(_POLL_S)
