"""Results on their way from a guest to Redis, one small file each.

The agent tells a result once. So it is written here before anything else can fail, and removed when Redis has it; what
a killed worker leaves here, the next one delivers. A file is a line of JSON, then the bytes of both streams.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from app.core.records import CommandEnd, CommandState

_log = logging.getLogger(__name__)

_SUFFIX = ".result"


class Spool:
    """A folder of results. Safe against the death of the process, not against the loss of power."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder

    def put(self, command_id: str, end: CommandEnd) -> None:
        """Write a result; it appears whole or not at all."""
        path = self._path(command_id)
        partial = path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_dump_head(end))
            file.write(end.stdout)
            file.write(end.stderr)
        partial.rename(path)

    def remove(self, command_id: str) -> None:
        """Forget a result that Redis has."""
        self._path(command_id).unlink(missing_ok=True)

    def items(self) -> Iterator[tuple[str, CommandEnd]]:
        """Read every result that is still here; an unreadable file is reported and left alone."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                yield path.stem, _load(path.read_bytes())
            except (OSError, ValueError, KeyError, TypeError):
                _log.exception("spool_file_unreadable", extra={"command_id": path.stem})

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
