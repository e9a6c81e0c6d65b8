"""Results on their way from a guest to Redis, one small file each.

The agent tells a result once. So it is written here before anything else can fail, and removed when Redis has it; what
a killed worker leaves here, the next one delivers. A file is a line of JSON, then the bytes of both streams.
"""

import dataclasses
import json
import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from app.core.records import CommandEnd, CommandStart, CommandState

_log = logging.getLogger(__name__)

_SUFFIX = ".result"
_START_SUFFIX = ".start"
_PARTIAL_SUFFIX = ".partial"


class Spool:
    """A folder of results. Safe against the death of the process, not against the loss of power."""

    def __init__(self, folder: Path) -> None:
        """Take a folder; what a killed worker had not written to its end goes, it is of no use and holds output.

        Args:
            folder: It is made if it isn't there. No other process may use it.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        for unfinished in folder.glob(f"*{_PARTIAL_SUFFIX}"):
            unfinished.unlink()

    def put(self, command_id: str, end: CommandEnd) -> None:
        """Write a result; it appears whole or not at all."""
        self._write(self._path(command_id), _dump_head(end), end.stdout, end.stderr)

    def remove(self, command_id: str) -> None:
        """Forget a result that Redis has."""
        self._path(command_id).unlink(missing_ok=True)

    def put_start(self, command_id: str, start: CommandStart) -> None:
        """Note the start of a command that Redis doesn't know yet."""
        fields = {"pid": start.pid, "started_at": start.started_at.isoformat(), "agent_identity": start.agent_identity}
        self._write(self._folder / f"{command_id}{_START_SUFFIX}", json.dumps(fields).encode())

    def remove_start(self, command_id: str) -> None:
        """Forget a start that Redis knows."""
        (self._folder / f"{command_id}{_START_SUFFIX}").unlink(missing_ok=True)

    def starts(self) -> list[tuple[str, CommandStart]]:
        """Read every start that is still here."""
        notes = []
        for path in sorted(self._folder.glob(f"*{_START_SUFFIX}")):
            fields = json.loads(path.read_bytes())
            fields["started_at"] = datetime.fromisoformat(fields["started_at"])
            notes.append((path.stem, CommandStart(**fields)))
        return notes

    def ids(self) -> list[str]:
        """List the commands whose results are still here."""
        return sorted(path.stem for path in self._folder.glob(f"*{_SUFFIX}"))

    def get(self, command_id: str) -> CommandEnd | None:
        """Read a result; an unreadable file is reported and left alone."""
        try:
            return _load(self._path(command_id).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            _log.exception("spool_file_unreadable", extra={"command_id": command_id})
            return None

    @staticmethod
    def _write(path: Path, *parts: bytes) -> None:
        partial = path.with_name(f"{path.name}{_PARTIAL_SUFFIX}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
        partial.rename(path)

    def _path(self, command_id: str) -> Path:
        return self._folder / f"{command_id}{_SUFFIX}"


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
