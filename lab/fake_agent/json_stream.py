"""QEMU's streaming JSON reader: bytes in, JSON values and complaints out.

Responsible for where one message ends, and for what a reader says about bytes that aren't JSON. It knows no RPC.

Source: QEMU, qobject/json-lexer.c and json-streamer.c. Left out: strings in single quotes, the limits on size and
nesting, and the exact words of a complaint about JSON's tokens in an order that isn't JSON.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_OPEN_STRING = rb'"(?:[^"\\\x00-\x1f\xfe\xff]++|\\[^\x00-\x1f\xfe\xff])*+'
# A token; or bytes that begin none, of which the last shows it.
_LEXEME = re.compile(
    rb'[{}\[\],:]|%b"|[a-z]+|-?[0-9][0-9.eE+-]*|(?P<stray>(?:%b\\?|-)?.)' % (_OPEN_STRING, _OPEN_STRING),
    re.DOTALL,
)
# A token that the next bytes may lengthen.
_UNFINISHED = re.compile(rb"(?:%b\\?|[a-z]+|-|-?[0-9][0-9.eE+-]*)\Z" % _OPEN_STRING)
_SPACE = re.compile(rb"[ \t\r\n]*")
# After a stray byte all is skipped, up to a mark, a control character, 0xFE or 0xFF.
_SKIPPED = re.compile(rb"[^\x00-\x08\x0a-\x1f\[\]{},:\xfe\xff]*")


@dataclass(frozen=True)
class Malformed:
    """A stretch of input that is no JSON, and what the reader says of it."""

    desc: str


class JsonStream:
    """Reads messages from bytes that come in any pieces, from any number of clients.

    An object that was never closed swallows all that follows, until 0xFF (never part of JSON) resets the reader.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self._tokens: list[bytes] = []
        self._braces = self._brackets = 0

    def feed(self, data: bytes) -> Iterator[object]:
        """Yield each value that `data` completes, and a `Malformed` for each stretch that is no JSON."""
        for token in self._lex(self._rest + data):
            if isinstance(token, Malformed):
                self._take_tokens()
                yield token
            elif self._completes_a_message(token):
                yield _parse(self._take_tokens())

    def _lex(self, text: bytes) -> Iterator[bytes | Malformed]:
        at = self._skip(text, 0)
        while at < len(text) and not _UNFINISHED.match(text, at) and (found := _LEXEME.match(text, at)):
            stray = found["stray"]
            self._skipping = stray is not None
            yield Malformed(f"JSON parse error, stray '{stray.decode(errors='replace')}'") if stray else found[0]
            at = self._skip(text, found.end())
        self._rest = text[at:]

    def _skip(self, text: bytes, at: int) -> int:
        if self._skipping and (skipped := _SKIPPED.match(text, at)):
            at = skipped.end()
            self._skipping = at == len(text)
        space = _SPACE.match(text, at)
        return space.end() if space else at

    def _completes_a_message(self, token: bytes) -> bool:
        self._tokens.append(token)
        self._braces += {b"{": 1, b"}": -1}.get(token, 0)
        self._brackets += {b"[": 1, b"]": -1}.get(token, 0)
        return min(self._braces, self._brackets) < 0 or self._braces == self._brackets == 0

    def _take_tokens(self) -> list[bytes]:
        tokens, self._tokens, self._braces, self._brackets = self._tokens, [], 0, 0
        return tokens


def _parse(tokens: list[bytes]) -> object:
    try:
        return json.loads(b" ".join(tokens).decode())
    except UnicodeDecodeError:
        return Malformed("JSON parse error, invalid UTF-8 sequence in string")
    except ValueError:
        word = tokens[0].decode()
        problem = f"invalid keyword '{word}'" if word.isalpha() else "expecting value"
        return Malformed(f"JSON parse error, {problem}")
