"""One open file in a guest: read, written, and always closed. Knows no records and nobody who wants the file.

Source: QEMU Guest Agent Protocol Reference, guest-file-open and its kin. A handle outlives the connection and is never
used twice by an agent, so that one which was left open can be closed through a later session.
"""

import binascii
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pybase64

from app.core.errors import AgentError, AgentProtocolError, AgentRefusedError
from workers.qga.channel import Channel

RPCS = frozenset({
    "guest-file-open", "guest-file-read", "guest-file-write", "guest-file-seek", "guest-file-flush", "guest-file-close",
})  # fmt: skip
_TIMEOUT_S = 30.0
"""For one chunk: a guest's disk may be slow, and an emulated guest takes 2.6 MB/s (measured)."""


class GuestFile:
    """A file that is open in a guest. One request at a time."""

    def __init__(self, channel: Channel, handle: int) -> None:
        self._channel = channel
        self._handle = handle

    async def read(self, count: int) -> tuple[bytes, bool]:
        """Read on.

        Returns:
            At most ``count`` bytes, and whether the file ends with them.

        Raises:
            AgentError: As ``Channel.call`` says.
        """
        reply = await self._call("guest-file-read", count=count)
        data, eof = _data(reply), reply.get("eof") is True
        return data[:count], eof or not data

    async def write(self, data: bytes) -> None:
        """Write on.

        Effect: the file grows in the guest.

        Raises:
            AgentProtocolError: The agent took only a part.
            AgentError: As ``Channel.call`` says.
        """
        reply = await self._call("guest-file-write", **{"buf-b64": pybase64.b64encode_as_string(data)})
        if _number(reply, "count") != len(data):
            raise AgentProtocolError("the guest took only a part of what was to be written")

    async def flush(self) -> None:
        """Let the agent hand everything over to the system.

        Raises:
            AgentError: As ``Channel.call`` says; the disk may be full.
        """
        await self._call("guest-file-flush")

    async def find_size(self) -> int | None:
        """Go to the end, tell how far that is, and come back to the start; ``None`` where there is no going.

        Raises:
            AgentError: As ``Channel.call`` says.
        """
        try:
            size = _number(await self._call("guest-file-seek", offset=0, whence=2), "position")
            await self._call("guest-file-seek", offset=0, whence=0)
        except AgentRefusedError:
            return None
        return size

    async def close(self) -> None:
        """Close it; where the agent is away, or is another one by now, there is nothing to be closed."""
        with contextlib.suppress(AgentError):
            await self._call("guest-file-close")

    async def _call(self, rpc: str, **arguments: object) -> Any:
        return await self._channel.call(rpc, {"handle": self._handle, **arguments}, timeout_s=_TIMEOUT_S)


@contextlib.asynccontextmanager
async def opened(channel: Channel, path: str, mode: str) -> AsyncIterator[GuestFile]:
    """Open a file and close it in the end.

    Args:
        channel: To the agent of the guest.
        path: Absolute path.
        mode: As fopen(3) takes it.

    Raises:
        AgentProtocolError: The agent tells no handle.
        AgentError: As ``Channel.call`` says.
    """
    handle = await channel.call("guest-file-open", {"path": path, "mode": mode}, timeout_s=_TIMEOUT_S)
    if not isinstance(handle, int):
        raise AgentProtocolError("the agent's reply to guest-file-open is malformed")
    file = GuestFile(channel, handle)
    try:
        yield file
    finally:
        await file.close()


def _number(reply: Any, name: str) -> int:
    value = reply.get(name) if isinstance(reply, dict) else None
    if not isinstance(value, int):
        raise AgentProtocolError(f"the agent's reply has no usable {name}")
    return value


def _data(reply: Any) -> bytes:
    _number(reply, "count")
    with contextlib.suppress(binascii.Error, TypeError, ValueError):
        return pybase64.b64decode(reply.get("buf-b64", ""), validate=True)
    raise AgentProtocolError("the agent's buf-b64 is not base64")
