"""Processes that `make run` starts, and the VMs that outlive them: how they start, and how every one of them ends.

Knows process groups and signals. Doesn't know what the programs are for.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab import LabError

STOP_GRACE_S = 10


class ProcfileError(LabError):
    """A line of the Procfile isn't `name: command`."""


def parse_procfile(text: str) -> dict[str, str]:
    """Read a Procfile: process name to shell line.

    Raises:
        ProcfileError: a line has no name, no command, or a name that was there before.
    """
    commands: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, command = (part.strip() for part in line.partition(":"))
        if not name or not command or name in commands:
            raise ProcfileError(f"not a new `name: command`: {line!r}")
        commands[name] = command
    return commands


@dataclass(frozen=True)
class Child:
    """One program that was started, leader of a process group of its own."""

    name: str
    process: "subprocess.Popen[bytes]"


def start(name: str, shell_line: str, environ: Mapping[str, str]) -> Child:
    """Start a shell line in a process group of its own, so that the terminal's Ctrl-C reaches only us.

    Should we be killed, the kernel ends the program: a half-dead system would stand in the way of the next run.
    """
    argv = ["setpriv", "--pdeathsig", "TERM", "sh", "-c", f"exec {shell_line}"]
    return Child(name, subprocess.Popen(argv, env=dict(environ), stdin=subprocess.DEVNULL, process_group=0))


def stop(children: Iterable[Child], grace_s: float = STOP_GRACE_S) -> None:
    """Ask all to end, wait for them together, then kill what is left of their groups."""
    group = list(children)
    for child in group:
        child.process.terminate()
    deadline = time.monotonic() + grace_s
    for child in group:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()


def find_ended(children: Iterable[Child]) -> Child | None:
    """Find a program that has ended by itself."""
    return next((child for child in children if child.process.poll() is not None), None)


def find_vms(run_dir: Path) -> Iterator[int]:
    """Find the QEMU processes whose pidfile is in `run_dir`.

    They are sessions of their own and may be older than this run. A pidfile could name a process that has taken the
    pid since, and isn't there yet in the first moments; a command line tells the truth.
    """
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            argv = entry.read_bytes().decode(errors="replace").split("\0")
            if "-pidfile" in argv and Path(argv[argv.index("-pidfile") + 1]).parent == run_dir:
                yield int(entry.parent.name)


def stop_vms(run_dir: Path, grace_s: float = STOP_GRACE_S) -> int:
    """End the QEMU processes whose pidfile is in `run_dir`; say how many there were.

    Effect: like pulling the plug of each VM.
    """
    handles = []
    for pid in find_vms(run_dir):
        with suppress(ProcessLookupError):
            handles.append(os.pidfd_open(pid))
    for handle in handles:
        _end(handle, grace_s)
    return len(handles)


def _end(handle: int, grace_s: float) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
        if select.select([handle], [], [], grace_s)[0]:
            break
    os.close(handle)
