"""What one `make run` has going: it waits, and notices that it should end or that a program of it has ended.

Doesn't know what it waits for.
"""

import fcntl
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lab import LabError, processes
from lab.processes import Child

_TICK_S = 0.5

T = TypeVar("T")


class StopAskedError(Exception):
    """Somebody wants the run to end."""


@dataclass(frozen=True)
class Watch:
    """The programs that must be running, and whether the run should go on."""

    stop_asked: threading.Event = field(default_factory=threading.Event)
    children: list[Child] = field(default_factory=list)

    def start(self, name: str, shell_line: str, environ: Mapping[str, str]) -> Child:
        """Start a program and watch it from now on."""
        child = processes.start(name, shell_line, environ)
        self.children.append(child)
        return child

    def wait_for(self, what: str, timeout_s: float, probe: Callable[[], T | None]) -> T:
        """Probe until there is an answer.

        Raises:
            StopAskedError: somebody wants the run to end.
            LabError: no answer within `timeout_s`, or one of the programs has ended.
        """
        deadline = time.monotonic() + timeout_s
        while (found := probe()) is None:
            self.pause()
            if time.monotonic() > deadline:
                raise LabError(f"waited {timeout_s:g} s in vain until {what}")
        return found

    def pause(self) -> None:
        """Let a moment pass, and see whether all is well.

        Raises:
            StopAskedError: somebody wants the run to end.
            LabError: one of the programs has ended by itself.
        """
        if self.stop_asked.wait(_TICK_S):
            raise StopAskedError
        if ended := processes.find_ended(self.children):
            raise LabError(f"{ended.name} has ended unexpectedly, with status {ended.process.returncode}")


def ask_by_signal(stop_asked: threading.Event) -> None:
    """From now on a signal only asks for the end: nothing is left half started, or half ended by a second one."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop_asked.set())


@contextmanager
def hold(var_dir: Path) -> Iterator[None]:
    """Keep a `var_dir` for this run alone.

    Raises:
        LabError: another run has it.
    """
    var_dir.mkdir(parents=True, exist_ok=True)
    with (var_dir / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise LabError(f"another `make run` is using {var_dir}: stop it, or set VAR_DIR and PORT") from exc
        yield


def require_free(port: int) -> None:
    """Make sure that it will be our web half that answers on this port.

    Raises:
        LabError: something listens there already.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise LabError(f"port {port} can't be used ({exc.strerror}): set PORT to another one") from exc
