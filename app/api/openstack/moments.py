"""How OpenStack writes a moment: UTC, in three ways."""

from datetime import datetime


def nova_moment(moment: datetime) -> str:
    """Write a moment as Nova does. Source: Nova API reference, show server: ``2012-08-20T21:11:09Z``."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def usage_moment(moment: datetime) -> str:
    """Write a moment as Nova's usage extension does: no zone, which its clients insist on.

    Source: Nova API reference, show server, ``OS-SRV-USG:launched_at``: ``2017-10-10T15:49:09.516729``.
    """
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}"


def keystone_moment(moment: datetime) -> str:
    """Write a moment as Keystone does. Source: Keystone API reference: ``2015-11-07T02:58:43.578887Z``."""
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"
