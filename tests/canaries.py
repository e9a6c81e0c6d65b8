"""Planted secrets: made to be found again in whatever spelling, and looked for wherever they must not be.

A finder knows secrets by name and searches what it is given: raw bytes, and what is packed in them. It doesn't know
where a secret may be; who searches says so.
"""

import base64
import binascii
import gzip
import re
import secrets
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import zstandard

KEY = re.compile(rb"ownup_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")
"""What every API key looks like, whoever made it."""

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_MOST_LAYERS = 3
_SHOWN_BYTES = 60
_LEAST_CHARS = 8
"""Anything shorter is found by chance."""


@dataclass(frozen=True)
class Canary:
    """A secret that is planted.

    Attributes:
        name: What it is, and where it was planted.
        text: What is planted.
        core: The part of it that is searched: letters and digits, which most codings leave as they are.
    """

    name: str
    text: str
    core: str

    @classmethod
    def make(cls, name: str, decoration: str = "") -> "Canary":
        """Make one that nobody can have seen before; the decoration follows it."""
        core = f"kn{secrets.token_hex(12)}"
        return cls(name, core + decoration, core)

    @classmethod
    def of(cls, name: str, secret: str) -> "Canary":
        """Make one of a secret that exists. Of an API key it is the secret part that is searched, not its id."""
        core = secret.split("_", 2)[2] if KEY.fullmatch(secret.encode()) else secret
        assert len(core) >= _LEAST_CHARS, f"{name} is too short to be searched"
        return cls(name, secret, core)


@dataclass(frozen=True)
class Finding:
    """A secret that was found.

    Attributes:
        name: Which one.
        place: Where.
        spelling: In which coding.
        before: What stands before it.
    """

    name: str
    place: str
    spelling: str
    before: str

    def __str__(self) -> str:
        return f"{self.name} in {self.place}, {self.spelling}, after {self.before!r}"


def spellings(core: str) -> Mapping[str, bytes]:
    """Write a secret in every coding in which it may have got somewhere."""
    raw = core.encode()
    hexadecimal = raw.hex()
    codes = [f"{ord(char):02x}" for char in core]
    found = {
        "as it is": raw,
        "backwards": raw[::-1],
        "in capitals": core.upper().encode(),
        "in hex": hexadecimal.encode(),
        "in capital hex": hexadecimal.upper().encode(),
        "URL-encoded": quote(core).encode(),
        "URL-encoded, each byte": "".join(f"%{code}" for code in codes).encode(),
        "URL-encoded, each byte, capital": "".join(f"%{code.upper()}" for code in codes).encode(),
        "in JSON's escapes": "".join(f"\\u00{code}" for code in codes).encode(),
        "in Python's escapes": "".join(f"\\x{code}" for code in codes).encode(),
        "in UTF-16": core.encode("utf-16-le"),
    }
    for offset in range(3):
        for name, altchars in (("base64", b"+/"), ("URL-safe base64", b"-_")):
            found[f"in {name}, {offset} bytes in"] = _base64_core(raw, offset, altchars)
    return {name: each for name, each in found.items() if list(found.values()).index(each) == list(found).index(name)}


def _base64_core(raw: bytes, offset: int, altchars: bytes) -> bytes:
    """Write the part of a secret's base64 that doesn't depend on what stands around it."""
    coded = base64.b64encode(b"\0" * offset + raw, altchars)
    return coded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]


def unpacked(data: bytes, layers: int = _MOST_LAYERS) -> Iterator[bytes]:
    """Give bytes as they are, and what is packed in them: zlib, gzip, zstd, base64 of the whole; in several layers."""
    yield data
    if layers == 0:
        return
    for unpack in (zlib.decompress, gzip.decompress, _unpack_zstd, _unpack_base64):
        try:
            inner = unpack(data)
        except (zlib.error, OSError, EOFError, zstandard.ZstdError, binascii.Error, ValueError):
            continue
        if inner:
            yield from unpacked(inner, layers - 1)


def _unpack_zstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def _unpack_base64(data: bytes) -> bytes:
    if not _BASE64.fullmatch(data):
        raise ValueError("is no base64")
    return base64.b64decode(data, altchars=b"-_" if b"-" in data or b"_" in data else None, validate=True)


@dataclass
class Finder:
    """Knows secrets, and searches for them.

    Attributes:
        findings: What it has found outside its place.
        searched_bytes: How much it has looked at.
    """

    findings: list[Finding] = field(default_factory=list)
    searched_bytes: int = 0
    _needles: dict[str, Mapping[str, bytes]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._needles)

    def plant(self, name: str, decoration: str = "") -> str:
        """Make a canary and watch it; answer what to plant."""
        return self.watch(Canary.make(name, decoration))

    def watch(self, canary: Canary) -> str:
        """Watch a secret; answer what it is."""
        assert canary.name not in self._needles, f"{canary.name} is watched already"
        self._needles[canary.name] = spellings(canary.core)
        return canary.text

    def search(self, place: str, data: bytes, *, may_hold: Collection[str] = ()) -> list[Finding]:
        """Search bytes, and what is packed in them.

        Args:
            place: What they are.
            data: The bytes.
            may_hold: How the names of those secrets begin that may be there.
        """
        wanted = {name: needles for name, needles in self._needles.items() if not name.startswith(tuple(may_hold))}
        found = []
        for layer in unpacked(data):
            self.searched_bytes += len(layer)
            found += [finding for name, needles in wanted.items() for finding in _find(name, needles, place, layer)]
        self.findings += found
        return found

    def search_file(self, path: Path, *, may_hold: Collection[str] = ()) -> list[Finding]:
        """Search a file."""
        return self.search(str(path), path.read_bytes(), may_hold=may_hold)

    def holds(self, name: str, data: bytes) -> bool:
        """Tell whether a secret is in some bytes: where it must be, the search for it can be believed."""
        return any(list(_find(name, self._needles[name], "", layer)) for layer in unpacked(data))


def _find(name: str, needles: Mapping[str, bytes], place: str, data: bytes) -> Iterator[Finding]:
    for spelling, needle in needles.items():
        at = data.find(needle)
        if at >= 0:
            yield Finding(name, place, spelling, data[max(0, at - _SHOWN_BYTES) : at].decode(errors="replace"))
