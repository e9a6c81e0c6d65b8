"""A public SSH key in OpenSSH's one line: read, checked, fingerprinted. Knows nothing of who has one.

Source: RFC 4253, 6.6 (ssh-rsa, ssh-dss); RFC 5656, 3.1 (ecdsa); RFC 8709, 4 (ed25519); OpenSSH, PROTOCOL.u2f (sk-…).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

LONGEST_CHARS = 8192
"""The longest line that is read; an RSA key of 16,384 bits takes 2,800 characters."""

_LEAST_RSA_BITS = 1024
"""OpenSSH takes no shorter ones."""
_ED25519_BYTES = 32
_UNCOMPRESSED = b"\x04"
"""Source: SEC 1, 2.3.3: how a point begins whose two coordinates follow."""
_CURVE_BYTES = {b"nistp256": 32, b"nistp384": 48, b"nistp521": 66}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\u0085\u2028\u2029\ud800-\udfff]")

_Check = Callable[[Sequence[bytes]], bool]


def _is_rsa(parts: Sequence[bytes]) -> bool:
    return len(parts) == 2 and int.from_bytes(parts[1]).bit_length() >= _LEAST_RSA_BITS  # noqa: PLR2004 - e and n


def _is_dsa(parts: Sequence[bytes]) -> bool:
    return len(parts) == 4 and all(parts)  # noqa: PLR2004 - p, q, g and y


def _is_ed25519(parts: Sequence[bytes]) -> bool:
    return [len(part) for part in parts] == [_ED25519_BYTES]


def _on_curve(curve: bytes) -> _Check:
    size_bytes = 1 + 2 * _CURVE_BYTES[curve]

    def check(parts: Sequence[bytes]) -> bool:
        match parts:
            case [name, point]:
                return name == curve and len(point) == size_bytes and point.startswith(_UNCOMPRESSED)
            case _:
                return False

    return check


def _with_application(check: _Check) -> _Check:
    return lambda parts: bool(parts[-1]) and check(parts[:-1])


_TYPES: dict[str, tuple[str, _Check]] = {
    "ssh-rsa": ("rsa", _is_rsa),
    "ssh-dss": ("dsa", _is_dsa),
    "ssh-ed25519": ("ed25519", _is_ed25519),
    "ecdsa-sha2-nistp256": ("ecdsa", _on_curve(b"nistp256")),
    "ecdsa-sha2-nistp384": ("ecdsa", _on_curve(b"nistp384")),
    "ecdsa-sha2-nistp521": ("ecdsa", _on_curve(b"nistp521")),
    "sk-ssh-ed25519@openssh.com": ("ed25519", _with_application(_is_ed25519)),
    "sk-ecdsa-sha2-nistp256@openssh.com": ("ecdsa", _with_application(_on_curve(b"nistp256"))),
}
"""For each type its family, and the check of what follows the type's name inside the key."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public SSH key.

    Attributes:
        type: Its type as OpenSSH names it.
        blob: The key itself.
        comment: What stands behind it; often who has it.
    """

    type: str
    blob: bytes
    comment: str

    @classmethod
    def read(cls, line: str) -> Self:
        """Read the line of a ``.pub`` file.

        Raises:
            ValueError: It isn't one; the text says why, and repeats nothing of it.
        """
        line = line.strip()
        if "PRIVATE KEY" in line:
            raise ValueError("must be a public key; this is a private one: keep it to yourself")
        if len(line) > LONGEST_CHARS or _UNPRINTABLE.search(line):
            raise ValueError(f"must be one line of at most {LONGEST_CHARS:,} characters")
        name, _, rest = line.partition(" ")
        text, _, comment = rest.strip().partition(" ")
        if name not in _TYPES:
            raise ValueError(f"must begin with one of: {', '.join(_TYPES)}")
        blob = _decode(text)
        if not _is_sound(name, blob):
            raise ValueError(f"is damaged: what follows {name} is no such key")
        return cls(name, blob, comment.strip())

    @property
    def family(self) -> str:
        """``rsa``, ``ed25519``, ``ecdsa`` or ``dsa``."""
        return _TYPES[self.type][0]

    @property
    def line(self) -> str:
        """The key as a line of an ``authorized_keys`` file."""
        return f"{self.type} {base64.b64encode(self.blob).decode()} {self.comment}".rstrip()

    @property
    def sha256(self) -> str:
        """The fingerprint as OpenSSH shows it: ``SHA256:`` and base64 without padding."""
        return f"SHA256:{base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip('=')}"

    @property
    def md5(self) -> str:
        """The fingerprint as OpenSSH showed it before 6.8, without the word MD5: 16 pairs of hex digits."""
        return hashlib.md5(self.blob, usedforsecurity=False).digest().hex(":")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is damaged: what follows the type is not base64") from None


def _is_sound(name: str, blob: bytes) -> bool:
    parts = list(_parts(blob))
    return (
        parts[:1] == [name.encode()]
        and len(parts) > 1
        and b"".join(map(_dump, parts)) == blob
        and _TYPES[name][1](parts[1:])
    )


def _parts(blob: bytes) -> Iterator[bytes]:
    """Read the strings a key is made of, each behind its length in four bytes; one that is cut short is left out."""
    start = 0
    while len(blob) >= (begin := start + 4):
        start = begin + int.from_bytes(blob[start:begin])
        yield blob[begin:start]


def _dump(part: bytes) -> bytes:
    return len(part).to_bytes(4) + part
