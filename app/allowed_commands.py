"""Commands that an API key is limited to: what its patterns mean, and whether a command fits one.

A pattern is a line of words, such as ``/opt/deploy.sh web-*``. A command fits it in one of two ways:

* it is the very same text, whatever that says to a shell;
* it is one plain command whose words fit the pattern's one by one. ``*`` stands for any part of one word, but neither
  for an option (a word that begins with ``-`` fits only a pattern that does) nor for a way out of a folder (``..``).

Plain means that no shell, neither a guest's ``sh`` nor its ``cmd.exe``, would see anything but words in it: no
operator, variable, substitution, redirection or second line. So, unlike ``app.guard``, this is a security boundary:
what can't be read is refused. How far it reaches is up to the program: one that runs what it is told does so here too.
"""

import fnmatch
import re
import shlex
from collections.abc import Sequence

from app.core.errors import KeyLimitedError
from app.core.records import CommandRequest

_BARE = r"[A-Za-z0-9_@+=:,./-]"
_QUOTED = r"[A-Za-z0-9_@+=:,./ #~?*\[\]{}-]"
_WORD = rf"(?:{_BARE}|'{_QUOTED}*'|\"{_QUOTED}*\")+"
_PLAIN = re.compile(rf"[ \t]*{_WORD}(?:[ \t]+{_WORD})*[ \t]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_NO_WILDCARDS = str.maketrans({"[": "[[]", "?": "[?]"})
"""Of ``fnmatch`` only ``*`` is meant."""

MAX_PATTERN_CHARS = 1000
PATTERN = r"[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*"
"""What can be a pattern: one line that isn't blank."""
PATTERN_RULE = f"must be 1 to {MAX_PATTERN_CHARS:,} characters on one line, and not blank"

_NOT_AMONG = "this command is not among those it may run"
_NO_EXTRAS = "its commands take no env and no cwd"


def insist_on_allowed(patterns: Sequence[str], request: CommandRequest) -> None:
    """Insist that a command fits one of the patterns that a key is limited to.

    Raises:
        KeyLimitedError: It fits none; or it comes with variables or a directory, which could make it another command.
    """
    if request.env or request.cwd is not None:
        raise KeyLimitedError(_NO_EXTRAS)
    words = _words(request.line) if request.argv is None else request.argv
    if request.argv is None and request.line in patterns:
        return
    if not words or not any(_fits(words, pattern) for pattern in patterns):
        raise KeyLimitedError(_NOT_AMONG)


def is_pattern(text: str) -> bool:
    """Tell whether a text can be a pattern."""
    return len(text) <= MAX_PATTERN_CHARS and re.fullmatch(PATTERN, text) is not None


def _words(line: str) -> Sequence[str]:
    """Read the words of a plain command; none of any other line."""
    if _PLAIN.fullmatch(line) is None:
        return ()
    words = shlex.split(line)
    return () if _ASSIGNMENT.match(words[0]) else words


def _fits(words: Sequence[str], pattern: str) -> bool:
    try:
        wanted = shlex.split(pattern)
    except ValueError:  # a quote that is never closed: fits nothing but itself
        return False
    return len(words) == len(wanted) and all(map(_word_fits, words, wanted))


def _word_fits(word: str, pattern: str) -> bool:
    if word == pattern:
        return True
    is_way_out = ".." in re.split(r"[/\\]", word)
    is_option = word.startswith(("-", "/")) and pattern.startswith("*")  # cmd.exe's options begin with a slash
    if is_way_out or is_option or "*" not in pattern:
        return False
    return re.match(fnmatch.translate(pattern.translate(_NO_WILDCARDS)), word) is not None  # fnmatch keeps too many
