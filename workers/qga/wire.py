"""The guest agent's protocol as bytes and shapes: no sockets, no time.

Source: QEMU Guest Agent Protocol Reference (qemu-ga-ref), guest-sync-delimited, guest-exec, guest-exec-status,
guest-info; what is marked *measured* was seen on qemu-ga 7.2.
"""

import binascii
import contextlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pybase64

from app.core.errors import AgentProtocolError, AgentRefusedError

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

_SYNC_LINE_LIMIT_BYTES = 4096

_INT64 = range(-(2**63), 2**63)
"""Source: QAPI, ``int``. Numbers beyond it could neither be stored nor told again."""

_OPENING = re.compile(rb'\s*:\s*"')

_compact = json.JSONEncoder(separators=(",", ":")).encode

_STREAM_LIMIT_CHARS = (STREAM_LIMIT_BYTES // 3 + 2) * 4
"""So much base64 is decoded of a stream, a little more than a full one has."""


def make_sync_id() -> int:
    """Make an id nobody else can have sent: 62 random bits (the agent takes int64, *measured*)."""
    return secrets.randbits(62)


def dump_sync(sync_id: int) -> bytes:
    """Write the bytes that open a session: parser reset, then guest-sync-delimited."""
    request = {"execute": "guest-sync-delimited", "arguments": {"id": sync_id}}
    return SENTINEL + json.dumps(request).encode() + b"\n"


def dump_request(rpc: str, arguments: Mapping[str, object] | None, request_id: str) -> bytes:
    """Write a request; the agent sends its id back with the reply.

    Everything is ASCII: what isn't is escaped, half a surrogate pair too, which an agent refuses.
    """
    request: dict[str, object] = {"execute": rpc, "id": request_id}
    if arguments is not None:
        request["arguments"] = arguments
    return _compact(request).encode()


class SyncScanner:
    """Finds the reply to our guest-sync-delimited in whatever the channel still holds.

    The reply belongs to the channel, not to the client: megabytes meant for an earlier client may come first, and a
    leading 0xFF always yields an error line without id before the sentinel (*measured*). All of that is discarded.

    Attributes:
        discarded_bytes: How many bytes were not the reply.
    """

    def __init__(self, sync_id: int) -> None:
        self._sync_id = sync_id
        self._digits = str(sync_id).encode()
        self._tail = b""
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
        self.discarded_bytes += len(data)
        window = self._tail + data
        # Only lines that hold the number are looked at: junk of millions of lines must not cost millions of steps.
        digits = window.find(self._digits)
        while digits >= 0 and (end := window.find(b"\n", digits) + 1):
            line = window[window.rfind(b"\n", 0, digits) + 1 : end]
            _, sentinel, after = line.rpartition(SENTINEL)
            if sentinel and self._is_reply(after):
                self.discarded_bytes -= len(sentinel + after)
                if end < len(window):
                    raise AgentProtocolError("the agent sent more than the reply to guest-sync-delimited")
                return True
            digits = window.find(self._digits, end)
        self._tail = window[-_SYNC_LINE_LIMIT_BYTES:]
        return False

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
    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)
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
    """Read one line of the agent. Of a long one the output is not parsed, and nothing else of it may be long.

    Returns:
        The reply, long output as bytes; ``None`` if it isn't one. No exception, which would keep the line as long as
        somebody keeps it.
    """
    outputs = {}
    if len(line) > SMALL_REPLY_BYTES:
        for name in ("out-data", "err-data"):
            line, outputs[name] = _cut_out(line, name)
        if len(line) > SMALL_REPLY_BYTES:
            return None
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict):
        return None
    result = reply.get("return")
    if isinstance(result, dict):
        result.update((name, data) for name, data in outputs.items() if data)
    return reply


def load_return(rpc: str, reply: Mapping[str, Any]) -> Any:
    """Read what an RPC returned.

    Source: QMP protocol specification, responses; the agent's are the same.

    Raises:
        AgentRefusedError: The agent answered with an error.
        AgentProtocolError: It is neither an error nor a result. The text doesn't hold what was sent.
    """
    if "error" in reply:
        error = reply["error"]
        told = (error.get("class"), error.get("desc")) if isinstance(error, dict) else ()
        match told:
            case (str(kind), str(text)):
                raise AgentRefusedError(rpc, kind[:64], text[:1000])
    elif "return" in reply:
        return reply["return"]
    raise AgentProtocolError(f"{rpc}: the agent's reply is malformed")


def _cut_out(line: bytes, name: str) -> tuple[bytes, bytes]:
    """Cut the value of a member out of a line, where it is a string; base64 holds no quotation mark."""
    key = f'"{name}"'.encode()
    opening = _OPENING.match(line, line.find(key) + len(key)) if key in line else None
    end = line.find(b'"', opening.end()) if opening else -1
    if opening is None or end < 0:
        return line, b""
    return line[: opening.end()] + line[end:], line[opening.end() : end]


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
        arguments["input-data"] = pybase64.b64encode_as_string(stdin)
    return arguments


def load_pid(reply: Any) -> int:
    """Read the reply to guest-exec.

    Raises:
        AgentProtocolError: It holds no usable pid.
    """
    pid: int = _member(reply, "pid", int)
    if pid < 1:
        raise AgentProtocolError("the agent's reply has no usable pid")
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
    names = (item.get("name") for item in commands if isinstance(item, dict) and item.get("enabled") is True)
    return AgentInfo(_member(reply, "version", str)[:64], frozenset(name for name in names if isinstance(name, str)))


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
        return pybase64.b64decode(text[:_STREAM_LIMIT_CHARS], validate=True)
    del text
    raise AgentProtocolError(f"the agent's {name} is not base64")


def _optional_int(reply: Mapping[str, Any], name: str) -> int | None:
    return _member(reply, name, int) if name in reply else None


def _member(reply: Any, name: str, kind: type) -> Any:
    value = reply.get(name) if isinstance(reply, dict) else None
    if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value not in _INT64)):
        raise AgentProtocolError(f"the agent's reply has no usable {name}")
    return value
