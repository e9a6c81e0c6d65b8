"""The guard against accidents: refuses a command that would destroy its guest, before it is sent there.

Responsible for: reading a shell line the way a shell does, as far as that is cheap, down to single programs with their
arguments; and holding each of them against the rules in ``guard_rules.toml`` and in the operator's own files.

It is NOT a security boundary. Whoever runs commands in a guest owns that guest and can destroy it in ways no rule
foresees: a script in a file, an encoded line, a variable that only the guest knows. What can't be read is let pass.

It deliberately knows nothing of who asks, of VMs and records, and of HTTP. Three parts, top to bottom: ``read_line`` (a
shell line to simple commands; knows no rules), the rules and their files, and ``Guard``, which brings both together.
"""

import posixpath
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase, translate
from functools import cached_property
from itertools import dropwhile
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from app.core.errors import CommandBlockedError, SettingsError

BUILT_IN_RULES = Path(__file__).with_name("guard_rules.toml")

_MAX_PATH_CHARS = 4096
"""Linux, limits.h: PATH_MAX. Nothing longer is the name of a file."""


class GuardRulesError(SettingsError):
    """A file of guard rules can't be used.

    Attributes:
        file: The file.
        where: The rule, list or other part of it that is wrong.
        reason: What is wrong with it.
    """

    def __init__(self, file: Path, where: str, reason: str) -> None:
        self.file = file
        self.where = where
        self.reason = reason
        super().__init__(f"{file}: {where}: {reason}")


# --- a shell line, read -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class SimpleCommand:
    """One program with its words, as it would be started; what only the guest knows stays in the text as ``$NAME``.

    Attributes:
        cwd: The working directory at that point of the line.
        words: The program and its arguments, quotes removed and variables put in.
        overwrites: Where ``>`` leads its output.
        appends: Where ``>>`` leads its output.
        stdin: The text of its here-document or here-string.
        piped_from: The command whose output it reads.
        calls_itself: It stands in the body of a function of its own name, in a pipe or in the background.
    """

    cwd: str
    words: list[str] = field(default_factory=list)
    overwrites: list[str] = field(default_factory=list)
    appends: list[str] = field(default_factory=list)
    stdin: str | None = None
    piped_from: "SimpleCommand | None" = None
    calls_itself: bool = False


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
_BLANKS = re.compile(r"[ \t\n]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_ANSI_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NESTED_NAME = re.compile(r"\$([A-Za-z_]\w*)")
_PRECEDES_A_COMMAND = frozenset(["!", "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "esac"])
_DECLARES = frozenset(["export", "local", "declare", "readonly", "typeset"])
_PIPES = frozenset(["|", "|&"])
_DETACHES = frozenset(["|", "|&", "&"])
_UNKNOWN_OUTPUT = "$()"
_MAX_PIPED = 4


def read_line(text: str, cwd: str, *, most: int) -> list[SimpleCommand]:
    """Split a shell line into its simple commands, those within ``$( )``, groups and function bodies included.

    One pass with a stack of its own: time grows with the length of the text, and no nesting exhausts Python's stack.
    Never fails: what a shell would call a syntax error is read as far as it goes.

    Source: POSIX.1-2017, Shell Command Language, 2.2 Quoting to 2.9 Shell Commands.

    Args:
        text: The line, or several.
        cwd: Where it will run.
        most: How many commands, groups and substitutions are read; the rest of the line is left.
    """
    return _Reader(text, cwd).read(most)


class _Reader:
    """Reads one line. Its parts: words, commands, redirections, levels."""

    def __init__(self, text: str, cwd: str) -> None:
        self._text = text
        self._at = 0
        self._cwd = cwd
        self._variables = {"HOME": "/root", "IFS": " "}
        self._expansion_left_chars = len(text)  # b=$a$a; c=$b$b; … doubles each time: past this, variables stay unread
        self._commands: list[SimpleCommand] = []
        self._heredocs: list[tuple[str, SimpleCommand]] = []
        self._level = _Level("", SimpleCommand(cwd))
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
        while self._at < len(self._text) and self._opened + len(self._commands) < most:
            pattern = _DOUBLE_QUOTED if self._level.quoted else _UNQUOTED
            match = cast("re.Match[str]", pattern.match(self._text, self._at))  # <other> takes any character
            self._at = match.end()
            self._on[match.lastgroup or "other"](match)
        while self._outer:
            self._close(self._level.closer)
        self._end_command("")
        return self._commands

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
            self._cwd = posixpath.join(self._cwd, target)[:_MAX_PATH_CHARS]
        elif program == "for" and words[2:3] == ["in"]:
            self._variables[words[1]] = words[3] if len(words[3:]) == 1 else "{" + ",".join(words[3:]) + "}"
        elif program in _DECLARES or all(map(_ASSIGNMENT.match, words)):
            for name, _, value in (word.partition("=") for word in words if _ASSIGNMENT.match(word)):
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

    def _redirect_to(self, word: str) -> None:
        command, redirect = self._level.command, self._level.redirect
        self._level.redirect = ""
        if redirect in {"<<", "<<-"}:
            self._heredocs.append((word, command))
        elif redirect.startswith("<<<"):
            command.stdin = word
        elif redirect.endswith(">>"):
            command.appends.append(word)
        elif ">" in redirect:
            command.overwrites.append(word)

    def _on_newline(self, _: re.Match[str]) -> None:
        self._end_command("\n")
        for delimiter, command in self._heredocs:
            self._read_heredoc(delimiter, command)
        self._heredocs.clear()

    def _read_heredoc(self, delimiter: str, command: SimpleCommand) -> None:
        """Give the lines up to the delimiter to the command; without a delimiter there is no here-document."""
        if self._last_line_start.get(delimiter, -1) < self._at:
            return
        begin = start = self._at
        end = self._line_end(start)
        while self._text[start:end].lstrip("\t") != delimiter:
            start = end + 1
            end = self._line_end(start)
        command.stdin = self._text[begin:start]
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
        program = _name_of(command.words[0])
        if program in {"echo", "printf"}:
            printed = dropwhile(lambda word: word.startswith("-"), command.words[1:])
            return " ".join(printed).replace("\\n", "\n")
        if program in {"which", "command"}:
            return command.words[-1]
        if program not in {"cat", "tee"}:
            return None
        if command.stdin is not None:
            return command.stdin
        command = command.piped_from
    return None


def _name_of(program: str) -> str:
    return program.rpartition("/")[2]


# --- rules ------------------------------------------------------------------------------------------------------------


class Call:
    """A program that is about to run, as rules look at it.

    Attributes:
        program: Its name, without its folder.
        words: The words after it.
        command: What it was read from.
    """

    def __init__(self, words: Sequence[str], command: SimpleCommand) -> None:
        self.program = _name_of(words[0]) if words else ""
        self.words = words[1:]
        self.command = command
        self._paths: dict[str, list[str]] = {}

    @cached_property
    def line(self) -> str:
        """The program and its words, joined by single blanks."""
        return " ".join((self.program, *self.words))

    @cached_property
    def options(self) -> list[str]:
        """The words that begin with a dash, up to ``--``."""
        return [word for word in self.words[: self._options_end] if word.startswith("-") and word != "-"]

    @cached_property
    def arguments(self) -> list[str]:
        """The words that are no options."""
        end = self._options_end
        return [word for word in self.words[:end] if not word.startswith("-")] + list(self.words[end + 1 :])

    @cached_property
    def _options_end(self) -> int:
        return self.words.index("--") if "--" in self.words else len(self.words)

    def paths(self, word: str) -> list[str]:
        """Give the absolute paths that one word means."""
        if word not in self._paths:
            self._paths[word] = [_path(name, self.command.cwd) for name in _brace_expanded(word)]
        return self._paths[word]


_BRACES = re.compile(r"\{([^{},]*,[^{}]*)\}")
_WILDCARDS = re.compile(r"[*?]|\[[^\]]*\]")


def _brace_expanded(word: str) -> list[str]:
    """Expand the first braces of ``/{etc,usr}/*``."""
    braces = _BRACES.search(word, 0, _MAX_PATH_CHARS)
    if braces is None:
        return [word]
    return [word[: braces.start()] + choice + word[braces.end() :] for choice in braces[1].split(",")]


def _path(word: str, cwd: str) -> str:
    """Give the absolute path that a word means, "everything in it" standing for the folder; "" where unknown."""
    path = posixpath.join(cwd, word)
    if "$" in path or len(path) > _MAX_PATH_CHARS:
        return ""
    path = "/" + posixpath.normpath(path).lstrip("/")
    parent = path.rstrip("/*?.")
    return parent or "/" if path[len(parent) :][:1] in {"", "/"} else path


class _Places:
    """Paths and path patterns that a rule names, all as the value of one operand such as ``of=``, or of none."""

    def __init__(self, operand: str, entries: Sequence[str]) -> None:
        self._operand = operand
        self._entries = entries
        self._pattern = re.compile("|".join(map(translate, entries)))

    def hold(self, call: Call, words: Sequence[str]) -> bool:
        for word in words:
            if word.startswith(self._operand) and any(map(self._hold_path, call.paths(word[len(self._operand) :]))):
                return True
        return False

    def _hold_path(self, path: str) -> bool:
        if self._pattern.match(path):
            return True
        wildcard = _WILDCARDS.search(path)
        if wildcard is None:
            return False
        before, after = path[: wildcard.start()], _WILDCARDS.split(path)[-1]
        return any(entry.startswith(before) and entry.endswith(after) for entry in self._entries)


_Condition = Callable[[Call], bool]
_Words = Callable[[Call], Sequence[str]]


def _any_place(words_of: _Words) -> Callable[[Sequence[str]], _Condition]:
    """Make the kind of condition that holds when one of the call's words is one of the places."""

    def make(entries: Sequence[str]) -> _Condition:
        places = _places(entries)
        return lambda call: any(place.hold(call, words_of(call)) for place in places)

    return make


def _places(entries: Sequence[str]) -> list[_Places]:
    by_operand: dict[str, list[str]] = {}
    for entry in entries:
        operand, equals, place = entry.rpartition("=")
        by_operand.setdefault(operand + equals, []).append(place)
    return [_Places(operand, places) for operand, places in by_operand.items()]


def _options(wanted: Sequence[str]) -> _Condition:
    return lambda call: any(_is_given(option, word) for word in call.options for option in wanted)


def _without(unwanted: Sequence[str]) -> _Condition:
    given = _options(unwanted)
    return lambda call: not given(call)


def _is_given(option: str, word: str) -> bool:
    if option.startswith("--"):
        name = word.partition("=")[0]
        return name == option or (len(name) > len("--x") and option.startswith(name))
    if len(option) == len("-x"):
        return option[1] in word and not word.startswith("--")
    return word == option


def _pattern(expression: str) -> _Condition:
    compiled = re.compile(expression)
    return lambda call: compiled.search(call.line) is not None


def _calls_itself(_: object) -> _Condition:
    return lambda call: call.command.calls_itself


class _Kind(NamedTuple):
    """What a value in a file of rules has to be: in words, and as a test."""

    words: str
    fits: Callable[[Any], bool]


_TEXT = _Kind("a text", lambda value: isinstance(value, str) and value != "")
_TEXTS = _Kind("a list of texts", lambda value: isinstance(value, list) and value != [] and all(map(_TEXT.fits, value)))
_NUMBER = _Kind("a whole number", lambda value: type(value) is int and value >= 0)
_TRUE = _Kind("true", lambda value: value is True)
_TABLE = _Kind("a table", lambda value: isinstance(value, dict))
_TABLES = _Kind("a list of tables", lambda value: isinstance(value, list) and all(map(_TABLE.fits, value)))

_CONDITIONS: Mapping[str, tuple[_Kind, Callable[[Any], _Condition]]] = {
    "options": (_TEXTS, _options),
    "without": (_TEXTS, _without),
    "targets": (_TEXTS, _any_place(lambda call: call.arguments)),
    "targets_but_first": (_TEXTS, _any_place(lambda call: call.arguments[1:])),
    "targets_but_last": (_TEXTS, _any_place(lambda call: call.arguments[:-1])),
    "last_target": (_TEXTS, _any_place(lambda call: call.arguments[-1:])),
    "writes": (_TEXTS, _any_place(lambda call: call.command.overwrites + call.command.appends)),
    "overwrites": (_TEXTS, _any_place(lambda call: call.command.overwrites)),
    "pattern": (_TEXT, _pattern),
    "calls_itself": (_TRUE, _calls_itself),
}
"""Each condition a rule may have: what its value has to be, and what makes it of that value."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: it blocks a call when its program fits and all of its conditions hold."""

    name: str
    programs: Sequence[str]
    conditions: Sequence[_Condition]

    def fits(self, program: str) -> bool:
        """Tell whether the rule is about this program; a rule that names none is about all."""
        return not self.programs or any(fnmatchcase(program, wanted) for wanted in self.programs)

    def blocks(self, call: Call) -> bool:
        """Tell whether all conditions hold, for a call of a program that fits."""
        return all(condition(call) for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class Runner:
    """A program that runs the rest of its words.

    Attributes:
        values: Its options that take the next word as their value.
        skip: How many words stand before the command.
        line: The rest is a shell line, not a program with arguments.
        input: The words of its input are added.
    """

    values: Sequence[str] = ()
    skip: int = 0
    line: bool = False
    input: bool = False

    def command_at(self, words: Sequence[str], at: int) -> int:
        """Find where the command begins in the words that follow the runner."""
        while at < len(words) and words[at].startswith("-"):
            if words[at] == "--":
                at += 1
                break
            at += 2 if words[at] in self.values else 1
        return at + self.skip


# --- files of rules ---------------------------------------------------------------------------------------------------

_SECTIONS = {"disable": _TEXTS, "lists": _TABLE, "rule": _TABLES, "shells": _TABLE, "runners": _TABLE}
_RULE_KEYS = {"name": _TEXT, "why": _TEXT, "programs": _TEXTS} | {key: kind for key, (kind, _) in _CONDITIONS.items()}
_RUNNER_KEYS = {"values": _TEXTS, "skip": _NUMBER, "line": _TRUE, "input": _TRUE}
_LIST_NAME = re.compile(r"([a-z]+=)?@(\w+)")


class _RuleBook:
    """What the files say, put together."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}
        self.runners: dict[str, Runner] = {}
        self.shells: set[str] = set()
        self._lists: dict[str, list[str]] = {}
        self._reading = ""

    @classmethod
    def read(cls, files: Sequence[Path]) -> Self:
        """Read files of rules; all lists first, since a rule uses them as the last file leaves them.

        Raises:
            GuardRulesError: A file can't be read, or something in it is not what it should be.
        """
        book = cls()
        contents: list[dict[str, Any]] = []
        for file in files:
            with book._reported(file):
                contents.append(_checked(tomllib.loads(file.read_text(encoding="utf-8")), _SECTIONS))
        for add in (book._add_lists, book._add_programs, book._change_rules):
            for file, content in zip(files, contents, strict=True):
                with book._reported(file):
                    add(content)
        return book

    @contextmanager
    def _reported(self, file: Path) -> Iterator[None]:
        self._reading = "file"
        try:
            yield
        except (OSError, ValueError, re.error) as exc:
            raise GuardRulesError(file, self._reading, str(exc)) from exc

    def _add_lists(self, content: Mapping[str, Any]) -> None:
        for name, entries in content.get("lists", {}).items():
            self._reading = f"list {name!r}"
            self._lists.setdefault(name, []).extend(_checked({"entries": entries}, {"entries": _TEXTS})["entries"])

    def _add_programs(self, content: Mapping[str, Any]) -> None:
        self._reading = "shells"
        self.shells.update(_checked(content.get("shells", {}), {"programs": _TEXTS}).get("programs", ()))
        for name, table in content.get("runners", {}).items():
            self._reading = f"runner {name!r}"
            self.runners[name] = Runner(**_checked(table, _RUNNER_KEYS))

    def _change_rules(self, content: Mapping[str, Any]) -> None:
        for name in content.get("disable", ()):
            self._reading = f"rule {name!r}"
            if self.rules.pop(name, None) is None:
                raise ValueError("disabled, but no file before this one has a rule of that name")
        for number, table in enumerate(content.get("rule", ()), start=1):
            self._reading = f"rule {number}"
            self._add_rule(table)

    def _add_rule(self, table: Any) -> None:
        rest = dict(_checked(table, _RULE_KEYS))
        name, why = rest.pop("name", ""), rest.pop("why", "")
        self._reading = f"rule {name!r}" if name else self._reading
        if not name or not why:
            raise ValueError("it needs a name and a why")
        if name in self.rules:
            raise ValueError("another rule has that name")
        if not rest:
            raise ValueError("it has no condition, and would block everything")
        programs = rest.pop("programs", ())
        conditions = [_CONDITIONS[key][1](self._with_lists(value)) for key, value in rest.items()]
        self.rules[name] = Rule(name, programs, conditions)

    def _with_lists(self, value: Any) -> Any:
        """Put the entries of a list in the place of its @name.

        Raises:
            ValueError: There is no list of that name.
        """
        if not isinstance(value, list):
            return value
        entries: list[str] = []
        for entry in value:
            named = _LIST_NAME.fullmatch(entry)
            if named and named[2] not in self._lists:
                raise ValueError(f"there is no list {named[2]!r}")
            entries += [(named[1] or "") + place for place in self._lists[named[2]]] if named else [entry]
        return entries


def _checked(table: Any, kinds: Mapping[str, _Kind]) -> dict[str, Any]:
    """Give the table back when it has only these keys, with values of these kinds.

    Raises:
        ValueError: It has another key, a value is of another kind, or it is no table.
    """
    if not isinstance(table, dict):
        raise ValueError(f"should be a table, not {table!r}")  # noqa: TRY004 - all that is wrong with a file is one kind
    for key, value in table.items():
        if key not in kinds:
            raise ValueError(f"unknown key {key!r}; known are {', '.join(kinds)}")
        if not kinds[key].fits(value):
            raise ValueError(f"{key} should be {kinds[key].words}, not {value!r}")
    return table


# --- the guard --------------------------------------------------------------------------------------------------------

_LINE_OPTION = re.compile(r"-[A-Za-z]*c|--command")
_MOST_COMMANDS = 5000
"""Commands that are read of one line, those within it included; a script of 65,536 characters has about 2,000."""
_NESTED_CHARS = 16_384
"""What may be read of lines within a line, beyond twice its length: ``eval eval eval …`` would be read again."""


class Guard:
    """Holds commands against the rules. Immutable after its making: one serves all threads."""

    def __init__(self, rules: Sequence[Rule], runners: Mapping[str, Runner], shells: frozenset[str]) -> None:
        self._runners = runners
        self._shells = shells
        self._by_program = {name: _fitting(rules, name) for rule in rules for name in rule.programs}
        self._of_many_programs = [rule for rule in rules if not rule.programs or "*" in "".join(rule.programs)]

    @classmethod
    def from_files(cls, paths: Sequence[Path]) -> Self:
        """Make a guard of the built-in rules and of the operator's own files.

        Raises:
            GuardRulesError: A file can't be used; the text names the file, the rule and the reason.
        """
        book = _RuleBook.read((BUILT_IN_RULES, *paths))
        return cls(list(book.rules.values()), book.runners, frozenset(book.shells))

    def check_line(self, command: str, *, cwd: str = "/") -> None:
        """Refuse a catastrophic shell line.

        Args:
            command: The line, or several.
            cwd: Where it will run; a guest agent starts commands in ``/``, so there ``rm -r *`` removes everything.

        Raises:
            CommandBlockedError: A rule blocks the line.
        """
        self._check_lines([(command, cwd)])

    def check_argv(self, argv: Sequence[str], *, cwd: str = "/") -> None:
        """Refuse a catastrophic program with its arguments, started without a shell.

        Raises:
            CommandBlockedError: A rule blocks the program, or the shell line it carries (``sh -c …``).
        """
        self._check_lines(self._check(SimpleCommand(cwd, list(argv))))

    def _check_lines(self, lines: list[tuple[str, str]]) -> None:
        """Check lines, and the lines within them, until all are read or no one sane would nest so much."""
        left = _MOST_COMMANDS
        left_chars = 2 * sum(len(line) for line, _ in lines) + _NESTED_CHARS
        while lines and left > 0:
            line, cwd = lines.pop()
            left_chars -= len(line)
            commands = read_line(line, cwd, most=left) if left_chars > 0 else []
            left -= len(commands) + 1
            for command in commands:
                lines += self._check(command)

    def _check(self, command: SimpleCommand) -> list[tuple[str, str]]:
        """Hold one command against the rules; give back what it will run as a shell line.

        Raises:
            CommandBlockedError: A rule blocks the command.
        """
        words, line = self._unwrapped(command)
        call = Call(words, command)
        for rule in self._by_program.get(call.program) or _fitting(self._of_many_programs, call.program):
            if rule.blocks(call):
                raise CommandBlockedError(rule.name)
        if call.program in self._shells:
            line = self._line_for_shell(call)
        return [(line, command.cwd)] if line else []

    def _unwrapped(self, command: SimpleCommand) -> tuple[list[str], str | None]:
        """Take off ``sudo``, ``env A=b``, ``xargs`` …; give the words that run, or the shell line they are."""
        words, at, takes_input = command.words, 0, False
        while at < len(words):
            runner = self._runners.get(_name_of(words[at]))
            if runner:
                at = runner.command_at(words, at + 1)
                takes_input = takes_input or runner.input
                if runner.line:
                    return [], " ".join(words[at:])
            elif _ASSIGNMENT.match(words[at]):
                at += 1
            else:
                break
        added = (_input_of(command) or "").split() if takes_input else []
        return words[at:] + added, None

    def _line_for_shell(self, call: Call) -> str | None:
        for at, word in enumerate(call.words[:-1]):
            if _LINE_OPTION.fullmatch(word):
                return call.words[at + 1]
        return _input_of(call.command)


def _fitting(rules: Sequence[Rule], program: str) -> list[Rule]:
    return [rule for rule in rules if rule.fits(program)]


def _input_of(command: SimpleCommand) -> str | None:
    return output_of(command.piped_from) if command.stdin is None else command.stdin
