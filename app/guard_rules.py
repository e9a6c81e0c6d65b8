"""The guard's rules: what a rule can ask of a program that is about to run, and the files that rules are written in.

Responsible for: reading and checking ``guard_rules.toml`` and the operator's own files, and making conditions of them.
It deliberately knows no shell syntax: it is given programs with their words.
"""

import posixpath
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from app.core.errors import SettingsError
from app.shell_line import MAX_PATH_CHARS, SimpleCommand, input_of, name_of


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


class Call:
    """A program that is about to run, as rules look at it.

    Attributes:
        program: Its name, without its folder.
        words: The words after it.
        command: What it was read from.
    """

    def __init__(self, words: Sequence[str], command: SimpleCommand) -> None:
        self.program = name_of(words[0]) if words else ""
        self.words = words[1:]
        self.command = command
        self._paths: dict[str, list[str]] = {}

    @cached_property
    def line(self) -> str:
        """The program and its words, joined by single blanks."""
        return " ".join((self.program, *self.words))

    @cached_property
    def input(self) -> str:
        """What it is given for its standard input, as far as the line tells."""
        return input_of(self.command) or ""

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
_PLACE = re.compile(r"(?P<operand>[a-z]+=|)(?P<path>/.*)", re.DOTALL)


def _brace_expanded(word: str) -> list[str]:
    """Expand the first braces of ``/{etc,usr}/*``."""
    braces = _BRACES.search(word, 0, MAX_PATH_CHARS)
    if braces is None:
        return [word]
    return [word[: braces.start()] + choice + word[braces.end() :] for choice in braces[1].split(",")]


def _path(word: str, cwd: str) -> str:
    """Give the absolute path that a word means, "everything in it" standing for the folder; "" where unknown."""
    path = posixpath.join(cwd, word)
    if "$" in path or len(path) > MAX_PATH_CHARS:
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
        self._beginnings = {entry[:at] for entry in entries for at in range(len(entry) + 1)}
        self._ends = {entry[at:] for entry in entries for at in range(len(entry) + 1)}

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
        if before not in self._beginnings or after not in self._ends:
            return False
        return any(entry.startswith(before) and entry.endswith(after) for entry in self._entries)


_Condition = Callable[[Call], bool]
_Words = Callable[[Call], Sequence[str]]


def _any_place(words_of: _Words) -> Callable[[Sequence[str]], _Condition]:
    """Make the kind of condition that holds when one of the call's words is one of the places."""

    def make(entries: Sequence[str]) -> _Condition:
        places = _places(entries)

        def holds(call: Call) -> bool:
            words = words_of(call)
            return bool(words) and any(place.hold(call, words) for place in places)

        return holds

    return make


def _places(entries: Sequence[str]) -> list[_Places]:
    """Sort places by their operand.

    Raises:
        ValueError: A place is no absolute path.
    """
    by_operand: dict[str, list[str]] = {}
    for entry in entries:
        place = _PLACE.fullmatch(entry)
        if place is None:
            raise ValueError(f"{entry!r} is no place: it should begin with / or be an @list")
        by_operand.setdefault(place["operand"], []).append(place["path"])
    return [_Places(operand, paths) for operand, paths in by_operand.items()]


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


def _script(expression: str) -> _Condition:
    compiled = re.compile(expression)
    return lambda call: compiled.search(call.line) is not None or compiled.search(call.input) is not None


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
    "runs_in": (_TEXTS, _any_place(lambda call: [call.command.cwd])),
    "pattern": (_TEXT, _pattern),
    "script": (_TEXT, _script),
    "calls_itself": (_TRUE, _calls_itself),
}
"""Each condition a rule may have: what its value has to be, and what makes it of that value."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: it blocks a call when its program fits and all of its conditions hold.

    Attributes:
        name: What it is disabled by, and what logs show.
        programs: The programs it is about, as the file says it; none means all.
        fits: The same as a pattern.
        conditions: What has to hold for a call of such a program.
    """

    name: str
    programs: Sequence[str]
    fits: re.Pattern[str]
    conditions: Sequence[_Condition]

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
        shell: Without a command it runs a shell.
    """

    values: Sequence[str] = ()
    skip: int = 0
    line: bool = False
    input: bool = False
    shell: bool = False

    def command_at(self, words: Sequence[str], at: int) -> int:
        """Find where the command begins in the words that follow the runner."""
        while at < len(words) and words[at].startswith("-"):
            if words[at] == "--":
                at += 1
                break
            at += 2 if self._takes_the_next(words[at]) else 1
        return at + self.skip

    def _takes_the_next(self, option: str) -> bool:
        """Tell whether an option's value is the next word: ``-u root`` and ``-Eu root``, not ``-uroot``."""
        if option.startswith("--") or option in self.values:
            return option in self.values
        first = next((at for at, letter in enumerate(option) if f"-{letter}" in self.values), None)
        return first == len(option) - 1


_SECTIONS = {"disable": _TEXTS, "lists": _TABLE, "rule": _TABLES, "shells": _TABLE, "runners": _TABLE}
_RULE_KEYS = {"name": _TEXT, "why": _TEXT, "programs": _TEXTS} | {key: kind for key, (kind, _) in _CONDITIONS.items()}
_RUNNER_KEYS = {"values": _TEXTS, "skip": _NUMBER, "line": _TRUE, "input": _TRUE, "shell": _TRUE}
_LIST_NAME = re.compile(r"([a-z]+=)?@(\w+)")


class RuleBook:
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
            self._lists.setdefault(name, []).extend(_checked({name: entries}, {name: _TEXTS})[name])

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
            self._reading = f"rule {table.get('name', number)!r}"
            self._add_rule(table)

    def _add_rule(self, table: Any) -> None:
        rest = dict(_checked(table, _RULE_KEYS))
        name, why = rest.pop("name", ""), rest.pop("why", "")
        if not name or not why:
            raise ValueError("it needs a name and a why")
        if name in self.rules:
            raise ValueError("another rule has that name")
        if not rest:
            raise ValueError("it has no condition, and would block everything")
        programs = rest.pop("programs", ())
        conditions = [_CONDITIONS[key][1](self._with_lists(value)) for key, value in rest.items()]
        self.rules[name] = Rule(name, programs, re.compile("|".join(map(translate, programs))), conditions)

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
