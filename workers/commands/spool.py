"""Results on their way from a guest to Redis, and starts that Redis doesn't know yet.

The agent tells a result once. So it is written here before anything else can fail, and removed when Redis has it; what
a killed worker leaves here, the next one delivers. What is small is appended to a log: a file for each, made, renamed
and removed, took a fifth of the worker's time. What is large is a file. A result is a line of JSON, then the bytes of
both streams.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from app.core.records import CommandEnd, CommandStart, CommandState
from workers.commands.spool_log import SpoolLog

T = TypeVar("T")

_log = logging.getLogger(__name__)

_RESULT = ".result"
_START = ".start"
_PARTIAL_SUFFIX = ".partial"
_LOG_SUFFIX = ".log"
_SMALL_BYTES = 256 * 1024
_LOG_BYTES = 64 * 1024
"""A log as long as this is followed by a new one. So it goes soon, however much is always on its way."""


class Spool:
    """A folder of results. Safe against the death of the process, not against the loss of power.

    For one thread; but what is large may be put, and all may be read, by others.
    """

    def __init__(self, folder: Path) -> None:
        """Take a folder; what a killed worker had not written to its end goes, it is of no use and holds output.

        Args:
            folder: It is made if it isn't there. No other process may use it.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        for unfinished in folder.glob(f"*{_PARTIAL_SUFFIX}"):
            unfinished.unlink()
        left = sorted(folder.glob(f"*{_LOG_SUFFIX}"))
        self._logs: dict[str, SpoolLog] = {}
        for log in map(SpoolLog.load, left):
            for name in log.names():
                self._put_into(log, name)
        self._next_number = int(left[-1].stem) + 1 if left else 1
        self._log: SpoolLog | None = None

    def put(self, command_id: str, end: CommandEnd) -> None:
        """Write a result; it appears whole or not at all."""
        name, parts = f"{command_id}{_RESULT}", (_dump_head(end), end.stdout, end.stderr)
        if is_large(end):
            self._write(self._folder / name, *parts)
        else:
            self._append(name, b"".join(parts))

    def remove(self, command_id: str) -> None:
        """Forget a result that Redis has."""
        self._remove(f"{command_id}{_RESULT}")

    def put_start(self, command_id: str, start: CommandStart) -> None:
        """Note the start of a command that Redis doesn't know yet."""
        fields = {"pid": start.pid, "started_at": start.started_at.isoformat(), "agent_identity": start.agent_identity}
        self._append(f"{command_id}{_START}", json.dumps(fields).encode())

    def remove_start(self, command_id: str) -> None:
        """Forget a start that Redis knows."""
        self._remove(f"{command_id}{_START}")

    def starts(self) -> list[tuple[str, CommandStart]]:
        """Read every start that is still here."""
        notes = ((command_id, self._get(f"{command_id}{_START}", _load_start)) for command_id in self._ids(_START))
        return [(command_id, start) for command_id, start in notes if start is not None]

    def ids(self) -> list[str]:
        """List the commands whose results are still here."""
        return self._ids(_RESULT)

    def get(self, command_id: str) -> CommandEnd | None:
        """Read a result; what is unreadable is reported and left alone."""
        return self._get(f"{command_id}{_RESULT}", _load)

    def _get(self, name: str, load: Callable[[bytes], T]) -> T | None:
        try:
            data = self._read(name)
            return None if data is None else load(data)
        except (OSError, ValueError, KeyError, TypeError):
            _log.exception("spool_file_unreadable", extra={"file": name})
            return None

    def _append(self, name: str, data: bytes) -> None:
        log = self._log_to_append_to()
        log.append(name, data)
        self._put_into(log, name)

    def _put_into(self, log: SpoolLog, name: str) -> None:
        """Note in which log an entry is: the latest that has it."""
        before = self._logs.get(name)
        self._logs[name] = log
        if before is not None and before is not log:
            before.remove(name)

    def _log_to_append_to(self) -> SpoolLog:
        if self._log is not None and self._log.size_bytes < _LOG_BYTES:
            return self._log
        if self._log is not None:
            self._log.finish()
        self._log = SpoolLog.begin(self._folder / f"{self._next_number:012}{_LOG_SUFFIX}")
        self._next_number += 1
        return self._log

    def _remove(self, name: str) -> None:
        log = self._logs.pop(name, None)
        if log is None:
            (self._folder / name).unlink(missing_ok=True)
        else:
            log.remove(name)

    def _ids(self, suffix: str) -> list[str]:
        names = [*self._logs, *(path.name for path in self._folder.glob(f"*{suffix}"))]
        return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix))

    def _read(self, name: str) -> bytes | None:
        log = self._logs.get(name)
        if log is not None:
            return log.read(name)
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    @staticmethod
    def _write(path: Path, *parts: bytes) -> None:
        partial = path.with_name(f"{path.name}{_PARTIAL_SUFFIX}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
        partial.rename(path)


def is_large(end: CommandEnd) -> bool:
    """Tell whether a result is so large that it is put into a file of its own, by a thread of its own."""
    return len(end.stdout) + len(end.stderr) > _SMALL_BYTES


def _load_start(data: bytes) -> CommandStart:
    fields = json.loads(data)
    fields["started_at"] = datetime.fromisoformat(fields["started_at"])
    return CommandStart(**fields)


def _dump_head(end: CommandEnd) -> bytes:
    head: dict[str, Any] = {
        field.name: getattr(end, field.name)
        for field in dataclasses.fields(end)
        if field.name not in {"stdout", "stderr", "ended_at"}
    }
    head |= {"ended_at": end.ended_at.isoformat(), "out_bytes": len(end.stdout), "err_bytes": len(end.stderr)}
    return json.dumps(head).encode() + b"\n"


def _load(data: bytes) -> CommandEnd:
    head_line, _, body = data.partition(b"\n")
    head = json.loads(head_line)
    out_bytes, err_bytes = head.pop("out_bytes"), head.pop("err_bytes")
    if len(body) != out_bytes + err_bytes:
        raise ValueError("the file is shorter or longer than its head says")
    head["state"] = CommandState(head["state"])
    head["ended_at"] = datetime.fromisoformat(head["ended_at"])
    return CommandEnd(**head, stdout=body[:out_bytes], stderr=body[out_bytes:])
