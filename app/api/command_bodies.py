"""The data of answers about a guest's commands, made from records: which fields there are when, and what they say.

How each field is spelt is the face's business. Knows no store.
"""

from typing import Any

import pybase64

from app.core.records import Command, CommandState
from app.results import Reach, Result

NO_EXIT_CODE = -1
"""What a command that ended without one of its own reads as, so that a client that waits for one gets out."""

_SIGNAL_BASE = 128
"""Source: POSIX.1-2017, Shell Command Language, 2.8.2: the exit status of a signal is above 128; shells add 128."""

_MESSAGES = {
    CommandState.QUEUED: "Command is queued",
    CommandState.RUNNING: "Command is still running",
    CommandState.FAILED: "Command was refused; it has not run",
    CommandState.EXPIRED: "Command was not delivered in time; it has not run",
    CommandState.TIMED_OUT: "Command ran into its timeout; its process group was killed",
    CommandState.CANCELLED: "Command was cancelled; its process group was killed",
    CommandState.LOST: "Command ran, and its result can't be known any more",
    CommandState.UNKNOWN: "Command may have run; the guest agent didn't reply",
}


def exec_result(reach: Reach, result: Result, encoding: str | None) -> dict[str, Any]:
    """Make the result of a command, as far as there is one."""
    command = result.command
    told: dict[str, Any] = {
        "pid": command.pid,
        "exited": command.state.ended,
        "stdout": text_of(result.stdout, encoding),
        "stderr": text_of(result.stderr, encoding),
        "available": reach.agent_available,
        "running": reach.running,
        "state": command.state,
        "message": message_of(command),
        **_end(command),
    }
    if encoding:
        told["encoding"] = encoding
    if command.out_truncated:
        told["out_truncated"] = True
    if command.err_truncated:
        told["err_truncated"] = True
    return told


def exec_killed(command: Command) -> dict[str, Any]:
    """Make the answer to a kill, of a command that may have ended or not."""
    return {
        "pid": command.pid,
        "exited": command.state.ended,
        "state": command.state,
        "message": message_of(command) if command.state.ended else "Kill requested; the command has not ended yet",
    } | _end(command)


def _end(command: Command) -> dict[str, int]:
    if not command.state.ended:
        return {}
    signal = {} if command.signal is None else {"signal": command.signal}
    return {"exit_code": exit_code(command)} | signal


def text_of(output: bytes, encoding: str | None) -> str:
    """Write output: its bytes in base64 where that was asked for, else as the UTF-8 that it mostly is."""
    return pybase64.b64encode_as_string(output) if encoding == "base64" else output.decode(errors="replace")


def exit_code(command: Command) -> int:
    """Tell the code of a command that ended by itself; a kill's is no code of the command."""
    if command.state is not CommandState.EXITED:
        return NO_EXIT_CODE
    if command.signal is not None:
        return _SIGNAL_BASE + command.signal
    return NO_EXIT_CODE if command.exit_code is None else command.exit_code


def message_of(command: Command) -> str:
    """Tell for people how a command is."""
    if command.message:
        return command.message
    if command.state is not CommandState.EXITED:
        return _MESSAGES[command.state]
    if command.signal is not None:
        return f"Command was killed by signal {command.signal}"
    return f"Command exited with code {command.exit_code}"
