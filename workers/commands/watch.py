"""Watching running commands: polled until they end, killed when they must, and never longer than their agent lives.

Source: guest-exec-status tells nothing while a command runs, frees the result with the first call that sees the end,
and knows only the pids of the agent's present life.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from zlib import crc32

from app.core.clock import now
from app.core.errors import AgentError, AgentProtocolError, AgentRefusedError
from app.core.records import CommandEnd, CommandState
from workers.commands.kill import Killing
from workers.commands.outcome import Outcomes
from workers.qga import wire
from workers.qga.channel import Channel

_log = logging.getLogger(__name__)

_SHARE_OF_ELAPSED = 0.05
_SHORTEST_PAUSE_S = 0.0005
_PAUSE_PER_NEIGHBOUR_S = 0.004
_LONGEST_PAUSE_S = 1.0
_SHARE_OF_START = 0.5
_LONGEST_FIRST_PAUSE_S = 0.02
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A command that runs in a guest.

    Attributes:
        command_id: Id of its record.
        vmid: Its VM.
        pid: Its process id in the guest.
        agent_identity: Which life of which agent told the pid, if it could be told.
        started_at: When the pid was told.
        timeout_s: Run deadline, counted from ``started_at``.
    """

    command_id: str
    vmid: int
    pid: int
    agent_identity: str | None
    started_at: datetime
    timeout_s: float | None = None


class Watcher:
    """Follows every running command of the node, each in a task of its own."""

    def __init__(self, outcomes: Outcomes, *, agent_lost_s: float, kill_grace_s: float) -> None:
        self._outcomes = outcomes
        self._agent_lost_s = agent_lost_s
        self._kill_grace_s = kill_grace_s
        self._follows: dict[str, _Follow] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._crowd: Counter[int] = Counter()

    def is_watching(self, command_id: str) -> bool:
        """Tell whether a command is being followed."""
        return command_id in self._follows

    def watch(self, running: Running, guest: Guest) -> None:
        """Follow a command to its end; the first poll goes out at once."""
        self._see_to(self._begin(running, guest), None)

    def watch_new(
        self, running: Running, guest: Guest, record: Coroutine[Any, Any, None], *, start_took_s: float
    ) -> "asyncio.Task[None]":
        """Follow a command that has just started, and record that it has, to its end.

        Args:
            running: The command.
            guest: The VM it runs in.
            record: Sees to it that the record says ``running``; its end is written after that, never before.
            start_took_s: How long the agent took to start it.

        Returns:
            ``record`` on its way.
        """
        follow = self._begin(running, guest, first_pause_s=first_pause_s(start_took_s))
        recorded = asyncio.create_task(record)
        self._see_to(follow, recorded)
        return recorded

    def kill(self, command_id: str) -> None:
        """Kill a command on request; does nothing for one that isn't followed (any more).

        Effect: ends the command's process group in the guest.
        """
        follow = self._follows.get(command_id)
        if follow is not None:
            follow.kill(CommandState.CANCELLED)

    def lose(self, vmid: int, reason: str) -> None:
        """End every command of a VM as lost: the guest that ran them is gone."""
        for follow in list(self._follows.values()):
            if follow.running.vmid == vmid:
                follow.lose(reason)

    async def close(self) -> None:
        """Stop following; the records stay ``running`` for the next worker."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, running: Running, guest: Guest, *, first_pause_s: float = 0.0) -> "_Follow":
        self._lose_namesakes(running)
        follow = _Follow(
            running,
            guest,
            agent_lost_s=self._agent_lost_s,
            kill_grace_s=self._kill_grace_s,
            neighbours=lambda: self._crowd[running.vmid] - 1,
            first_pause_s=first_pause_s,
        )
        self._crowd[running.vmid] += 1
        self._follows[running.command_id] = follow
        follow.begin()
        return follow

    def _see_to(self, follow: "_Follow", recorded: "asyncio.Future[None] | None") -> None:
        task = asyncio.create_task(self._see_to_end(follow, recorded))
        self._tasks[follow.running.command_id] = task
        task.add_done_callback(lambda done: self._forget(follow.running, done))

    def _lose_namesakes(self, running: Running) -> None:
        """End what had the same pid in the same VM: the agent has given the pid anew, so that process is gone."""
        for follow in list(self._follows.values()):
            other = follow.running
            if (other.vmid, other.pid) == (running.vmid, running.pid) and other.command_id != running.command_id:
                follow.lose("the guest gave its process id to another command")

    async def _see_to_end(self, follow: "_Follow", recorded: "asyncio.Future[None] | None") -> None:
        # The end is handed over, not kept here: it may be megabytes.
        await self._outcomes.end(follow.running.command_id, await self._find_end(follow), after=recorded)

    async def _find_end(self, follow: "_Follow") -> CommandEnd:
        """Find out how a command ends, whatever stumbles on the way: nobody else looks after it.

        Raises:
            CancelledError: The worker stops.
        """
        task = asyncio.current_task()
        while True:
            try:
                return await follow.find_end()
            except asyncio.CancelledError:
                if task is None or task.cancelling():
                    raise  # the worker stops; otherwise it was the channel that was closed under us
            except Exception:  # noqa: BLE001 - a defect met on one command must not leave it unwatched
                extra = {"command_id": follow.running.command_id, "vmid": follow.running.vmid}
                _log.exception("watch_stumbled", extra=extra)
            await asyncio.sleep(_LONGEST_PAUSE_S)

    def _forget(self, running: Running, task: asyncio.Task[None]) -> None:
        self._tasks.pop(running.command_id, None)
        if (follow := self._follows.pop(running.command_id, None)) is not None:
            follow.close()
        self._crowd[running.vmid] -= 1
        if not task.cancelled() and task.exception() is not None:
            extra = {"command_id": running.command_id, "vmid": running.vmid}
            _log.error("watch_failed", exc_info=task.exception(), extra=extra)


class _LostError(Exception):
    """What became of the command can't be found out any more; the text says why."""


class _Follow:
    """One command, from its pid to its end."""

    def __init__(
        self,
        running: Running,
        guest: Guest,
        *,
        agent_lost_s: float,
        kill_grace_s: float,
        neighbours: Callable[[], int],
        first_pause_s: float,
    ) -> None:
        self.running = running
        self._neighbours = neighbours
        self._first_pause_s = first_pause_s
        self._guest = guest
        self._agent_lost_s = agent_lost_s
        self._kill_grace_s = kill_grace_s
        self._search: asyncio.Task[CommandEnd] | None = None
        self._loss = ""
        self._ending: CommandState | None = None
        self._killing: Killing | None = None
        self._killer: asyncio.Task[None] | None = None
        self._nudged = False
        self._pausing: asyncio.Future[None] | None = None
        self._moment_s = crc32(running.command_id.encode()) / 2**32 * _LONGEST_PAUSE_S

    def begin(self) -> "asyncio.Task[CommandEnd]":
        """Begin to search."""
        self._search = asyncio.create_task(self._poll())
        return self._search

    async def find_end(self) -> CommandEnd:
        """Find out how the command ends. A result once found is not dropped, whatever else happens.

        Raises:
            CancelledError: The worker stops; the command goes on.
        """
        search = self._search or self.begin()
        if self._loss:
            search.cancel(self._loss)
        try:
            return await search
        except _LostError as exc:
            return _lost(str(exc))
        except asyncio.CancelledError:
            search.cancel()
            if self._loss and search.cancelled():
                return _lost(self._loss)
            raise
        finally:
            self._search = None
            del search  # with it goes what it found, or an exception that would hold it: megabytes, perhaps
            if self._killer is not None:
                self._killer.cancel()

    def close(self) -> None:
        """End a search that nobody waits for: the worker stopped before somebody could."""
        if self._search is not None:
            self._search.cancel()

    def lose(self, reason: str) -> None:
        """Break the search off: there is nothing left to find."""
        self._loss = self._loss or reason
        if self._search is not None:
            self._search.cancel()

    def kill(self, ending: CommandState) -> None:
        """Begin to kill the command; its record will end as ``ending``. A kill under way goes on as it was."""
        if self._ending is None:
            self._ending = ending
            self._killing = Killing(self._guest, self.running.pid, grace_s=self._kill_grace_s)
            self._killer = asyncio.create_task(self._killing.run())
            self._nudged = True
            _end_pause(self._pausing)

    async def _poll(self) -> CommandEnd:
        loop = asyncio.get_running_loop()
        answered_s = loop.time()
        since_s = answered_s - max(0.0, (now() - self.running.started_at).total_seconds())
        if self._first_pause_s:
            await self._pause(self._first_pause_s)
        while True:
            self._check_deadline()
            status = await self._ask(answered_s)
            if status is None:
                await self._guest.changed(_LONGEST_PAUSE_S)
                continue
            answered_s = loop.time()
            if status.exited:
                return await self._exited(status)
            if self._killer is not None and self._killer.done():
                return self._unended()
            pause_s = poll_pause_s(
                answered_s - since_s, neighbours=self._neighbours(), moment_s=answered_s - self._moment_s
            )
            if await self._pause(pause_s):
                since_s = loop.time()

    async def _ask(self, answered_s: float) -> wire.ExecStatus | None:
        """Ask once.

        Args:
            answered_s: When the agent last answered, by the loop's clock.

        Returns:
            What the agent said; ``None`` if it couldn't be asked this time.

        Raises:
            _LostError: It never will say.
        """
        try:
            return await self._ask_status()
        except AgentProtocolError as exc:
            raise _LostError(f"the guest agent's answer can't be read ({exc})") from exc
        except AgentError as exc:
            away_s = asyncio.get_running_loop().time() - answered_s
            if _has_forgotten(exc):
                raise _LostError(f"the guest agent no longer has the result ({exc})") from exc
            if self._guest.stopped:
                raise _LostError("the VM stopped while the command ran") from exc
            if away_s > self._agent_lost_s and not isinstance(exc, AgentRefusedError):
                raise _LostError(f"the guest agent has not answered for {away_s:.0f} s") from exc
        return None

    async def _ask_status(self) -> wire.ExecStatus:
        # open() and exec_status() follow each other without giving way to the loop while a session is open, so the
        # session that is asked is the one whose identity was looked at.
        channel, told = self._guest.channel, self.running.agent_identity
        facts = await channel.open()
        if facts.identity != told and facts.identity is not None and told is not None:
            raise _LostError("the guest agent was restarted while the command ran")
        return await channel.exec_status(self.running.pid, timeout_s=_FETCH_TIMEOUT_S)

    async def _pause(self, pause_s: float) -> bool:
        """Wait before the next poll.

        Returns:
            Whether a kill has just begun, so that polling starts over at its fastest.
        """
        if not self._nudged:
            loop = asyncio.get_running_loop()
            self._pausing = loop.create_future()
            timer = loop.call_later(min(pause_s, max(self._left_s(), 0.0)), _end_pause, self._pausing)
            try:
                await self._pausing
            finally:
                timer.cancel()
        nudged, self._nudged = self._nudged, False
        return nudged

    def _left_s(self) -> float:
        if self.running.timeout_s is None or self._ending is not None:
            return _LONGEST_PAUSE_S
        return self.running.timeout_s - (now() - self.running.started_at).total_seconds()

    def _check_deadline(self) -> None:
        if self._left_s() <= 0:
            self.kill(CommandState.TIMED_OUT)

    async def _exited(self, status: wire.ExecStatus) -> CommandEnd:
        # The end may be seen before the signal's own success is: a command that ended by itself was not killed.
        killed = self._killing is not None and await self._killing.has_hit()
        return CommandEnd(
            state=self._ending if killed and self._ending is not None else CommandState.EXITED,
            ended_at=now(),
            exit_code=status.exit_code,
            signal=status.signal,
            stdout=status.stdout,
            stderr=status.stderr,
            out_truncated=status.out_truncated,
            err_truncated=status.err_truncated,
            message=self._kill_message() if killed else None,
        )

    def _unended(self) -> CommandEnd:
        """Describe a command whose group was killed, and whose output another process holds open all the same."""
        return CommandEnd(
            state=self._ending or CommandState.CANCELLED,
            ended_at=now(),
            message=f"{self._kill_message()}; a process that left the group holds its output open, which is lost",
        )

    def _kill_message(self) -> str:
        if self._ending is CommandState.TIMED_OUT:
            return f"Command ran longer than its timeout of {self.running.timeout_s:g} s; its process group was killed"
        return "Command was cancelled; its process group was killed"


def first_pause_s(start_took_s: float) -> float:
    """Decide how long a new command is left alone before the first poll: half of what its start took, 20 ms at most.

    What the guest took to start a shell it takes at least once more to run it, and a poll in between would take the
    processor from it: without KVM a short command is a tenth quicker so.
    """
    return min(start_took_s * _SHARE_OF_START, _LONGEST_FIRST_PAUSE_S)


def poll_pause_s(elapsed_s: float, *, neighbours: int = 0, moment_s: float = 0.0) -> float:
    """Decide how long to wait before the next poll: 5 % of the time elapsed, at most a second.

    Those that are due every second are polled each at a moment of its own. Otherwise what is once polled at the same
    time, after a stall for instance, would be for as long as it runs: a burst every second.

    Args:
        elapsed_s: Since the command started.
        neighbours: Other commands that run in the same guest: their polls are the same agent's work.
        moment_s: How long ago the command's moment was, or one some whole seconds before it.
    """
    shortest_s = max(_SHORTEST_PAUSE_S, neighbours * _PAUSE_PER_NEIGHBOUR_S)
    pause_s = max(elapsed_s * _SHARE_OF_ELAPSED, shortest_s)
    return pause_s if pause_s < _LONGEST_PAUSE_S else _LONGEST_PAUSE_S - moment_s % _LONGEST_PAUSE_S


def _end_pause(pausing: "asyncio.Future[None] | None") -> None:
    if pausing is not None and not pausing.done():
        pausing.set_result(None)


def _has_forgotten(exc: AgentError) -> bool:
    """Tell whether the agent said that it knows no such pid.

    Source: a frozen guest refuses guest-exec-status as well, until it is thawed, with the class CommandNotFound; then
    the result is still there.
    """
    return isinstance(exc, AgentRefusedError) and exc.error_class != "CommandNotFound"


def _lost(reason: str) -> CommandEnd:
    return CommandEnd(state=CommandState.LOST, ended_at=now(), message=f"The result can't be known: {reason}")
