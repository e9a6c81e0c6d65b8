"""The guard against accidents: refuses a command that would destroy its guest, before it is sent there.

Responsible for: finding every program a command will run, those behind ``sudo``, ``xargs`` or ``sh -c`` included, and
holding each of them against the rules in ``guard_rules.toml`` and in the operator's own files.

It is NOT a security boundary. Whoever runs commands in a guest owns that guest and can destroy it in ways no rule
foresees: a script in a file, an encoded line, a variable that only the guest knows. What can't be read is let pass;
``tests/unit/guard_missed.txt`` has examples. Windows guests' own shells are read as if they were Unix shells.

It deliberately knows nothing of shell syntax (``app.shell_line``), of what a rule looks like (``app.guard_rules``), of
who asks, of VMs and records, and of HTTP.
"""

import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from app.core.errors import CommandBlockedError
from app.guard_rules import Call, Rule, RuleBook, Runner
from app.shell_line import ASSIGNMENT, MAX_PATH_CHARS, Script, SimpleCommand, input_of, name_of, positional, read_script

BUILT_IN_RULES = Path(__file__).with_name("guard_rules.toml")

_LINE_OPTION = re.compile(r"-[A-Zabd-z]*c[A-Za-z]*|--command")
_LINE_WITHIN = re.compile(r"(?:-c|--command=)(.*)", re.DOTALL)
_PLACEHOLDER = re.compile(r"-I(.+)|-i(.*)|--replace(?:=(.*))?", re.DOTALL)
_MOST_STDIN_CHARS = 65_536
"""What is read of the input that a shell is given; the longest line is no longer."""
_MOST_FILLED_IN_CHARS = 65_536
"""What ``xargs -I{}`` may make of one command."""
_MOST_COMMANDS = 5000
"""Commands that are read of one line, those within it included; a script of 65,536 characters has about 2,000."""
_NESTED_CHARS = 16_384
"""What may be read of lines within a line, beyond twice its length: ``eval eval eval …`` would be read again."""

_REMEMBERED_LINES = 1024
_REMEMBERED_CHARS = 1024
"""Short lines that were let pass, for pipelines that run the same ones again and again."""


class Guard:
    """Holds commands against the rules. Immutable after its making: one serves all threads."""

    def __init__(self, rules: Sequence[Rule], runners: Mapping[str, Runner], shells: frozenset[str]) -> None:
        self._runners = runners
        self._shells = shells
        self._by_program = {name: _fitting(rules, name) for rule in rules for name in rule.programs}
        self._check_short = functools.lru_cache(_REMEMBERED_LINES)(self._check_one)
        self._of_many_programs = [rule for rule in rules if not rule.programs or "*" in "".join(rule.programs)]

    @classmethod
    def from_files(cls, paths: Sequence[Path]) -> Self:
        """Make a guard of the built-in rules and of the operator's own files.

        Raises:
            GuardRulesError: A file can't be used; the text names the file, the rule and the reason.
        """
        book = RuleBook.read((BUILT_IN_RULES, *paths))
        return cls(list(book.rules.values()), book.runners, frozenset(book.shells))

    def check_line(self, command: str, *, cwd: str = "/", stdin: str | None = None) -> None:
        """Refuse a catastrophic shell line.

        Args:
            command: The line, or several.
            cwd: Where it will run; a guest agent starts commands in ``/``, so there ``rm -r *`` removes everything.
            stdin: What it is given for its standard input; a shell in the line may run that.

        Raises:
            CommandBlockedError: A rule blocks the line, or its input.
        """
        if stdin is None and len(command) <= _REMEMBERED_CHARS:
            self._check_short(command, cwd)
        else:
            self._check_scripts([Script(command, cwd, _beginning(stdin))])

    def check_argv(self, argv: Sequence[str], *, cwd: str = "/", stdin: str | None = None) -> None:
        """Refuse a catastrophic program with its arguments, started without a shell.

        Raises:
            CommandBlockedError: A rule blocks the program, the shell line it carries (``sh -c …``), or its input.
        """
        self._check_scripts(self._check(SimpleCommand(cwd, list(argv), stdin=_beginning(stdin))))

    def _check_one(self, command: str, cwd: str) -> None:
        self._check_scripts([Script(command, cwd)])

    def _check_scripts(self, scripts: list[Script]) -> None:
        """Check scripts, and those within them, until all are read or no one sane would nest so much."""
        left = _MOST_COMMANDS
        left_chars = 2 * sum(len(script.text) for script in scripts) + _NESTED_CHARS
        left_chars += sum(len(script.stdin or "") for script in scripts)
        while scripts and left > 0:
            script = scripts.pop()
            left_chars -= len(script.text)
            commands = read_script(script, most=left) if left_chars > 0 else []
            left -= len(commands) + 1
            for command in commands:
                scripts += self._check(command)

    def _check(self, command: SimpleCommand) -> list[Script]:
        """Hold one command against the rules; give what shells will read because of it.

        Raises:
            CommandBlockedError: A rule blocks the command.
        """
        words, variables = self._unwrapped(command)
        call = Call(words, command)
        for rule in self._by_program.get(call.program) or _fitting(self._of_many_programs, call.program):
            if rule.blocks(call):
                raise CommandBlockedError(rule.name)
        scripts = _scripts_for_shell(call, variables) if call.program in self._shells else []
        if command.expanded:
            scripts.append(Script(command.expanded, command.cwd, is_document=True))
        return scripts

    def _unwrapped(self, command: SimpleCommand) -> tuple[list[str], dict[str, str]]:
        """Take off ``sudo``, ``env A=b``, ``xargs`` …; give the words that run, and the variables set for them."""
        words, at = command.words, 0
        variables: dict[str, str] = {}
        runner: Runner | None = None  # the last one
        input_options: list[str] | None = None
        while at < len(words):
            found = self._runners.get(name_of(words[at]))
            if found:
                runner, begin = found, at + 1
                at = runner.command_at(words, begin)
                input_options = words[begin:at] if runner.input else input_options
                if runner.line:
                    break
            elif ASSIGNMENT.match(words[at]):
                name, _, variables[name] = words[at].partition("=")
                at += 1
            elif runner and words[at] == "{":  # time { …; }
                at += 1
            else:
                break
        rest = words[at:] if input_options is None else _with_input(words[at:], input_options, command)
        return (_as_shell(runner, rest) if runner else rest), variables


def _as_shell(runner: Runner, words: list[str]) -> list[str]:
    """Write as ``sh …`` what a runner hands to a shell: a line, ``-c`` and a line, or its input."""
    if words and (runner.line or " " in words[0]):
        return ["sh", "-c", " ".join(words)]
    if (not words and runner.shell) or words[:1] == ["-c"]:
        return ["sh", *words]
    return words


def _with_input(words: list[str], options: Sequence[str], command: SimpleCommand) -> list[str]:
    """Add the words of its input to what ``xargs`` runs, or put them where its options say."""
    given = input_of(command) or ""
    placeholder = _placeholder_in(options)
    if placeholder is None:
        return [*(words or ["echo"]), *given.split()]
    lines = [line for line in given.splitlines() if len(line) <= MAX_PATH_CHARS]
    filled: list[str] = []
    left_chars = _MOST_FILLED_IN_CHARS
    for word in words:
        versions = [word] if placeholder not in word else []
        for line in [] if versions else lines:
            left_chars -= len(word) + word.count(placeholder) * len(line)
            if left_chars < 0:
                break
            versions.append(word.replace(placeholder, line))
        filled += versions
    return filled


def _placeholder_in(options: Sequence[str]) -> str | None:
    for at, option in enumerate(options):
        found = _PLACEHOLDER.fullmatch(option)
        if found:
            return found[1] or found[2] or found[3] or "{}"
        if option == "-I":
            return "".join(options[at + 1 : at + 2]) or "{}"
    return None


def _scripts_for_shell(call: Call, variables: Mapping[str, str]) -> list[Script]:
    """Give what a shell will read: the line after ``-c``, or else its input, and what follows ``--``."""
    cwd, given = call.command.cwd, input_of(call.command)
    for at, word in enumerate(call.words):
        if word == "--":
            # runuser -u app -- program
            return [Script(shlex.join(call.words[at + 1 :]), cwd), *_scripts_of(given, cwd, variables)]
        if _LINE_OPTION.fullmatch(word):
            rest = [word for word in call.words[at + 1 :] if not word.startswith("-")]  # bash -c -e -- 'line'
            arguments = positional(rest[2:]) | {"0": rest[1]} if rest[1:] else {}
            return [Script(line, cwd, given, {**variables, **arguments}) for line in rest[:1]]
        within = _LINE_WITHIN.fullmatch(word)
        if within:
            return [Script(within[1], cwd, given, variables)]
    return _scripts_of(given, cwd, variables)


def _scripts_of(given: str | None, cwd: str, variables: Mapping[str, str]) -> list[Script]:
    return [Script(given, cwd, variables=variables)] if given else []


def _beginning(stdin: str | None) -> str | None:
    return stdin and stdin[:_MOST_STDIN_CHARS]


def _fitting(rules: Sequence[Rule], program: str) -> list[Rule]:
    return [rule for rule in rules if rule.fits.match(program)]
