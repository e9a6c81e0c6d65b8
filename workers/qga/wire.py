"""The guest agent's protocol as bytes and shapes: no sockets, no time.

Source: QEMU Guest Agent Protocol Reference (qemu-ga-ref), guest-sync-delimited, guest-exec, guest-exec-status,
guest-info; what is marked *measured* was seen on qemu-ga 7.2.
"""

import base64
import binascii
import contextlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.errors import AgentProtocolError

SENTINEL = b"\xff"
"""Never part of UTF-8: sent, it resets the agent's parser; received, it precedes a reply to guest-sync-delimited."""

STREAM_LIMIT_BYTES = 16 * 1024 * 1024
"""qemu-ga keeps this much of each output stream, reads on and throws the rest away."""

SMALL_REPLY_BYTES = 256 * 1024
"""Replies up to here are taken at any time; longer ones only where output was asked for."""

REPLY_LIMIT_BYTES = 64 * 1024 * 1024
"""The longest reply line: two full streams are about 45 MiB of base64."""

JUNK_LIMIT_BYTES = 96 * 1024 * 1024
"""How much may come before the reply to a sync: one reply to an earlier client, and a good deal more."""

_LONG_REPLY_VALUES = 64
"""How many values a long reply may hold. Without this, 64 MiB of ``[],`` would become gigabytes of lists."""

_SYNC_LINE_LIMIT_BYTES = 4096

_STREAM_LIMIT_CHARS = (STREAM_LIMIT_BYTES // 3 + 2) * 4
"""So much base64 is decoded of a stream, a little more than a full one has."""


def make_sync_id() -> int:
    """Make an id nobody else can have sent: 62 random bits (the agent takes int64, *measured*)."""
    return secrets.randbits(62)


def dump_sync(sync_id: int) -> bytes:
    """Write the bytes that open a session: parser reset, then guest-sync-delimited."""
    request = {"execute": "guest-sync-delimited", "arguments": {"id": sync_id}}
    return SENTINEL + json.dumps(request).encode() + b"\n"


class SyncScanner:
    """Finds the reply to our guest-sync-delimited in whatever the channel still holds.

    The reply belongs to the channel, not to the client: megabytes meant for an earlier client may come first, and a
    leading 0xFF always yields an error line without id before the sentinel (*measured*). All of that is discarded.

    Attributes:
        discarded_bytes: How many bytes were not the reply.
    """

    def __init__(self, sync_id: int) -> None:
        self._sync_id = sync_id
        self._line: bytearray | None = None
        self.discarded_bytes = 0

    def feed(self, data: bytes) -> bool:
        """Take bytes as they come.

        Returns:
            Whether the session is now synchronised.

        Raises:
            AgentProtocolError: Bytes follow the reply, though nothing was asked yet; or the junk has no end.
        """
        if self.discarded_bytes > JUNK_LIMIT_BYTES:
            raise AgentProtocolError("the agent sends without end")
        parts = data.splitlines(keepends=True)
        for position, part in enumerate(parts, start=1):
            if self._take(part):
                if position < len(parts):
                    raise AgentProtocolError("the agent sent more than the reply to guest-sync-delimited")
                return True
        return False

    def _take(self, part: bytes) -> bool:
        _, sentinel, after = part.rpartition(SENTINEL)
        if sentinel:
            self._line = bytearray(after)
        elif self._line is not None:
            self._line += part
        self.discarded_bytes += len(part)
        if self._line is None or len(self._line) > _SYNC_LINE_LIMIT_BYTES:
            self._line = None
            return False
        if not self._line.endswith(b"\n"):
            return False
        line, self._line = bytes(self._line), None
        if str(self._sync_id).encode() not in line or not self._is_reply(line):
            return False
        self.discarded_bytes -= len(SENTINEL) + len(line)
        return True

    def _is_reply(self, line: bytes) -> bool:
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            return False
        return isinstance(reply, dict) and reply.get("return") == self._sync_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecStatus:
    """A reply to guest-exec-status.

    Attributes:
        exited: The process is reaped *and* both its pipes are closed; a grandchild can hold them open.
        exit_code: Set if it exited by itself.
        signal: Set if a signal ended it (Windows: an NTSTATUS).
        stdout: Head of its standard output.
        stderr: Head of its standard error.
        out_truncated: Standard output was longer.
        err_truncated: Standard error was longer.
        flags_fixed: Whether the agent is known to say "not cut" only where nothing was cut.
    """

    exited: bool
    exit_code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    out_truncated: bool = False
    err_truncated: bool = False
    flags_fixed: bool = False


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """A reply to guest-info.

    Attributes:
        version: qemu-ga's version.
        enabled: The RPCs that the agent knows and does not block.
    """

    version: str
    enabled: frozenset[str]


def load_reply(line: bytes) -> dict[str, Any] | None:
    """Read one line of the agent; a long one only where it can't cost much more than its length.

    Returns:
        The reply; ``None`` if it isn't one. No exception, which would keep the line for as long as somebody keeps it.
    """
    long = len(line) > SMALL_REPLY_BYTES
    if long and (len(line) > REPLY_LIMIT_BYTES or sum(map(line.count, (b"[", b"{", b","))) > _LONG_REPLY_VALUES):
        return None
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict) or (long and not isinstance(reply.get("return"), dict)):
        return None
    return reply


def dump_exec(
    path: str, args: Sequence[str], env: Mapping[str, str] | None, *, stdin: bytes | None = None
) -> dict[str, object]:
    """Write the arguments of guest-exec.

    Args:
        path: Program; looked up in PATH of ``env`` if there is one. No shell.
        args: Its arguments, without the program itself. Linux takes at most 128 KiB each.
        env: Replaces the whole environment; ``None`` inherits the agent's.
        stdin: Given all at once, then the end; ``None`` is ``/dev/null``.
    """
    arguments: dict[str, object] = {"path": path, "arg": list(args), "capture-output": True}
    if env is not None:
        arguments["env"] = [f"{name}={value}" for name, value in env.items()]
    if stdin is not None:
        arguments["input-data"] = base64.b64encode(stdin).decode()
    return arguments


def load_pid(reply: Any) -> int:
    """Read the reply to guest-exec.

    Raises:
        AgentProtocolError: It holds no usable pid.
    """
    pid: int = _member(reply, "pid", int)
    return pid


def load_exec_status(reply: Any, *, flags_fixed: bool = False) -> ExecStatus:
    """Read the reply to guest-exec-status, and take the output out of it.

    Args:
        reply: The reply.
        flags_fixed: Whether the agent is known to have fixed truncation flags.

    Raises:
        AgentProtocolError: It isn't what qemu-ga sends.
    """
    if not _member(reply, "exited", bool):
        return ExecStatus(exited=False, flags_fixed=flags_fixed)
    stdout, stderr = _take_data(reply, "out-data"), _take_data(reply, "err-data")
    fixed = flags_fixed or _shows_fix(reply, "out-truncated", stdout) or _shows_fix(reply, "err-truncated", stderr)
    return ExecStatus(
        exited=True,
        exit_code=_optional_int(reply, "exitcode"),
        signal=_optional_int(reply, "signal"),
        stdout=stdout,
        stderr=stderr,
        out_truncated=_is_truncated(reply, "out-truncated", stdout, fixed=fixed),
        err_truncated=_is_truncated(reply, "err-truncated", stderr, fixed=fixed),
        flags_fixed=fixed,
    )


def load_info(reply: Any) -> AgentInfo:
    """Read the reply to guest-info.

    Raises:
        AgentProtocolError: It isn't what qemu-ga sends.
    """
    commands = _member(reply, "supported_commands", list)
    enabled = {item.get("name") for item in commands if isinstance(item, dict) and item.get("enabled") is True}
    return AgentInfo(_member(reply, "version", str)[:64], frozenset(name for name in enabled if isinstance(name, str)))


def has_fixed_flags(version: str) -> bool:
    """Tell by its version whether an agent surely has the fixed truncation flags; stable releases got the fix, too."""
    numbers = version.split(".")
    return len(numbers) > 1 and all(n.isdecimal() for n in numbers[:2]) and [int(n) for n in numbers[:2]] >= [10, 2]


def _shows_fix(reply: Mapping[str, Any], flag: str, data: bytes) -> bool:
    """Tell whether a stream shows the fix: its flag stands there though it is too short to be cut."""
    return flag in reply and len(data) < STREAM_LIMIT_BYTES


def _is_truncated(reply: Mapping[str, Any], flag: str, data: bytes, *, fixed: bool) -> bool:
    """Tell whether output was cut.

    Source: QEMU commit 28c5d27d (2025): before it the flag's key appears only when output was cut, and its value is
    false. A fixed agent sends the key with the data always. So ``false`` at the limit counts as cut, unless the agent
    is known to be a fixed one.
    """
    at_limit = flag in reply and len(data) >= STREAM_LIMIT_BYTES
    return reply.get(flag) is True or len(data) > STREAM_LIMIT_BYTES or (at_limit and not fixed)


def _take_data(reply: dict[str, Any], name: str) -> bytes:
    """Take output out of a reply, which is not to hold its megabytes any longer than it must.

    Raises:
        AgentProtocolError: It isn't base64.
    """
    text = reply.pop(name, "")
    with contextlib.suppress(binascii.Error, TypeError, ValueError):
        return base64.b64decode(text[:_STREAM_LIMIT_CHARS], validate=True)
    del text
    raise AgentProtocolError(f"the agent's {name} is not base64")


def _optional_int(reply: Mapping[str, Any], name: str) -> int | None:
    return _member(reply, name, int) if name in reply else None


def _member(reply: Any, name: str, kind: type) -> Any:
    value = reply.get(name) if isinstance(reply, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise AgentProtocolError(f"the agent's reply has no usable {name}")
    return value
