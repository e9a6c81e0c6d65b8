"""The chain of the audit trail: how entries are written and hashed, and how a break is found.

An entry is a JSON object. Its text is canonical, so that it has one hash: members sorted, no spaces, ASCII. ``seq`` is
its number, ``prev`` the hash of the entry before it, ``hash`` the hash of all the others. With a secret each hash is an
HMAC: then nobody can make another chain who has the store and not the secret. Knows no store and no requests.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.core.store.audit import Head, Link

Facts = Mapping[str, Any]
"""What an entry says: strings, whole numbers, booleans, null, and objects and lists of them."""


_write = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).encode


@dataclass(frozen=True, slots=True)
class Seal:
    """Makes hashes.

    Attributes:
        secret: Makes them HMACs; empty leaves them plain.
    """

    secret: str = field(default="", repr=False)

    def hash(self, text: str) -> str:
        """Hash a text: HMAC-SHA-256 with the secret, or SHA-256 without one; in hex."""
        if self.secret:
            return hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        return hashlib.sha256(text.encode()).hexdigest()

    def link(self, head: Head, entries: Sequence[Facts], *, max_entries: int) -> tuple[tuple[Link, ...], Head]:
        """Chain entries to the end of a trail.

        Args:
            head: Where the trail ends.
            entries: What they say.
            max_entries: How many entries the trail keeps.

        Returns:
            The entries as they are kept, and where the trail ends with them.
        """
        links, last = [], head.hash
        for seq, facts in enumerate(entries, head.seq + 1):
            text = canonical({**facts, "seq": seq, "prev": last})
            last = self.hash(text)
            links.append(Link(text, last))
        seq = head.seq + len(links)
        first = max(head.first, seq - max_entries + 1)
        return tuple(links), Head(seq, last, first, self.seal_of(seq, last, first))

    def seal_of(self, seq: int, last_hash: str, first: int) -> str:
        """Hash what a head says, so that it can't be moved either."""
        return self.hash(canonical({"seq": seq, "hash": last_hash, "first": first}))


def canonical(facts: Facts) -> str:
    """Write an object in the one way that is hashed."""
    return _write(facts)


def dump(link: Link) -> str:
    """Write an entry as one line, its hash included: how it is exported."""
    return canonical(read(link))


def show(link: Link) -> str:
    """Write an entry that nobody can have changed yet as one line, its hash at the end."""
    return f'{link.text[:-1]},"hash":"{link.hash}"}}'


def read(link: Link) -> dict[str, Any]:
    """Read an entry, its hash included; nothing but the hash where it is no object any more."""
    return {**load_object(link.text), "hash": link.hash}


def load(line: str) -> Link:
    """Read a line that ``dump`` wrote; one that is something else gives an entry that no chain holds."""
    facts = load_object(line)
    last = str(facts.pop("hash", ""))
    text = canonical(facts)
    return Link(text if dump(Link(text, last)) == line else line, last)


class Damage(StrEnum):
    """In which way the trail isn't as it was written."""

    CHANGED = "changed"
    """It isn't what was written."""
    REMOVED = "removed"
    """It was written and isn't there."""
    ADDED = "added"
    """It is there twice, or was never written."""
    ORDER = "order"
    """It stands in another place."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a stretch of the trail.

    Attributes:
        first: Number of the first entry that it is about.
        last: Number of the last one.
        damage: In which way.
        detail: What was seen, for people.
    """

    first: int
    last: int
    damage: Damage
    detail: str


class Verifier:
    """Follows a chain from its first entry to its last, and takes note of each break."""

    def __init__(self, seal: Seal, first: int | None = None) -> None:
        """Begin.

        Args:
            seal: Makes the hashes.
            first: Number that the first entry must have; ``None`` where any will do.
        """
        self._seal = seal
        self._next = first
        self._last_hash: str | None = None
        self._missing: list[tuple[int, int]] = []
        self._findings: list[Finding] = []
        self.count = 0

    @property
    def last(self) -> int:
        """Number of the entry at which it stands; 0 before the first one."""
        return (self._next or 1) - 1

    def follow_all(self, links: Iterable[Link]) -> None:
        """Look at the next entries, in their order."""
        for link in links:
            self._follow(link)

    def end(self, head: Head | None) -> tuple[Finding, ...]:
        """Tell what was found.

        Args:
            head: Where the trail ends, as the store has it; ``None`` where there is nothing to hold it against.
        """
        if head is not None:
            self._compare(head)
        missing = (Finding(*gap, Damage.REMOVED, "not there") for gap in self._missing)
        return tuple(sorted((*missing, *self._findings), key=lambda finding: (finding.first, finding.last)))

    def _follow(self, link: Link) -> None:
        self.count += 1
        facts = load_object(link.text)
        seq = _natural(facts.get("seq"))
        if seq is None or not self._is_authentic(link, facts):
            self._note_changed(seq)
        elif self._next is not None and seq < self._next:
            self._note_out_of_place(seq)
        else:
            self._step(link, seq, facts["prev"])

    def _is_authentic(self, link: Link, facts: Facts) -> bool:
        """Tell whether an entry is what its own hash says."""
        right = hmac.compare_digest(self._seal.hash(link.text).encode(), link.hash.encode())
        return right and isinstance(facts.get("prev"), str) and canonical(facts) == link.text

    def _note_changed(self, seq: int | None) -> None:
        """Take an entry that isn't what was written for the one that belongs here, unless its number is another's."""
        belongs_here = seq in {self._next, None} or self._next is None
        number = seq if seq is not None else self._next or 1
        self._findings.append(Finding(number, number, Damage.CHANGED, "its hash is another one"))
        if belongs_here:
            self._next, self._last_hash = number + 1, None

    def _note_out_of_place(self, seq: int) -> None:
        """Take note of an entry that comes after a later one."""
        for gap in [gap for gap in self._missing if gap[0] <= seq <= gap[1]]:
            self._missing.remove(gap)
            self._missing += [part for part in ((gap[0], seq - 1), (seq + 1, gap[1])) if part[0] <= part[1]]
            self._findings.append(Finding(seq, seq, Damage.ORDER, f"stands after {self.last}"))
            return
        self._findings.append(Finding(seq, seq, Damage.ADDED, f"stands again after {self.last}"))

    def _step(self, link: Link, seq: int, prev: str) -> None:
        """Go on to an entry that is authentic, and not before its turn."""
        if self._next is not None and seq > self._next:
            self._missing.append((self._next, seq - 1))
        elif self._last_hash is not None and prev != self._last_hash:
            self._findings.append(Finding(seq - 1, seq, Damage.CHANGED, f"{seq} doesn't follow what stands before it"))
        self._next, self._last_hash = seq + 1, link.hash

    def _compare(self, head: Head) -> None:
        """Hold the end of the trail against its head."""
        if self._seal.seal_of(head.seq, head.hash, head.first) != head.seal and head != Head():
            self._findings.append(Finding(head.seq, head.seq, Damage.CHANGED, "the head's seal is another one"))
        if self.last < head.seq:
            self._missing.append((self.last + 1, head.seq))
        elif self.last > head.seq:
            self._findings.append(Finding(head.seq + 1, self.last, Damage.ADDED, f"the trail ends at {head.seq}"))
        elif self._last_hash not in {None, head.hash}:
            self._findings.append(Finding(head.seq, head.seq, Damage.CHANGED, "the head has another hash"))


def load_object(text: str) -> dict[str, Any]:
    """Read a JSON object; anything else is an empty one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _natural(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
