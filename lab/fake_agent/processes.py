"""`guest-exec`: programs that the fake agent really runs, on the machine it stands on.

Responsible for starting them, for keeping what they wrote, and for leaving none behind. It knows no socket and no JSON.
"""

import asyncio
import base64
import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Source: QEMU, qga/commands.c: GUEST_EXEC_MAX_OUTPUT, for each stream.
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
# Above Linux' PID_MAX_LIMIT: killing by such a number can't hit a process of this machine.
FIRST_REUSED_PID = 2**22 + 1
STREAMS = {1: "out", 2: "err"}


class Output(asyncio.SubprocessProtocol):
    """What a program writes, kept up to a limit, and the news of its end. Asyncio calls the methods."""

    def __init__(self) -> None:
        self.heads = {fd: bytearray() for fd in STREAMS}
        self.cut = dict.fromkeys(STREAMS, False)
        self.closed: set[int] = set()
        self.ended = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep what there is room for. The rest is read and thrown away, so that the program never blocks."""
        room = MAX_OUTPUT_BYTES - len(self.heads[fd])
        self.heads[fd] += data[:room]
        self.cut[fd] |= len(data) > room

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        """Note that nobody holds the writing end of this stream any longer."""
        self.closed.add(fd)

    def process_exited(self) -> None:
        """Note that the program itself ended. Its children may still hold its streams."""
        self.ended.set()


@dataclass(frozen=True)
class Job:
    """One program that `guest-exec` started."""

    process: asyncio.SubprocessTransport
    output: Output
    streams: frozenset[int]

    def is_over(self) -> bool:
        """Tell whether it ended *and* both its streams are closed: only then the agent says that it exited."""
        return self.output.ended.is_set() and self.output.closed >= self.streams

    def result(self) -> dict[str, Any]:
        """Describe it as `guest-exec-status` does when it is over."""
        code = self.process.get_returncode() or 0
        result: dict[str, Any] = {"exited": True} | ({"exitcode": code} if code >= 0 else {"signal": -code})
        for fd, name in STREAMS.items():
            if self.output.heads[fd]:
                result[f"{name}-data"] = base64.b64encode(self.output.heads[fd]).decode()
                result[f"{name}-truncated"] = self.output.cut[fd]
        return result

    def let_go(self) -> None:
        """Close our ends of its streams and leave it to itself, as an agent that dies does."""
        for fd in self.streams:
            pipe = self.process.get_pipe_transport(fd)
            if pipe is not None:
                pipe.close()

    async def end(self) -> None:
        """Kill what is left of it, with its process group when it leads one, and wait until it is gone."""
        if not self.is_over():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.get_pid(), signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.output.ended.wait()
        self.process.close()


class Processes:
    """The programs of one guest. They outlive an agent that dies, but the next agent knows none of them."""

    def __init__(self, *, reuse_pids: bool) -> None:
        self._reuse_pids = reuse_pids
        self._numbers = itertools.count(FIRST_REUSED_PID)
        self._jobs: dict[int, Job] = {}
        self._orphans: list[Job] = []

    async def start(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None, stdin: bytes | None, capture: bool
    ) -> int:
        """Run `argv` and return the number to ask for it by. Its own PATH, if it has one, is where it's looked for.

        Effect: the program runs, with the rights of this process.

        Raises:
            OSError: It could not be started.
            ValueError: Something in it can't be handed to a program, such as NUL.
        """
        sink = subprocess.PIPE if capture else subprocess.DEVNULL
        source = subprocess.DEVNULL if stdin is None else await _pipe_with(stdin)
        try:
            process, output = await asyncio.get_running_loop().subprocess_exec(
                Output, *argv, stdin=source, stdout=sink, stderr=sink, env=environment
            )
        finally:
            if stdin is not None:
                os.close(source)
        number = next(self._numbers) if self._reuse_pids else process.get_pid()
        self._jobs[number] = Job(process, output, frozenset(STREAMS if capture else ()))
        return number

    def ask(self, number: int) -> dict[str, Any]:
        """Answer `guest-exec-status`. The answer that tells the end is the last one: the record is freed with it.

        Raises:
            KeyError: No such program, or its end was told before.
        """
        job = self._jobs[number]
        if not job.is_over():
            return {"exited": False}
        del self._jobs[number]
        job.process.close()
        return job.result()

    def forget(self) -> None:
        """Lose all records, as an agent that dies does. The programs go on, and numbers begin anew."""
        for job in self._jobs.values():
            job.let_go()
        self._orphans += self._jobs.values()
        self._jobs.clear()
        self._numbers = itertools.count(FIRST_REUSED_PID)

    async def end_all(self) -> None:
        """Kill every program that still runs, known or forgotten."""
        for job in [*self._jobs.values(), *self._orphans]:
            await job.end()


async def _pipe_with(data: bytes) -> int:
    """Return the reading end of a pipe that gives `data`, then ends."""
    read_end, write_end = os.pipe()
    pipe, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write_end, "wb"))
    pipe.write(data)
    pipe.write_eof()
    return read_end
