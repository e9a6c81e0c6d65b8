"""The guard against accidents: refuses a command that would destroy its guest, before it is sent there.

Responsible for: finding every program a command will run, those behind ``sudo``, ``xargs`` or ``sh -c`` included, and
holding each of them against the rules in ``guard_rules.toml`` and in the operator's own files.

It is NOT a security boundary. Whoever runs commands in a guest owns that guest and can destroy it in ways no rule
foresees: a script in a file, an encoded line, a variable that only the guest knows. What can't be read is let pass.

It deliberately knows nothing of shell syntax (``app.shell_line``), of what a rule looks like (``app.guard_rules``), of
who asks, of VMs and records, and of HTTP.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from app.core.errors import CommandBlockedError
from app.guard_rules import Call, Rule, RuleBook, Runner
from app.shell_line import ASSIGNMENT, SimpleCommand, name_of, output_of, read_line

BUILT_IN_RULES = Path(__file__).with_name("guard_rules.toml")

_LINE_OPTION = re.compile(r"-[A-Za-z]*c|--command")
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

    def check_line(self, command: str, *, cwd: str = "/") -> None:
        """Refuse a catastrophic shell line.

        Args:
            command: The line, or several.
            cwd: Where it will run; a guest agent starts commands in ``/``, so there ``rm -r *`` removes everything.

        Raises:
            CommandBlockedError: A rule blocks the line.
        """
        check = self._check_short if len(command) <= _REMEMBERED_CHARS else self._check_one
        check(command, cwd)

    def check_argv(self, argv: Sequence[str], *, cwd: str = "/") -> None:
        """Refuse a catastrophic program with its arguments, started without a shell.

        Raises:
            CommandBlockedError: A rule blocks the program, or the shell line it carries (``sh -c …``).
        """
        self._check_lines(self._check(SimpleCommand(cwd, list(argv))))

    def _check_one(self, command: str, cwd: str) -> None:
        self._check_lines([(command, cwd)])

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
            runner = self._runners.get(name_of(words[at]))
            if runner:
                at = runner.command_at(words, at + 1)
                takes_input = takes_input or runner.input
                if runner.line:
                    return [], " ".join(words[at:])
            elif ASSIGNMENT.match(words[at]):
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
    return [rule for rule in rules if rule.fits.match(program)]


def _input_of(command: SimpleCommand) -> str | None:
    return output_of(command.piped_from) if command.stdin is None else command.stdin
