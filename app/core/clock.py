"""The time of this host: aware and in UTC. Deadlines between hosts are Redis's business, not this clock's."""

from datetime import UTC, datetime


def now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)
