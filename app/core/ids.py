"""Identifiers: how each is made, and which are derived from a vmid for ever."""

import base64
import hashlib
import re
import secrets
import uuid
from datetime import datetime

_OPENSTACK_NAMESPACE = uuid.UUID("6f776e75-7000-5000-8000-6f70656e7374")
_CROCKFORD = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz234567", b"0123456789abcdefghjkmnpqrstvwxyz")
_KEY_ID = re.compile("[0-9a-f]{16}")
_ID_LENGTH = 26
_ID_BYTES = 17
"""At least as many as 26 characters of 5 bits need."""


def request_id() -> str:
    """Make the id of one HTTP request: a UUID v4, as HostUp v1 prints it."""
    return _uuid4()


def request_id_v2() -> str:
    """Make the id of one HTTP request as HostUp v2 prints it: ``req_`` and 26 characters."""
    return f"req_{_crockford(secrets.token_bytes(_ID_BYTES))}"


def command_id() -> str:
    """Make the id of a command record: a UUID v4 (Virtuozzo shows it as the command's ``uuid``)."""
    return _uuid4()


def job_id(kind: str, vmid: int, created_at: datetime) -> str:
    """Make the id of a job.

    Source: HostUp v1 docs, POST status: ``start-17122-1768986364277`` = kind, vmid, epoch in milliseconds.
    """
    return f"{kind}-{vmid}-{int(created_at.timestamp() * 1000)}"


def parse_job_id(job_id: str) -> tuple[str, int, int]:
    """Read the kind, the vmid and the moment, in epoch milliseconds, out of the id of a job."""
    kind, vmid, created_ms = job_id.split("-")
    return kind, int(vmid), int(created_ms)


def vps_id(vmid: int) -> str:
    """Derive HostUp v2's public id of a VM: ``vps_`` and 26 characters, the same for a vmid for ever."""
    return f"vps_{_crockford(hashlib.sha256(f'ownup-vps:{vmid}'.encode()).digest())}"


def disk_id(vmid: int, name: str) -> str:
    """Derive HostUp v2's id of a VM's disk from its name, the same as long as it is called so."""
    return f"vpsdisk_{_crockford(hashlib.sha256(f'ownup-disk:{vmid}:{name}'.encode()).digest())}"


def ssh_key_id(number: int) -> str:
    """Derive HostUp v2's public id of an SSH key: ``ssh_`` and 26 characters, the same for a number for ever."""
    return f"ssh_{_crockford(hashlib.sha256(f'ownup-ssh-key:{number}'.encode()).digest())}"


def openstack_id(vmid: int) -> str:
    """Derive the OpenStack server id of a VM: a UUID, the same for a vmid for ever."""
    return str(uuid.uuid5(_OPENSTACK_NAMESPACE, f"vm:{vmid}"))


def key_id() -> str:
    """Make the public part of an API key."""
    return secrets.token_hex(8)


def is_key_id(text: str) -> bool:
    """Tell whether a text is like the public part of an API key."""
    return _KEY_ID.fullmatch(text) is not None


def key_secret(key: str) -> str:
    """Make a whole API key: the public id, then 256 random bits. It is shown once and never stored."""
    return f"ownup_{key}_{secrets.token_urlsafe(32)}"


def _uuid4() -> str:
    """Write a random UUID, in half the time that ``str(uuid.uuid4())`` takes.

    Source: RFC 9562, 5.4: the version in the upper half of byte 6, the variant in the upper two bits of byte 8.
    """
    raw = bytearray(secrets.token_bytes(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _crockford(raw: bytes) -> str:
    """Write the beginning of some bytes in Crockford's letters, as the ids of HostUp v2 look."""
    return base64.b32encode(raw).lower().translate(_CROCKFORD)[:_ID_LENGTH].decode()
