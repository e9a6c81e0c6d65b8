"""How HostUp's faces write a moment, and the time since one."""

from datetime import datetime


def timestamp(moment: datetime) -> str:
    """Write a moment as ISO 8601, UTC, with milliseconds and ``Z``.

    Source: HostUp v1 docs, envelope: ``2026-02-10T00:00:00.000Z``; v2's problem documents write it alike.
    """
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(moment: datetime | None, now: datetime) -> int | None:
    """Count the whole seconds since a moment, if there was one; clocks that disagree count none."""
    return None if moment is None else max(0, int((now - moment).total_seconds()))
