"""Watching running commands: polled until they end, and never longer than their agent lives.

Source: guest-exec-status tells nothing while a command runs, frees the result with the first call that sees the end,
and knows only the pids of the agent's present life.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from app.core.clock import now
from app.core.errors import AgentError, AgentProtocolError, AgentRefusedError
from app.core.records import CommandEnd, CommandState
from workers.commands.outcome import Outcomes
from workers.qga import wire
from workers.qga.channel import Channel

_log = logging.getLogger(__name__)

_SHARE_OF_ELAPSED = 0.05
_SHORTEST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 1.0
_FETCH_TIMEOUT_S = 60.0
"""For one guest-exec-status: a full result is about 45 MB, and the agent answers nobody else meanwhile."""


class Guest(Protocol):
    """What watching needs of a VM."""

    channel: Channel

    @property
    def stopped(self) -> bool:
        """Whether there is no guest any more."""

    async def changed(self, timeout_s: float) -> None:
        """Wait until something about the VM changes, but not for longer."""


@dataclass(frozen=True, slots=True)
class Running:
    """A command that runs in a guest.

    Attributes:
        command_id: Id of its record.
        vmid: Its VM.
        pid: Its process id in the guest.
        agent_identity: Which life of which agent told the pid, if it could be told.
    """

    command_id: str
    vmid: int
    pid: int
    agent_identity: str | None


class Watcher:
    """Follows every running command of the node, each in a task of its own."""

    def __init__(self, outcomes: Outcomes, *, agent_lost_s: float) -> None:
        self._outcomes = outcomes
        self._agent_lost_s = agent_lost_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._searches: dict[str, tuple[Running, asyncio.Task[CommandEnd]]] = {}

    def is_watching(self, command_id: str) -> bool:
        """Tell whether a command is being followed."""
        return command_id in self._tasks

    def watch(self, running: Running, guest: Guest, *, recorded: Awaitable[None] | None = None) -> None:
        """Follow a command to its end; the first poll goes out at once.

        Args:
            running: The command.
            guest: The VM it runs in.
            recorded: Done when the record says ``running``; its end is written after that, never before.
        """
        task = asyncio.create_task(self._follow(running, guest, recorded))
        self._tasks[running.command_id] = task
        task.add_done_callback(lambda done: self._forget(running, done))

    def lose(self, vmid: int, reason: str) -> None:
        """End every command of a VM as lost: the guest that ran them is gone."""
        for running, search in list(self._searches.values()):
            if running.vmid == vmid:
                search.cancel(reason)

    async def close(self) -> None:
        """Stop following; the records stay ``running`` for the next worker."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, running: Running, guest: Guest, recorded: Awaitable[None] | None) -> None:
        end = await self._search(running, guest)
        if recorded is not None:
            await recorded
        await self._outcomes.end(running.command_id, end)

    async def _search(self, running: Running, guest: Guest) -> CommandEnd:
        # A task of its own, because only the search may be broken off by lose(): a result once found is never dropped.
        search = asyncio.create_task(self._find_end(running, guest))
        self._searches[running.command_id] = (running, search)
        try:
            return await search
        except asyncio.CancelledError as exc:
            if not search.cancelled() or not exc.args:
                search.cancel()
                raise
            return _lost(str(exc.args[0]))
        finally:
            del self._searches[running.command_id]

    async def _find_end(self, running: Running, guest: Guest) -> CommandEnd:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        answered_s = began_s
        while True:
            try:
                status = await _ask(running, guest)
                answered_s = loop.time()
            except (AgentRefusedError, AgentProtocolError) as exc:
                return _lost(f"the guest agent no longer has the result ({exc})")
            except _AnotherLifeError:
                return _lost("the guest agent was restarted while the command ran")
            except AgentError:
                if guest.stopped:
                    return _lost("the VM stopped while the command ran")
                if loop.time() - answered_s > self._agent_lost_s:
                    return _lost(f"the guest agent has not answered for {self._agent_lost_s:g} s")
                await guest.changed(_LONGEST_PAUSE_S)
                continue
            if status.exited:
                return _exited(status)
            await asyncio.sleep(poll_pause_s(loop.time() - began_s))

    def _forget(self, running: Running, task: asyncio.Task[None]) -> None:
        self._tasks.pop(running.command_id, None)
        if not task.cancelled() and task.exception() is not None:
            extra = {"command_id": running.command_id, "vmid": running.vmid}
            _log.error("watch_failed", exc_info=task.exception(), extra=extra)


class _AnotherLifeError(Exception):
    """The agent that answers is not the one that told the pid."""


def poll_pause_s(elapsed_s: float) -> float:
    """Decide how long to wait before the next poll: 5 % of the time elapsed, at most a second."""
    return min(max(elapsed_s * _SHARE_OF_ELAPSED, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)


async def _ask(running: Running, guest: Guest) -> wire.ExecStatus:
    # open() and call() follow each other without giving way to the loop while a session is open, so the session that
    # is asked is the one whose identity was looked at.
    facts = await guest.channel.open()
    if None not in {facts.identity, running.agent_identity} and facts.identity != running.agent_identity:
        raise _AnotherLifeError
    reply = await guest.channel.call("guest-exec-status", {"pid": running.pid}, timeout_s=_FETCH_TIMEOUT_S)
    return wire.load_exec_status(reply)


def _exited(status: wire.ExecStatus) -> CommandEnd:
    return CommandEnd(
        state=CommandState.EXITED,
        ended_at=now(),
        exit_code=status.exit_code,
        signal=status.signal,
        stdout=status.stdout,
        stderr=status.stderr,
        out_truncated=status.out_truncated,
        err_truncated=status.err_truncated,
    )


def _lost(reason: str) -> CommandEnd:
    return CommandEnd(state=CommandState.LOST, ended_at=now(), message=f"The result can't be known: {reason}")
