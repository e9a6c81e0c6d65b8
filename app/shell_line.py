"""Reads a shell line down to its simple commands, the way a shell does and as far as that is cheap.

Responsible for: quotes, escapes, variables that the line itself sets, substitutions, groups, functions, redirections
and here-documents. It deliberately knows no rules and runs nothing: what only the guest could tell stays unknown.
"""

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import dropwhile, takewhile
from types import MappingProxyType
from typing import NamedTuple, cast

MAX_PATH_CHARS = 4096
"""Linux, limits.h: PATH_MAX. Nothing longer is the name of a file."""


@dataclass(slots=True)
class SimpleCommand:
    """One program with its words, as it would be started; what only the guest knows stays in the text as ``$NAME``.

    Attributes:
        cwd: The working directory at that point of the line.
        words: The program and its arguments, quotes removed and variables put in.
        overwrites: Where ``>`` leads its output.
        appends: Where ``>>`` leads its output.
        stdin: The text of its here-document or here-string, or else what the whole line is given.
        expanded: The text of its here-documents in which the shell runs what stands in ``$( )`` and backticks.
        piped_from: The command whose output it reads.
        calls_itself: It stands in the body of a function of its own name, in a pipe or in the background.
    """

    cwd: str
    words: list[str] = field(default_factory=list)
    overwrites: list[str] = field(default_factory=list)
    appends: list[str] = field(default_factory=list)
    stdin: str | None = None
    expanded: str = ""
    piped_from: "SimpleCommand | None" = None
    calls_itself: bool = False


class Script(NamedTuple):
    """Text that a shell reads.

    Attributes:
        text: The line, or several.
        cwd: Where it will run.
        stdin: What the shell is given for its standard input, where that is known.
        variables: What is set in it from the start.
        is_document: Only what stands in ``$( )`` and backticks is run: the text of a here-document.
    """

    text: str
    cwd: str
    stdin: str | None = None
    variables: Mapping[str, str] = MappingProxyType({})
    is_document: bool = False


@dataclass(slots=True)
class _Level:
    """The line itself, or one open ``$( )``, backtick, ``( )`` or ``{ }``: what is being read in it."""

    closer: str
    command: SimpleCommand
    function: str | None = None
    is_substitution: bool = False
    quoted: bool = False
    word: list[str] | None = None
    redirect: str = ""
    redirected_at: int = 0
    defines: str | None = None
    last: SimpleCommand | None = None


_VARIABLE = r"""
  (?P<variable> \$(?: (?P<name>[A-Za-z_]\w*|[0-9@*?!$\#-])
                    | \{ (?P<braced>[A-Za-z_]\w*|[0-9@*]) (?: :?(?P<test>[-+=?]) (?P<default>[^{}]{0,256}) )? \} ))
"""
_UNQUOTED = re.compile(
    rf"""
    (?P<blank> [ \t\r]+)
  | (?P<text> [^\s\\'"`$|&;()<>\#~]+)
  | (?P<newline> \n)
  | (?P<escape> \\(?P<escaped>.?))
  | (?P<single> '(?P<literal>[^']*)'?)
  | (?P<ansi> \$'(?P<escapes>(?:[^'\\]|\\.)*)'?)
  | (?P<double> \$?")
  | (?P<substitution> \$\( | ` | [<>]\()
  | {_VARIABLE}
  | (?P<definition> \([ \t]*\))
  | (?P<opening> \()
  | (?P<closing> \))
  | (?P<redirect> &>>? | <<<?-? | >> | >[|&]? | <[>&]?)
  | (?P<separator> &&? | \|[|&]? | ;+)
  | (?P<home> ~(?:root)?(?=[/\s;&|)]|$))
  | (?P<comment> \#)
  | (?P<other> .)
    """,
    re.VERBOSE | re.DOTALL,
)
_DOUBLE_QUOTED = re.compile(
    rf"""
    (?P<text> [^"\\$`]+)
  | (?P<double> ")
  | (?P<escape> \\(?P<escaped>[$`"\\\n]))
  | (?P<substitution> \$\( | `)
  | {_VARIABLE}
  | (?P<other> .)
    """,
    re.VERBOSE | re.DOTALL,
)
_DOCUMENT = re.compile(
    rf"""
    (?P<text> [^\\$`]+)
  | (?P<escape> \\(?P<escaped>[$`\\\n]))
  | (?P<substitution> \$\( | `)
  | {_VARIABLE}
  | (?P<other> .)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLANKS = re.compile(r"[ \t\n]+")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_ANSI_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NESTED_NAME = re.compile(r"\$([A-Za-z_]\w*)")
_PRECEDES_A_COMMAND = frozenset([
    "!",
    "if",
    "then",
    "elif",
    "else",
    "fi",
    "while",
    "until",
    "do",
    "done",
    "esac",
    "coproc",
])
_DECLARES = frozenset(["export", "local", "declare", "readonly", "typeset"])
_PIPES = frozenset(["|", "|&"])
_DETACHES = frozenset(["|", "|&", "&"])
_QUOTES = frozenset("'\"\\")
_UNKNOWN_OUTPUT = "$()"
_MAX_PIPED = 4


def read_script(script: Script, *, most: int) -> list[SimpleCommand]:
    """Split what a shell reads into its simple commands, those within ``$( )``, groups and function bodies included.

    One pass with a stack of its own: time grows with the length of the text, and no nesting exhausts Python's stack.
    Never fails: what a shell would call a syntax error is read as far as it goes.

    Source: POSIX.1-2017, Shell Command Language, 2.2 Quoting to 2.9 Shell Commands.

    Args:
        script: What the shell reads.
        most: How many commands, groups and substitutions are read; the rest of the text is left.
    """
    return _Reader(script).read(most)


def positional(arguments: Sequence[str]) -> dict[str, str]:
    """Give the variables ``$1`` to ``$9``, ``$@`` and ``$*`` of a shell that is given these arguments."""
    joined = " ".join(arguments)
    return {"@": joined, "*": joined} | dict(zip("123456789", arguments, strict=False))


class _Reader:
    """Reads one script. Its parts: words, commands, redirections, levels."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._text = script.text
        self._at = 0
        self._cwd = script.cwd
        self._variables = {"HOME": "/root", "IFS": " "} | dict(script.variables)
        # b=$a$a; c=$b$b; … doubles each time: past this, variables stay unread
        self._expansion_left_chars = len(self._text)
        self._commands: list[SimpleCommand] = []
        self._heredocs: list[tuple[str, bool, SimpleCommand]] = []
        self._level = _Level("", SimpleCommand(self._cwd), quoted=script.is_document)
        self._outer: list[_Level] = []
        self._opened = 0
        self._on: Mapping[str, Callable[[re.Match[str]], None]] = {
            "blank": lambda _: self._end_word(),
            "text": lambda match: self._add(match[0]),
            "newline": self._on_newline,
            "escape": self._on_escape,
            "single": lambda match: self._add(match["literal"]),
            "ansi": self._on_ansi,
            "double": self._on_double,
            "substitution": self._on_substitution,
            "variable": self._on_variable,
            "definition": self._on_definition,
            "opening": lambda _: self._open_group(")"),
            "closing": lambda _: self._close(")"),
            "redirect": self._on_redirect,
            "separator": lambda match: self._end_command(match[0]),
            "home": self._on_home,
            "comment": self._on_comment,
            "other": lambda match: self._add(match[0]),
        }

    def read(self, most: int) -> list[SimpleCommand]:
        text, length, on, commands = self._text, len(self._text), self._on, self._commands
        while self._at < length and self._opened + len(commands) < most:
            pattern = self._quoted if self._level.quoted else _UNQUOTED
            match = cast("re.Match[str]", pattern.match(text, self._at))  # <other> takes any character
            self._at = match.end()
            on[match.lastgroup or "other"](match)
        while self._outer:
            self._close(self._level.closer)
        if not self._script.is_document:
            self._end_command("")
        return self._commands

    @property
    def _quoted(self) -> re.Pattern[str]:
        return _DOCUMENT if self._script.is_document and not self._outer else _DOUBLE_QUOTED

    # words

    def _add(self, text: str) -> None:
        if self._level.word is None:
            self._level.word = []
        self._level.word.append(text)

    def _add_expanded(self, value: str) -> None:
        """Add the value of a variable or substitution; outside quotes its blanks separate words."""
        if self._level.quoted:
            self._add(value)
            return
        for index, piece in enumerate(_BLANKS.split(value)):
            if index:
                self._end_word()
            if piece:
                self._add(piece)

    def _on_escape(self, match: re.Match[str]) -> None:
        if match["escaped"] != "\n":
            self._add(match["escaped"])

    def _on_ansi(self, match: re.Match[str]) -> None:
        self._add(_ANSI_ESCAPE.sub(lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), match["escapes"]))

    def _on_double(self, _: re.Match[str]) -> None:
        self._add("")
        self._level.quoted = not self._level.quoted

    def _on_home(self, match: re.Match[str]) -> None:
        starts_a_path = self._level.word is None or self._level.word[-1].endswith("=")
        self._add(self._variables["HOME"] if starts_a_path else match[0])

    def _on_comment(self, match: re.Match[str]) -> None:
        if self._level.word is not None:
            self._add(match[0])
            return
        line_end = self._text.find("\n", self._at)
        self._at = len(self._text) if line_end < 0 else line_end

    def _on_variable(self, match: re.Match[str]) -> None:
        value = self._value_of(match)
        self._expansion_left_chars -= len(value)
        self._add_expanded(value if self._expansion_left_chars > 0 else match[0])

    def _value_of(self, match: re.Match[str]) -> str:
        name = match["name"] or match["braced"]
        known = self._cwd if name == "PWD" else self._variables.get(name)
        if match["test"] == "+" and known is not None:
            return self._with_names(match["default"])
        if match["test"] in {"-", "="} and known is None:
            return self._with_names(match["default"])
        return match[0] if known is None else known

    def _with_names(self, text: str) -> str:
        return _NESTED_NAME.sub(lambda found: self._variables.get(found[1], found[0]), text)

    def _end_word(self) -> None:
        level = self._level
        if level.word is None:
            return
        word, level.word = "".join(level.word), None
        if level.redirect:
            self._redirect_to(word)
        elif not level.command.words:
            self._begin_command(word)
        elif level.command.words == ["function"]:
            level.command.words.clear()
            level.defines = word
        else:
            level.command.words.append(word)

    # commands

    def _begin_command(self, word: str) -> None:
        level = self._level
        if word == "}":
            self._close("}")
        elif word == "{" or (level.defines and word.startswith("{")):
            self._open_group("}")
            self._add(word[1:])
            self._end_word()
        elif word and word not in _PRECEDES_A_COMMAND:
            level.defines = None
            level.command.words.append(word)

    def _end_command(self, separator: str) -> None:
        self._end_word()
        level, command = self._level, self._level.command
        level.redirect = ""
        if command.words or command.overwrites or command.appends:
            command.calls_itself = self._calls_itself(command, separator)
            if command.stdin is None and command.piped_from is None:
                command.stdin = self._script.stdin
            self._commands.append(command)
            self._follow(command.words)
            level.last = command
            level.command = SimpleCommand(self._cwd, piped_from=command if separator in _PIPES else None)
        elif separator != "\n":  # a pipe goes on after a line break
            command.piped_from = None

    def _calls_itself(self, command: SimpleCommand, separator: str) -> bool:
        detached = separator in _DETACHES or command.piped_from is not None
        return detached and command.words[:1] == [self._level.function]

    def _follow(self, words: list[str]) -> None:
        """Keep what the command changes for the rest of the line: variables and the working directory."""
        program = words[0] if words else ""
        if program in {"cd", "pushd"}:
            target = next((word for word in words[1:] if not word.startswith("-")), self._variables["HOME"])
            self._cwd = posixpath.join(self._cwd, target)[:MAX_PATH_CHARS]
        elif program == "for" and words[2:3] == ["in"]:
            self._variables[words[1]] = words[3] if len(words[3:]) == 1 else "{" + ",".join(words[3:]) + "}"
        elif program == "set" and words[1:2] == ["--"]:
            self._variables |= positional(words[2:])
        elif program in _DECLARES or all(map(ASSIGNMENT.match, words)):
            for name, _, value in (word.partition("=") for word in words if ASSIGNMENT.match(word)):
                self._variables[name.rstrip("+")] = value

    def _on_definition(self, _: re.Match[str]) -> None:
        self._end_word()
        words = self._level.command.words
        if words:
            self._level.defines = words[-1]
            words.clear()

    # redirections

    def _on_redirect(self, match: re.Match[str]) -> None:
        if self._level.word and all(part.isdigit() for part in self._level.word):
            self._level.word = None  # the 2 of 2> is no argument
        self._end_word()
        self._level.redirect = match[0]
        self._level.redirected_at = self._at

    def _redirect_to(self, word: str) -> None:
        command, redirect = self._level.command, self._level.redirect
        self._level.redirect = ""
        if redirect in {"<<", "<<-"}:
            is_quoted = not _QUOTES.isdisjoint(self._text[self._level.redirected_at : self._at])
            self._heredocs.append((word, is_quoted, command))
        elif redirect.startswith("<<<"):
            command.stdin = word
        elif redirect.endswith(">>"):
            command.appends.append(word)
        elif ">" in redirect:
            command.overwrites.append(word)

    def _on_newline(self, _: re.Match[str]) -> None:
        self._end_command("\n")
        for delimiter, is_quoted, command in self._heredocs:
            self._read_heredoc(delimiter, command, is_quoted=is_quoted)
        self._heredocs.clear()

    def _read_heredoc(self, delimiter: str, command: SimpleCommand, *, is_quoted: bool) -> None:
        """Give the lines up to the delimiter to the command; without a delimiter there is no here-document."""
        if self._last_line_start.get(delimiter, -1) < self._at:
            return
        begin = start = self._at
        end = self._line_end(start)
        while self._text[start:end].lstrip("\t") != delimiter:
            start = end + 1
            end = self._line_end(start)
        command.stdin = self._text[begin:start]
        if not is_quoted and ("$(" in command.stdin or "`" in command.stdin):
            command.expanded += command.stdin
        self._at = end

    def _line_end(self, start: int) -> int:
        end = self._text.find("\n", start)
        return len(self._text) if end < 0 else end

    @cached_property
    def _last_line_start(self) -> dict[str, int]:
        """Where each line stands for the last time, so that a delimiter that never comes is not searched for."""
        starts: dict[str, int] = {}
        start = 0
        for line in self._text.split("\n"):
            starts[line.lstrip("\t")] = start
            start += len(line) + 1
        return starts

    # levels

    def _on_substitution(self, match: re.Match[str]) -> None:
        if match[0] == "`" and self._level.closer == "`":
            self._close("`")
        else:
            self._enter("`" if match[0] == "`" else ")", self._level.function, is_substitution=True)

    def _open_group(self, closer: str) -> None:
        self._end_command("")
        function, self._level.defines = self._level.defines or self._level.function, None
        self._enter(closer, function, is_substitution=False)

    def _enter(self, closer: str, function: str | None, *, is_substitution: bool) -> None:
        self._opened += 1
        self._outer.append(self._level)
        self._level = _Level(closer, SimpleCommand(self._cwd), function, is_substitution)

    def _close(self, closer: str) -> None:
        self._end_command("")
        if self._outer and self._level.closer == closer:
            self._leave()

    def _leave(self) -> None:
        inner, self._level = self._level, self._outer.pop()
        if inner.closer == "}":
            self._level.command.cwd = self._cwd
        else:
            self._cwd = self._level.command.cwd  # a subshell's cd ends with it
        if inner.is_substitution:
            output = output_of(inner.last)
            self._add_expanded(_UNKNOWN_OUTPUT if output is None else output.rstrip("\n"))


def output_of(command: SimpleCommand | None) -> str | None:
    """Tell what a command prints, where its words already say it; None where only running it would tell."""
    for _ in range(_MAX_PIPED):
        if command is None or not command.words:
            return None
        program, words = name_of(command.words[0]), command.words[1:]
        if program not in {"cat", "tee"}:
            return _printed_by(program, words)
        if program == "cat" and any(word.strip("-") for word in words):  # a file
            return None
        if command.stdin is not None:
            return command.stdin
        command = command.piped_from
    return None


def _printed_by(program: str, words: Sequence[str]) -> str | None:
    if program in {"echo", "printf"}:
        return " ".join(dropwhile(lambda word: word.startswith("-"), words)).replace("\\n", "\n")
    if program in {"which", "command"}:
        return "".join(words[-1:])
    if program == "ls":
        return "\n".join(word for word in words if not word.startswith("-")) if "-d" in words else None
    return _found(words) if program == "find" else None


_WITHOUT_CHOICE = frozenset(["-print", "-print0", "-xdev", "-mount", "-depth", "-L", "-H", "-P"])
_TYPES = frozenset(["f", "d", "l"])


def _found(words: Sequence[str]) -> str | None:
    """Give the places of which a ``find`` without a filter lists everything."""
    rest = [word for word in words if word not in _WITHOUT_CHOICE]
    places = list(takewhile(lambda word: not word.startswith(("-", "!", "(")), rest))
    tests = rest[len(places) :]
    return None if tests and (tests[0] != "-type" or not _TYPES.issuperset(tests[1:])) else "\n".join(places or ["."])


def input_of(command: SimpleCommand) -> str | None:
    """Tell what a command reads, as far as the line says it."""
    return output_of(command.piped_from) if command.stdin is None else command.stdin


def name_of(program: str) -> str:
    """Give the name of a program without its folder."""
    return program.rpartition("/")[2]
