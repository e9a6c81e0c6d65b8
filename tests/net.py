"""The net under a whole test run: what stacks and tests print is searched for every API key and every named secret.

It is cheap: secrets as they are, in one pass. ``tests.canaries`` looks closer, where a test plants secrets on purpose.
"""

import re
from pathlib import Path

from tests.canaries import KEY, Finder

_CORE_CHARS = 43
_RUN = re.compile(rb"[A-Za-z0-9_-]{43,}")
_SHOWN_BYTES = 60


class Net:
    """Secrets of a run, and what was found of them.

    Attributes:
        findings: What was found, and where.
        searched_bytes: How much was searched.
    """

    def __init__(self) -> None:
        self.findings: set[str] = set()
        self.searched_bytes = 0
        self._cores: set[bytes] = set()
        self._named: dict[str, bytes] = {}
        self._planted = 0

    @property
    def watched(self) -> int:
        """How many secrets were looked for."""
        return len(self._cores) + len(self._named) + self._planted

    def watch_key(self, key: str) -> str:
        """Watch an API key, or a token; one that looks like a key is found though nobody watches it."""
        self._cores.add(key.encode()[-_CORE_CHARS:])
        return key

    def watch(self, name: str, secret: str) -> str:
        """Watch any other secret."""
        self._named[name] = secret.encode()
        return secret

    def take(self, finder: Finder) -> None:
        """Take over what a closer search has found."""
        self._planted += len(finder)
        self.searched_bytes += finder.searched_bytes
        self.findings |= {str(finding) for finding in finder.findings}

    def search(self, place: str, data: bytes) -> None:
        """Search what was printed."""
        self.searched_bytes += len(data)
        found = [("an API key", match.start()) for match in KEY.finditer(data)]
        found += [("a key", match.start()) for match in _RUN.finditer(data) if match[0][-_CORE_CHARS:] in self._cores]
        found += [(name, data.find(secret)) for name, secret in self._named.items() if secret in data]
        for name, at in found:
            before = data[max(0, at - _SHOWN_BYTES) : at].decode(errors="replace")
            self.findings.add(f"{name} in {place}, after {before!r}")

    def search_file(self, path: Path) -> None:
        """Search a log; one that isn't there holds nothing."""
        if path.exists():
            self.search(str(path), path.read_bytes())

    def summary(self) -> str:
        """Tell what was done."""
        figures = f"{self.watched:,} secrets watched, {self.searched_bytes:,} bytes searched"
        return "\n".join((f"{figures}, {len(self.findings)} found outside their place", *sorted(self.findings)))


NET = Net()
"""The one of this run."""
