"""How a customer's shell line becomes the program and arguments of guest-exec.

On Linux the shell runs in a session of its own, with the same pid (``setsid`` execs, because the agent's children lead
no process group), so that a kill reaches everything the line starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

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
    args: tuple[str, ...]
    env: Mapping[str, str] | None


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
    shell: tuple[str, ...] = ("/bin/sh", "-c", *_shell_words(line))
    if cwd is not None:
        shell = ("/bin/sh", "-c", f'cd -- "$0" || exit {CANNOT_ENTER_CWD}; exec "$@"', cwd, *shell)
    environment = {**ENVIRONMENT, **(env or {})}
    if own_session:
        return Program("setsid", shell, environment)
    return Program(shell[0], shell[1:], environment)


def windows_program(line: str) -> Program:
    """Run a line by ``cmd.exe``, which parses it itself."""
    return Program("cmd.exe", ("/c", line), None)


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
