"""JSON as it shouldn't be: strategies for texts, and for changes that are made to a text that is good.

A change works on what has the right shape already, so that it gets past the first check and into the code behind it.
What Python's own JSON can't write (NaN, numbers of thousands of digits, names given twice, half surrogate pairs,
nesting without end) is put in as text.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

_SHOWN_CHARS = 60


@dataclass(frozen=True, repr=False)
class Change:
    """What is done to a good text. Its repr is short, however much it puts in.

    Attributes:
        how: Does it; takes the good text last.
        parts: What it takes before that.
    """

    how: Callable[..., bytes]
    parts: tuple[Any, ...] = ()

    def __call__(self, good: bytes) -> bytes:
        """Do it."""
        return self.how(*self.parts, good)

    def __repr__(self) -> str:
        shown = (f"{part!r:.{_SHOWN_CHARS}}" for part in self.parts)
        return f"{self.how.__name__}({', '.join(shown)})"


DEEP = 100_000
_MARK = "@@here@@"

NASTY = [
    "null", "true", "false", "0", "-0", "-1", "1", "1.5", "-0.0", "1e999", "-1e999", "1e-400", "NaN", "Infinity",
    "-Infinity", "2147483648", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
    "18446744073709551616", "9" * 400, "9" * 4299, "9" * 5000, "1" + "0" * 4300 + ".0", "0x10", "+1", "01",
    '""', '" "', '"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udfff x"', '"\\ud83d\\ude00"', '"\\ufeff"', '"\\u202e"',
    '"' + "x" * 70_000 + '"', '"' + "A" * 1_000_000 + '"', '"AAAA"', '"AAA"', '"=\\u00e9="', '"true"', '"0"', '"-1"',
    '"/"', '"../../x"', '"%s%n%00"', "'x'", "[]", "{}", "[[]]", "[null]", '[{"a": [1]}]', '{"": ""}',
    '{"a": 1, "a": 2}', '{"\\ud800": "\\udc00"}', '{"\\u0000": null}', '{"return": {}, "error": {}}',
    "[" + "1," * 3000 + "1]",
    "[" * DEEP + "]" * DEEP, "[" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * 900 + "]" * 900, "", " ", ",", "\x00",
]  # fmt: skip
"""Values that have broken somebody's reader before."""

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
"""Any value that Python's JSON can write."""

TEXTS: st.SearchStrategy[bytes] = (st.sampled_from(NASTY) | VALUES.map(json.dumps)).map(
    lambda text: text.encode(errors="surrogatepass")
)
"""The texts of values, good or not."""


def places(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """List where a value, or a part of it, stands: the names and indices on the way there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, part in inner for place in places(part, (*at, key)))]


def _put(value: Any, place: tuple[str | int, ...], change: Callable[[Any, str | int], None]) -> None:
    for key in place[:-1]:
        value = value[key]
    change(value, place[-1])


def _edit(good: bytes, nth: int, change: Callable[[Any, str | int], None], text: bytes) -> bytes:
    """Change a part of a JSON text; the mark that the change has left becomes a text of its own."""
    try:
        value = json.loads(good)
    except (ValueError, RecursionError):  # some of the agent's lines begin with a byte that isn't JSON
        return good[:1] + text + b"\n"
    inner = places(value)[1:]
    if not inner:
        return text
    _put(value, inner[nth % len(inner)], change)
    return json.dumps(value).encode().replace(json.dumps(_MARK).encode(), text) + b"\n"


def replace(nth: int, text: bytes, good: bytes) -> bytes:
    """Put another value in the place of the nth one."""

    def change(holder: Any, key: str | int) -> None:
        holder[key] = _MARK

    return _edit(good, nth, change, text)


def vary(nth: int, word: str, number: float, good: bytes) -> bytes:
    """Put another value of the same type in the place of the nth one."""

    def change(holder: Any, key: str | int) -> None:
        match holder[key]:
            case bool(given):
                holder[key] = not given
            case int() | float():
                holder[key] = number
            case str(given):
                holder[key] = word if number < 0 else given + word
            case list(given):
                holder[key] = given * max(0, min(round(number), 5000))
            case _:
                holder[key] = {}

    return _edit(good, nth, change, b"")


def remove(nth: int, good: bytes) -> bytes:
    """Leave out the nth value."""

    def change(holder: Any, key: str | int) -> None:
        del holder[key]

    return _edit(good, nth, change, b"")


def repeat(nth: int, text: bytes, good: bytes) -> bytes:
    """Give a name a second time, with another value; in a list, one more item."""
    names: list[str] = []

    def change(holder: Any, key: str | int) -> None:
        if isinstance(holder, list):
            holder.append(_MARK)
        else:
            names.append(str(key))
            holder["@@again@@"] = _MARK

    edited = _edit(good, nth, change, text)
    return edited.replace(b'"@@again@@"', json.dumps(names[0]).encode()) if names else edited


def add(nth: int, name: str, text: bytes, good: bytes) -> bytes:
    """Add a member of another name beside the nth value."""

    def change(holder: Any, _key: str | int) -> None:
        if isinstance(holder, list):
            holder.insert(0, _MARK)
        else:
            holder[name] = _MARK

    return _edit(good, nth, change, text)


def wrap(nth: int, depth: int, good: bytes) -> bytes:
    """Bury the nth value in lists."""

    def change(holder: Any, key: str | int) -> None:
        holder[key] = _MARK

    return _edit(good, nth, change, b"[" * depth + b"]" * depth)


def cut(share: float, good: bytes) -> bytes:
    """Leave out the end."""
    return good[: int(len(good) * share)]


def splice(share: float, junk: bytes, good: bytes) -> bytes:
    """Put bytes in."""
    at = int(len(good) * share)
    return good[:at] + junk + good[at:]


def overwrite(share: float, junk: bytes, good: bytes) -> bytes:
    """Put bytes in the place of others."""
    at = int(len(good) * share)
    return good[:at] + junk + good[at + len(junk) :]


def instead(text: bytes, _good: bytes) -> bytes:
    """Say something else altogether."""
    return text + b"\n"


_NTH = st.integers(0, 30)
_SHARE = st.floats(0, 1)
_WORDS = st.text(max_size=20) | st.sampled_from([
    "",
    " ",
    "x" * 300,
    "\0",
    "\n",
    "1",
    "-",
    "/",
    "*",
    "\u202e",
    "Å" * 40,
])
_NUMBERS = st.integers(-3, 3) | st.integers(-(2**70), 2**70) | st.floats(-1e6, 1e6)
_JUNK = st.binary(min_size=1, max_size=12) | st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\x00", b"\n", b'"', b"\xc0"])


def _changes(how: Callable[..., bytes], *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Change]:
    return st.builds(Change, st.just(how), st.tuples(*parts))


CHANGES: st.SearchStrategy[Change] = st.one_of(
    _changes(replace, _NTH, TEXTS),
    _changes(replace, _NTH, TEXTS),
    _changes(vary, _NTH, _WORDS, _NUMBERS),
    _changes(vary, _NTH, _WORDS, _NUMBERS),
    _changes(remove, _NTH),
    _changes(repeat, _NTH, TEXTS),
    _changes(add, _NTH, st.text(max_size=10), TEXTS),
    _changes(wrap, _NTH, st.sampled_from([1, 2, 500, DEEP])),
    _changes(cut, _SHARE),
    _changes(splice, _SHARE, _JUNK),
    _changes(overwrite, _SHARE, _JUNK),
    _changes(instead, TEXTS),
)
HONEST = Change(bytes)
"""No change."""
