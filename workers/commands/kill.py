"""Killing a running command in its guest: the whole process group, politely first.

Source: kill(1), kill(2): a negative pid means the process group. A command leads a group of its own (see ``shell``), so
that the group is reached even when only a grandchild is left of it, which may hold the output open. A process that made
a session of its own has left the group and is not reached.
"""

import asyncio
import contextlib
import logging
from typing import Protocol

from app.core.errors import AgentError
from workers.qga import wire
from workers.qga.channel import Channel

_log = logging.getLogger(__name__)

_RPC_TIMEOUT_S = 5.0
_POLL_PAUSE_S = 0.02
_HELPER_TIMEOUT_S = 10.0


class Reachable(Protocol):
    """What killing needs of a VM."""

    channel: Channel


async def signal_group(guest: Reachable, pid: int, name: str) -> bool:
    """Send a signal to the process group that a command leads, by a short program in the guest.

    Effect: what the signal does to the group; on Windows, the end of the process and its children.

    Args:
        guest: The VM.
        pid: The command's pid in the guest.
        name: ``TERM`` or ``KILL``.

    Returns:
        Whether it was delivered; ``False`` says that there was nobody left to take it.

    Raises:
        AgentError: The agent couldn't be asked; whether the signal was sent may be unknown.
    """
    facts = await guest.channel.open()
    path, args = _program(pid, name, windows=facts.windows)
    reply = await guest.channel.call("guest-exec", wire.dump_exec(path, args, None), timeout_s=_RPC_TIMEOUT_S)
    return await _exit_code(guest, wire.load_pid(reply)) == 0


def _program(pid: int, name: str, *, windows: bool) -> tuple[str, tuple[str, ...]]:
    if windows:
        # Source: taskkill: /T takes the children too, /F is the only way for a process without a window.
        return "taskkill.exe", ("/T", "/F", "/PID", str(pid))
    # The group first; a guest without setsid has no group of that number, and there the process itself is meant. This
    # spelling is the one that dash, bash and busybox share: busybox fails on `--`, though it sends the signal.
    return "/bin/sh", ("-c", 'kill "-$1" "-$0" 2>/dev/null || kill "-$1" "$0"', str(pid), name)


async def _exit_code(guest: Reachable, helper_pid: int) -> int | None:
    """Wait for the helper's end, so that its record doesn't stay in the agent's memory."""
    async with asyncio.timeout(_HELPER_TIMEOUT_S):
        while True:
            status = await guest.channel.exec_status(helper_pid, timeout_s=_RPC_TIMEOUT_S)
            if status.exited:
                return status.exit_code
            await asyncio.sleep(_POLL_PAUSE_S)


class Killing:
    """One kill: TERM, a while, KILL, a while; tried again while the agent can't be asked."""

    def __init__(self, guest: Reachable, pid: int, *, grace_s: float) -> None:
        """Describe the kill; nothing is sent before ``run``.

        Args:
            guest: The VM.
            pid: The command's pid in the guest.
            grace_s: Between TERM and KILL, and between KILL and giving up on the output.
        """
        self._guest = guest
        self._pid = pid
        self._grace_s = grace_s
        self._hit = False
        self._judged = asyncio.Event()

    async def has_hit(self) -> bool:
        """Tell whether a signal found anybody; waits a while for the first one's verdict."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HELPER_TIMEOUT_S):
                await self._judged.wait()
        return self._hit

    async def run(self) -> None:
        """Send both signals; done when the group had its time after the second one. Cancel it when the command ends.

        Effect: ends the command's process group.
        """
        for name in ("TERM", "KILL"):
            await self._send(name)
            await asyncio.sleep(self._grace_s)

    async def _send(self, name: str) -> None:
        while True:
            try:
                self._hit |= await signal_group(self._guest, self._pid, name)
            except (AgentError, TimeoutError) as exc:
                _log.info("kill_delayed", extra={"pid": self._pid, "signal": name, "reason": type(exc).__name__})
                await asyncio.sleep(1.0)
            else:
                self._judged.set()
                return
