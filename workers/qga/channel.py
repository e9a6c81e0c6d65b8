"""The one connection to a VM's agent: who may hold it, when it is opened, and when it is let go.

One client is served per socket, the next ones connect and wait in silence, and a reply goes to whoever holds the
connection when it comes. So a channel owns its VM's agent socket on this host by a lock on ``<socket>.lock``, keeps one
session open (a reconnect costs the guest up to 100 ms), and opens the next one, with a new sync, when it is needed.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.errors import AgentProtocolError, AgentRefusedError, AgentUnavailableError, SocketTakenError
from workers.qga import identity, wire
from workers.qga.session import Session
from workers.socket_lock import SocketLock

_TELL_GRACE_S = 0.5
_SHUN_S = 5.0
"""How long an agent that doesn't speak the protocol is left alone, so that it can't keep the worker busy."""
_PROBATION_S = 30.0
"""It is left alone if it does so again within this time: once can happen to an agent that is restarted."""


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What is asked once per session.

    Attributes:
        version: qemu-ga's version.
        enabled: The RPCs that may be used.
        windows: Whether the guest runs Windows.
        identity: Which life of which agent this is; ``None`` where the guest doesn't let us know.
    """

    version: str
    enabled: frozenset[str]
    windows: bool
    identity: str | None


class Channel:
    """Calls to one VM's guest agent, over one session that is kept open."""

    def __init__(
        self,
        path: Path,
        *,
        sync_timeout_s: float,
        rpc_timeout_s: float,
        idle_close_s: float,
        on_end: Callable[[], None],
        long_replies: asyncio.Semaphore | None = None,
    ) -> None:
        """Describe the channel; nothing is opened yet.

        Args:
            path: The agent socket.
            sync_timeout_s: For opening a session.
            rpc_timeout_s: For each of the questions that opening asks.
            idle_close_s: Let the socket go after so long without a call, for other software; 0 keeps it.
            on_end: Called when a session that had been open has ended.
            long_replies: How many long replies all channels that share it receive at once; ``None`` is one here.
        """
        self.path = path
        self._sync_timeout_s = sync_timeout_s
        self._rpc_timeout_s = rpc_timeout_s
        self._idle_close_s = idle_close_s
        self._on_end = on_end
        self._long_replies = long_replies or asyncio.Semaphore(1)
        self._misbehaved_s = float("-inf")
        self._shunned_until_s = float("-inf")
        self._lock: SocketLock | None = None
        self._session: Session | None = None
        self._facts: AgentFacts | None = None
        self._flags_fixed = False
        self._opening: asyncio.Task[Session] | None = None
        self._calls_under_way = 0
        self._calls_ended = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._parting: asyncio.Task[None] | None = None

    @property
    def facts(self) -> AgentFacts | None:
        """What the agent said when the present session was opened; ``None`` without a session."""
        return self._facts if self._session is not None and self._session.alive else None

    def serve(self, on_end: Callable[[], None], *, idle_close_s: float) -> None:
        """Serve somebody else from now on, who is told as the one before was; an open session stays open.

        Args:
            on_end: As for ``Channel``.
            idle_close_s: As for ``Channel``.
        """
        self._on_end, self._idle_close_s = on_end, idle_close_s
        self._rest()

    async def open(self) -> AgentFacts:
        """Make sure that there is a session.

        Returns:
            What the agent said of itself.

        Raises:
            AgentUnavailableError: There is none to be had; nothing ran in the guest.
        """
        await self._get_session()
        if self._facts is None:
            raise AgentUnavailableError("the connection to the QEMU Guest Agent has ended")
        return self._facts

    async def call(self, rpc: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float) -> Any:
        """Ask the agent; opens a session if there is none. Calls on one channel may overlap.

        Effect: whatever the RPC does in the guest. Never repeated.

        Raises:
            AgentError: As ``Session.open`` and ``Session.call`` say; its ``effect`` tells whether it may have run.
        """
        session = await self._get_session()
        self._calls_under_way += 1
        try:
            return await session.call(rpc, arguments, timeout_s=timeout_s)
        finally:
            self._calls_under_way -= 1
            self._rest()

    async def exec_status(self, pid: int, *, timeout_s: float) -> wire.ExecStatus:
        """Ask how a program is getting on. The agent tells its end once, and forgets it.

        Raises:
            AgentError: As for ``call``.
        """
        reply = await self.call("guest-exec-status", {"pid": pid}, timeout_s=timeout_s)
        status = wire.load_exec_status(reply, flags_fixed=self._flags_fixed)
        self._flags_fixed = status.flags_fixed
        return status

    async def tell(self, rpc: str, arguments: Mapping[str, object] | None = None) -> None:
        """Send an RPC that has no success reply, such as guest-shutdown.

        Effect: whatever the RPC does in the guest. Never repeated.

        Raises:
            AgentError: Not sent, or refused.
        """
        session = await self._get_session()
        await session.tell(rpc, arguments, grace_s=_TELL_GRACE_S)

    @contextlib.asynccontextmanager
    async def held(self, timeout_s: float) -> AsyncIterator[None]:
        """Keep calls from the agent while the block runs: those that come meanwhile wait.

        Args:
            timeout_s: How long the calls under way may take to end, before the block is begun all the same.
        """
        self._gate.clear()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._wait_idle()
            yield
        finally:
            self._gate.set()

    async def reset(self) -> None:
        """Close the present session, because the agent behind it is gone; the socket stays ours."""
        session, self._session, self._facts = self._session, None, None
        if session is not None:
            await session.close()

    async def close(self) -> None:
        """Close the session and let the socket go."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await asyncio.wait([self._part()])

    async def _wait_idle(self) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening])
        while self._calls_under_way:
            self._calls_ended.clear()
            await self._calls_ended.wait()

    async def _get_session(self) -> Session:
        if not self._gate.is_set():
            await self._gate.wait()
        if self._session is not None and self._session.alive:
            return self._session
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open_session())
            self._opening.add_done_callback(_note_outcome)
        # Shielded: one caller that gives up must not spoil the attempt that others share.
        return await asyncio.shield(self._opening)

    async def _open_session(self) -> Session:
        if self._parting is not None:
            await asyncio.wait([self._parting])
        await self.reset()
        self._own_socket()
        if asyncio.get_running_loop().time() < self._shunned_until_s:
            raise AgentUnavailableError("the QEMU Guest Agent sent what no agent sends; it is left alone for a while")
        try:
            session = await self._synchronise()
        except AgentProtocolError:
            self._judge()
            raise
        self._session = session
        self._rest()
        return session

    def _judge(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._misbehaved_s < _PROBATION_S:
            self._shunned_until_s = now_s + _SHUN_S
        self._misbehaved_s = now_s

    def _end(self, misbehaved: bool) -> None:  # noqa: FBT001 - a session tells it, with nothing else
        if misbehaved:
            self._judge()
        self._on_end()

    async def _synchronise(self) -> Session:
        session = await Session.open(
            self.path, timeout_s=self._sync_timeout_s, long_replies=self._long_replies, on_end=self._end
        )
        try:
            self._facts = await self._ask_facts(session)
        except AgentRefusedError as exc:
            await session.close()
            raise AgentUnavailableError("the QEMU Guest Agent refuses to say what it can do") from exc
        except BaseException:
            await session.close()
            raise
        self._flags_fixed = wire.has_fixed_flags(self._facts.version)
        return session

    async def _ask_facts(self, session: Session) -> AgentFacts:
        timeout_s = self._rpc_timeout_s
        info = wire.load_info(await session.call("guest-info", None, timeout_s=timeout_s))
        windows = await identity.is_windows(session, info, timeout_s=timeout_s)
        life = None if windows else await identity.read(session, info, timeout_s=timeout_s)
        return AgentFacts(info.version, info.enabled, windows, life)

    def _own_socket(self) -> None:
        try:
            self._lock = self._lock or SocketLock.take(self.path)
        except SocketTakenError as exc:
            raise AgentUnavailableError(str(exc)) from exc

    def _rest(self) -> None:
        if self._calls_under_way == 0:
            self._calls_ended.set()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._idle_close_s > 0 and self._calls_under_way == 0:
            self._idle_timer = asyncio.get_running_loop().call_later(self._idle_close_s, self._let_go)

    def _let_go(self) -> None:
        is_opening = self._opening is not None and not self._opening.done()
        if self._calls_under_way == 0 and not is_opening:
            self._part()

    def _part(self) -> asyncio.Task[None]:
        """Let session and socket go. Nobody finds them here from now on; who opens next waits until they are gone."""
        session, self._session, self._facts = self._session, None, None
        lock, self._lock = self._lock, None
        self._parting = asyncio.create_task(_part_with(session, lock, self._parting))
        return self._parting


async def _part_with(session: Session | None, lock: SocketLock | None, earlier: asyncio.Task[None] | None) -> None:
    try:
        if session is not None:
            await session.close()
    finally:
        if lock is not None:
            lock.release()
    if earlier is not None:
        await asyncio.wait([earlier])


def _note_outcome(opening: asyncio.Task[Session]) -> None:
    """Take note of how an attempt ended, so that asyncio doesn't complain of one whose callers have all given up."""
    if not opening.cancelled():
        opening.exception()
