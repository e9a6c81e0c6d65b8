"""The baseline of a command: the agent's socket, kept open, and the very program that the product would start.

What a script without OwnUp could do at best. It polls at once, then with the pauses that were found to be fastest: with
none at all it takes the processor from the very command it waits for. It notices no hung agent and no second client.
"""

import asyncio
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pybase64

from lab import LabError
from workers.commands.shell import linux_program
from workers.commands.watch import first_pause_s
from workers.qga import wire

_TIMEOUT_S = 30
_RECEIVE_BYTES = 1 << 18
_LIMIT_BYTES = 1 << 26
_SHORTEST_PAUSE_S = 0.001
_SHARE_OF_ELAPSED = 0.05


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    exit_code: int
    stdout: bytes


def exec_request(line: str) -> bytes:
    """Write the guest-exec that the product would send for this line."""
    program = linux_program(line, own_session=True)
    return _dump("guest-exec", wire.dump_exec(program.path, program.args, program.env, stdin=None))


def status_request(pid: int) -> bytes:
    """Write the question how it is getting on."""
    return _dump("guest-exec-status", {"pid": pid})


class RawAgent:
    """A connection to one agent, kept open."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.connect(str(path))
        self._rest = b""
        self._synchronise()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, line: str, *, leave_alone: bool = False) -> Outcome:
        """Run a command to its end.

        Args:
            line: The command.
            leave_alone: Wait before the first poll as the product does.
        """
        asked_s = time.monotonic()
        pid = self._ask(exec_request(line))["pid"]
        question, began_s = status_request(pid), time.monotonic()
        if leave_alone:
            time.sleep(first_pause_s(began_s - asked_s))
        while not (status := self._ask(question))["exited"]:
            time.sleep(_pause_s(began_s))
        return _outcome(status)

    def _synchronise(self) -> None:
        sync_id = wire.make_sync_id()
        self._socket.sendall(wire.dump_sync(sync_id))
        scanner = wire.SyncScanner(sync_id)
        while not scanner.feed(self._socket.recv(_RECEIVE_BYTES)):
            pass

    def _ask(self, message: bytes) -> Any:
        self._socket.sendall(message)
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            parts.append(self._socket.recv(_RECEIVE_BYTES))
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return _load(line)


class AsyncRawAgent:
    """The same on an event loop, for many agents at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path, limit=_LIMIT_BYTES)
        sync_id = wire.make_sync_id()
        self._writer.write(wire.dump_sync(sync_id))
        scanner = wire.SyncScanner(sync_id)
        while not scanner.feed(await self._reader.read(_RECEIVE_BYTES)):
            pass
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def run(self, line: str) -> Outcome:
        """Run a command to its end."""
        question = status_request((await self._ask(exec_request(line)))["pid"])
        began_s = time.monotonic()
        while not (status := await self._ask(question))["exited"]:  # noqa: ASYNC110 - it speaks when it is asked
            await asyncio.sleep(_pause_s(began_s))
        return _outcome(status)

    async def _ask(self, message: bytes) -> Any:
        self._writer.write(message)
        return _load(await self._reader.readline())


def _pause_s(began_s: float) -> float:
    return max(_SHORTEST_PAUSE_S, _SHARE_OF_ELAPSED * (time.monotonic() - began_s))


def _dump(execute: str, arguments: Any) -> bytes:
    return json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n"


def _load(line: bytes) -> Any:
    reply = json.loads(line)
    if "return" not in reply:
        raise LabError(f"the agent answered {line[:300]!r}")
    return reply["return"]


def _outcome(status: Any) -> Outcome:
    return Outcome(status.get("exitcode", -1), pybase64.b64decode(status.get("out-data", "")))
