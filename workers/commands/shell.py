"""How a customer's shell line, or program with arguments, becomes the program and arguments of guest-exec.

On Linux it runs in a session of its own, with the same pid (``setsid`` execs, because the agent's children lead
no process group), so that a kill reaches everything the line starts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ENVIRONMENT: Mapping[str, str] = {
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
"""A child of the agent inherits the agent's own environment, which has no HOME and hardly a PATH: this replaces it."""

_ARGUMENT_LIMIT_BYTES = 120_000
"""Linux takes 128 KiB per argument (Source: execve(2), MAX_ARG_STRLEN)."""


@dataclass(frozen=True, slots=True)
class Program:
    """What guest-exec is to run.

    Attributes:
        path: The program.
        args: Its arguments.
        env: Its environment; ``None`` inherits the agent's.
    """

    path: str
    args: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] | None = field(repr=False)


CANNOT_ENTER_CWD = 125
"""Exit code where the directory to start in can't be entered; the shell's own words are on standard error."""


def linux_program(
    line: str, *, own_session: bool, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> Program:
    """Run a line by ``/bin/sh``, in a session of its own unless the guest has no ``setsid``.

    Args:
        line: The shell line.
        own_session: Whether to run it through ``setsid``.
        env: Variables on top of ``ENVIRONMENT``.
        cwd: Directory to start in; ``None`` is the agent's own.
    """
    return linux_argv(("/bin/sh", "-c", *_shell_words(line)), own_session=own_session, env=env, cwd=cwd)


def linux_argv(
    argv: Sequence[str], *, own_session: bool, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> Program:
    """Run a program with its arguments, which no shell interprets; else as ``linux_program`` does.

    Where there is a directory to start in, a shell goes there and gives way to the program: guest-exec can't.

    Args:
        argv: The program, looked up in PATH, and its arguments.
        own_session: Whether to run it through ``setsid``.
        env: Variables on top of ``ENVIRONMENT``.
        cwd: Directory to start in; ``None`` is the agent's own.
    """
    words = tuple(argv)
    if cwd is not None:
        words = ("/bin/sh", "-c", f'cd -- "$0" || exit {CANNOT_ENTER_CWD}; exec "$@"', cwd, *words)
    environment = {**ENVIRONMENT, **(env or {})}
    if own_session:
        return Program("setsid", words, environment)
    return Program(words[0], words[1:], environment)


def windows_program(line: str) -> Program:
    """Run a line by ``cmd.exe``, which parses it itself."""
    return windows_argv(("cmd.exe", "/c", line))


def windows_argv(argv: Sequence[str]) -> Program:
    """Run a program with its arguments as they are."""
    return Program(argv[0], tuple(argv[1:]), None)


def _shell_words(line: str) -> tuple[str, ...]:
    """Give a line to ``sh -c``; one too long for a single argument comes in parts that the shell joins again."""
    parts = tuple(_split(line))
    if len(parts) == 1:
        return parts
    joined = "".join(f"${{{number}}}" for number in range(len(parts)))
    return (f'eval "{joined}"', *parts)


def _split(line: str) -> list[str]:
    parts, start, size = [], 0, 0
    for position, char in enumerate(line):
        width = len(char.encode())
        if size + width > _ARGUMENT_LIMIT_BYTES:
            parts.append(line[start:position])
            start, size = position, 0
        size += width
    return [*parts, line[start:]]
