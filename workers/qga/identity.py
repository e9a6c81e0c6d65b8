"""Which agent is this, and which life of it: asked once per session.

The guest recycles pids: a pid told by an agent that has restarted since, or by a guest that has rebooted, is another
process. On Linux the agent can tell who it is, because a file read is done by the agent itself: ``/proc/self/stat``
holds its own pid and start time, and the kernel's boot id changes with each boot.
"""

import base64
import binascii
import contextlib
from typing import Any, Protocol

from app.core.errors import AgentProtocolError, AgentRefusedError
from workers.qga.wire import AgentInfo

_FILE_RPCS = frozenset({"guest-file-open", "guest-file-read", "guest-file-close"})
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_OWN_STAT = "/proc/self/stat"
_READ_BYTES = 512
_READ_CHARS = 2048
"""As many characters of base64 are looked at, whatever comes for ``_READ_BYTES``."""
_START_TIME_FIELD = 19
"""Index after the closing bracket of the program name (Source: proc(5), field 22, starttime)."""


class Asks(Protocol):
    """Whatever can ask the agent."""

    async def call(self, rpc: str, arguments: dict[str, object] | None, *, timeout_s: float) -> Any:
        """Ask and return what the agent returned."""


async def is_windows(session: Asks, info: AgentInfo, *, timeout_s: float) -> bool:
    """Tell whether the guest runs Windows (Source: guest-get-osinfo, since 2.10: ``id`` is ``mswindows`` there).

    Raises:
        AgentError: The session ended.
    """
    if "guest-get-osinfo" not in info.enabled:
        return False
    with contextlib.suppress(AgentRefusedError):
        reply = await session.call("guest-get-osinfo", None, timeout_s=timeout_s)
        return isinstance(reply, dict) and reply.get("id") == "mswindows"
    return False


async def read(session: Asks, info: AgentInfo, *, timeout_s: float) -> str | None:
    """Read the agent's identity: boot id, pid and start time of the agent.

    Returns:
        A short text, equal as long as the same agent process lives; ``None`` where file RPCs are blocked.

    Raises:
        AgentError: The session ended.
    """
    if not info.enabled >= _FILE_RPCS:
        return None
    try:
        boot_id = await _read_file(session, _BOOT_ID, timeout_s)
        stat = await _read_file(session, _OWN_STAT, timeout_s)
    except AgentRefusedError:
        return None
    pid, _, rest = stat.partition(" ")
    fields = rest.rpartition(")")[2].split()
    if len(fields) <= _START_TIME_FIELD:
        return None
    return f"{boot_id.strip()[:64]}/{pid[:20]}/{fields[_START_TIME_FIELD][:20]}"


async def _read_file(session: Asks, path: str, timeout_s: float) -> str:
    handle = await session.call("guest-file-open", {"path": path}, timeout_s=timeout_s)
    try:
        reply = await session.call("guest-file-read", {"handle": handle, "count": _READ_BYTES}, timeout_s=timeout_s)
    finally:
        await session.call("guest-file-close", {"handle": handle}, timeout_s=timeout_s)
    try:
        return base64.b64decode(reply["buf-b64"][:_READ_CHARS]).decode("utf-8", "replace")
    except (binascii.Error, KeyError, TypeError, ValueError) as exc:
        raise AgentProtocolError("the agent's reply to guest-file-read is malformed") from exc
