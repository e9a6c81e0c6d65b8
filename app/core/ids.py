"""Identifiers: how each is made, and which are derived from a vmid for ever."""

import base64
import hashlib
import secrets
import uuid
from datetime import datetime

_OPENSTACK_NAMESPACE = uuid.UUID("6f776e75-7000-5000-8000-6f70656e7374")
_CROCKFORD = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz234567", b"0123456789abcdefghjkmnpqrstvwxyz")
_VPS_ID_LENGTH = 26


def request_id() -> str:
    """Make the id of one HTTP request: a UUID v4, as HostUp v1 prints it."""
    return str(uuid.uuid4())


def command_id() -> str:
    """Make the id of a command record: a UUID v4 (Virtuozzo shows it as the command's ``uuid``)."""
    return str(uuid.uuid4())


def job_id(action: str, vmid: int, created_at: datetime) -> str:
    """Make the id of a power job.

    Source: HostUp v1 docs, POST status: ``start-17122-1768986364277`` = action, vmid, epoch in milliseconds.
    """
    return f"{action}-{vmid}-{int(created_at.timestamp() * 1000)}"


def vps_id(vmid: int) -> str:
    """Derive HostUp v2's public id of a VM: ``vps_`` and 26 characters, the same for a vmid for ever."""
    digest = hashlib.sha256(f"ownup-vps:{vmid}".encode()).digest()
    letters = base64.b32encode(digest).lower().translate(_CROCKFORD)
    return f"vps_{letters[:_VPS_ID_LENGTH].decode()}"


def openstack_id(vmid: int) -> str:
    """Derive the OpenStack server id of a VM: a UUID, the same for a vmid for ever."""
    return str(uuid.uuid5(_OPENSTACK_NAMESPACE, f"vm:{vmid}"))


def key_id() -> str:
    """Make the public part of an API key."""
    return secrets.token_hex(8)


def key_secret(key: str) -> str:
    """Make a whole API key: the public id, then 256 random bits. It is shown once and never stored."""
    return f"ownup_{key}_{secrets.token_urlsafe(32)}"
