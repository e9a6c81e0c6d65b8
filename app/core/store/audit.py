"""The audit trail in the store: a bounded stream of entries, each of which holds the hash of the one before.

What a hash is made of is no business of this module, and Redis couldn't make it. So an entry comes with its hash, and
is appended only where the trail still ends as it did when the hash was made: compare and append.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.core.store.calls import Call, pairs, script

NO_HASH = "0" * 64
"""What stands for the hash of the entry before the first one."""


@dataclass(frozen=True, slots=True)
class Link:
    """One entry as it is kept.

    Attributes:
        text: All that it says, its number and the hash of the entry before included, in canonical JSON.
        hash: Of the text, in hex.
    """

    text: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """Where the trail begins and ends: without it nobody could tell that entries are missing at either end.

    Attributes:
        seq: Number of the last entry; 0 where there is none yet.
        hash: Its hash.
        first: Number of the first entry that is still kept.
        seal: Hash over the three, in hex.
    """

    seq: int = 0
    hash: str = NO_HASH
    first: int = 1
    seal: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the trail, and its head at that very moment.

    Attributes:
        links: The entries, oldest first.
        head: ``None`` where there is none.
        after: The id in the stream after which the next page begins.
    """

    links: tuple[Link, ...]
    head: Head | None
    after: str


_HEAD = """
local function head()
  local f = redis.call('HMGET', 'ownup:audit:head', 'seq', 'hash', 'first', 'seal')
  return {f[1] or '0', f[2] or ARGV[1], f[3] or '1', f[4] or ''}
end
"""
"""Start of a script that looks at the head; its first argument is ``NO_HASH``."""

_APPEND = f"""
{_HEAD}
local present = head()
if present[1] ~= ARGV[2] or present[2] ~= ARGV[3] or present[3] ~= ARGV[4] then return present end
local count = tonumber(ARGV[11])
local last = 11 + 2 * count
if ARGV[10] == '1' then
  for i = last + 1, #ARGV do
    if redis.call('HEXISTS', 'ownup:audit:open', ARGV[i]) == 0 then return present end
  end
end
for i = 12, last, 2 do redis.call('XADD', 'ownup:audit', '*', 'entry', ARGV[i], 'hash', ARGV[i + 1]) end
redis.call('XTRIM', 'ownup:audit', 'MAXLEN', '=', ARGV[9])
redis.call('HSET', 'ownup:audit:head', 'seq', ARGV[5], 'hash', ARGV[6], 'first', ARGV[7], 'seal', ARGV[8])
for i = last + 1, #ARGV do redis.call('HDEL', 'ownup:audit:open', ARGV[i]) end
return false
"""

_LOOK = f"""
{_HEAD}
local present = head()
local back = tonumber(present[1]) - tonumber(ARGV[2]) + 1
local found = back > 0 and redis.call('XREVRANGE', 'ownup:audit', '+', '-', 'COUNT', back) or {{}}
return {{present, found[back] and found[back][2][4] or ''}}
"""

_PAGE = """
return {redis.call('HGETALL', 'ownup:audit:head'),
  redis.call('XRANGE', 'ownup:audit', ARGV[1], '+', 'COUNT', ARGV[2])}
"""

_LATEST = """
return {redis.call('HGETALL', 'ownup:audit:head'),
  redis.call('XREVRANGE', 'ownup:audit', '+', '-', 'COUNT', ARGV[1])}
"""

FROM_THE_FIRST = "-"
"""Where the first page begins."""


def append(
    expected: Head,
    links: Sequence[Link],
    head: Head,
    *,
    max_entries: int,
    closes: Sequence[str] = (),
    only_if_open: bool = False,
) -> Call[Head | None]:
    """Append entries, if the trail still ends as expected, and forget the oldest where there are too many.

    Args:
        expected: Where the trail ended when the hashes were made.
        links: The entries.
        head: Where it ends with them.
        max_entries: How many are kept.
        closes: Ids of the requests that aren't open any more with these entries.
        only_if_open: Append nothing if one of those isn't open now.

    Returns:
        A call that tells ``None`` where they were appended, and otherwise where the trail ends now.
    """
    ends = (expected.seq, expected.hash, expected.first, head.seq, head.hash, head.first, head.seal)
    flat = [part for link in links for part in (link.text, link.hash)]
    counted = (max_entries, int(only_if_open), len(links))
    return script(_APPEND, NO_HASH, *ends, *counted, *flat, *closes, load=_load_head)


def look(seq: int) -> Call[tuple[Head, str]]:
    """Read where the trail ends now, and the hash of the entry with a number; empty where there is none."""
    return script(_LOOK, NO_HASH, seq, load=lambda reply: (_get_head(reply[0]), reply[1].decode()))


def read_page(after: str, count: int) -> Call[Page]:
    """Read the next entries, oldest first.

    Args:
        after: ``Page.after`` of the page before, or ``FROM_THE_FIRST``.
        count: How many at most.
    """
    begin = after if after == FROM_THE_FIRST else f"({after}"
    return script(_PAGE, begin, count, load=lambda reply: _load_page(reply[0], reply[1], after))


def read_since(moment: datetime, count: int) -> Call[Page]:
    """Read the first entries that were appended at a moment or later, by Redis's clock."""
    begin = str(max(0, int(moment.timestamp() * 1000)))
    return script(_PAGE, begin, count, load=lambda reply: _load_page(reply[0], reply[1], f"{begin}-0"))


def read_latest(count: int) -> Call[Page]:
    """Read the last entries, oldest first."""
    return script(_LATEST, count, load=lambda reply: _load_page(reply[0], reply[1][::-1], "0-0"))


def open_request(request_id: str, text: str) -> Call[bool]:
    """Note what is going to be done for a request whose entry comes when it has ended."""
    return Call(("HSET", "ownup:audit:open", request_id, text), lambda _reply: True)


def list_open() -> Call[Mapping[str, str]]:
    """Read what was noted for the requests that are open, by their ids."""
    return Call(
        ("HGETALL", "ownup:audit:open"),
        lambda reply: {name.decode(): text.decode() for name, text in pairs(reply).items()},
    )


def _load_head(reply: Any) -> Head | None:
    return _get_head(reply) if reply else None


def _get_head(reply: Any) -> Head:
    """Read the head, whatever has become of it: what is no number is 0."""
    seq, last_hash, first, seal = (field.decode(errors="replace") for field in reply)
    return Head(_number(seq), last_hash, _number(first), seal)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _load_page(head: Any, entries: Any, before: str) -> Page:
    fields = pairs(head)
    known = _get_head([fields.get(name, b"") for name in (b"seq", b"hash", b"first", b"seal")]) if fields else None
    links = tuple(_load_link(dict(zip(each[1][::2], each[1][1::2], strict=True))) for each in entries)
    return Page(links, known, entries[-1][0].decode() if entries else before)


def _load_link(fields: Mapping[bytes, bytes]) -> Link:
    """Read an entry, whatever has become of it: what is missing is empty."""
    return Link(*(fields.get(name, b"").decode(errors="replace") for name in (b"entry", b"hash")))
