"""What a worker has in its spool: its results and starts, by name."""

from contextlib import suppress
from pathlib import Path

from workers.commands.spool_log import _entries


def spooled(folder: Path) -> list[str]:
    """List what is there, whoever has written it and may be writing."""
    names = {path.name for path in folder.iterdir() if path.suffix in {".result", ".start", ".partial"}}
    for path in folder.glob("*.log"):
        with suppress(FileNotFoundError):  # it has just gone
            for name, place, _ in _entries(path.read_bytes()):
                if place is None:
                    names.discard(name)
                else:
                    names.add(name)
    return sorted(names)
