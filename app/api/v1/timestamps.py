"""How v1 writes a moment."""

from datetime import datetime


def timestamp(moment: datetime) -> str:
    """Write a moment as ISO 8601, UTC, with milliseconds and ``Z``.

    Source: HostUp v1 docs, envelope: ``2026-02-10T00:00:00.000Z``.
    """
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
