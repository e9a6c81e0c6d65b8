"""Starting a command in a guest: claimed once, sent once, its pid written down."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from app.core import logs, store
from app.core.clock import now
from app.core.errors import (
    AgentError,
    AgentProtocolError,
    AgentRefusedError,
    AgentSilentError,
    AgentUnavailableError,
    IllegalMoveError,
)
from app.core.records import CommandEnd, CommandRequest, CommandStart, CommandState
from workers.commands import shell
from workers.commands.outcome import Outcomes
from workers.commands.watch import Guest, Running, Watcher
from workers.hiding import hide
from workers.qga import wire
from workers.qga.channel import AgentFacts

_log = logging.getLogger(__name__)

_AGENT_PAUSE_S = 1.0
_LEAST_SECRET_CHARS = 4
"""Shorter values stand in any text."""
_NOT_DELIVERED = "The command was not delivered in time; it has not run"
CANCELLED_IN_TIME = "Command was cancelled before it was sent; it has not run"


class StartableGuest(Guest, Protocol):
    """What starting needs of a VM."""

    lacks_setsid: bool


class Starter:
    """Starts commands; many at once, on one loop."""

    def __init__(
        self,
        outcomes: Outcomes,
        watcher: Watcher,
        find_vm: Callable[[int], StartableGuest | None],
        *,
        rpc_timeout_s: float,
    ) -> None:
        self._outcomes = outcomes
        self._watcher = watcher
        self._find_vm = find_vm
        self._rpc_timeout_s = rpc_timeout_s

    async def start(self, command_id: str, vmid: int) -> None:
        """Start one command, whatever comes of it: the outcome is in its record.

        The channel is opened first, because that is harmless and may take long; then the command is claimed, which
        only one worker can do only once and only before the delivery deadline; then it is sent.

        Effect: runs the command in the guest, at most once.
        """
        try:
            guest = self._get_guest(vmid)
            facts = await self._open(command_id, guest)
            _check_allowed(facts)
        except AgentError as exc:
            # Claimed all the same: only who has the claim may say that it has not run.
            if await self.claim(command_id):
                await self._end(command_id, CommandState.FAILED, str(exc))
            return
        claim = await self.claim(command_id)
        if claim is not None:
            await self._send(claim, guest, facts)

    async def claim(self, command_id: str) -> store.commands.Claim | None:
        """Claim a command; one that may not be sent (any more) is ended, where nobody else has it."""
        claim = await self._outcomes.persist(store.commands.claim(command_id))
        if claim is None:
            await self.expire_if_undelivered(command_id)
        elif claim.late:
            await self._end(command_id, CommandState.EXPIRED, _NOT_DELIVERED)
            return None
        elif claim.command.kill_requested_at is not None:
            await self._end(command_id, CommandState.CANCELLED, CANCELLED_IN_TIME)
            return None
        return claim

    async def _open(self, command_id: str, guest: StartableGuest) -> AgentFacts:
        """Open the channel, and where the command says so wait for the agent of a booting VM.

        Raises:
            AgentUnavailableError: There is no agent, or none came in time.
        """
        try:
            return await guest.channel.open()
        except AgentUnavailableError:
            command = await self._outcomes.persist(store.commands.find(command_id))
            if command is None or command.wait_for_agent_s <= 0:
                raise
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + command.wait_for_agent_s
        while True:
            await guest.changed(min(_AGENT_PAUSE_S, max(deadline_s - loop.time(), 0.0)))
            try:
                return await guest.channel.open()
            except AgentUnavailableError:
                if loop.time() > deadline_s:
                    raise

    async def expire_if_undelivered(self, command_id: str) -> None:
        """End a command that nobody claimed before its delivery deadline."""
        if await self._outcomes.persist(store.commands.is_undelivered(command_id)):
            await self._end(command_id, CommandState.EXPIRED, _NOT_DELIVERED)

    async def _send(self, claim: store.commands.Claim, guest: StartableGuest, facts: AgentFacts) -> None:
        command, loop = claim.command, asyncio.get_running_loop()
        began_s = loop.time()
        try:
            pid = await self._execute(claim.request, guest, facts)
        except (AgentRefusedError, AgentUnavailableError) as exc:
            await self._end(command.id, CommandState.FAILED, hide(str(exc), *_secrets(claim.request)))
        except (AgentSilentError, AgentProtocolError) as exc:
            await self._end(command.id, CommandState.UNKNOWN, f"The command may have run: {exc}")
        else:
            running = Running(
                command_id=command.id,
                vmid=command.vmid,
                pid=pid,
                agent_identity=facts.identity,
                started_at=now(),
                timeout_s=command.timeout_s,
            )
            took_s = loop.time() - began_s
            await self._watcher.watch_new(running, guest, self._record_running(running), start_took_s=took_s)
            extra = {"command_id": command.id, "vmid": command.vmid, "pid": pid, "request_id": command.request_id}
            logs.tell(_log, "command_started", extra)

    async def _execute(self, request: CommandRequest, guest: StartableGuest, facts: AgentFacts) -> int:
        if facts.windows:
            return await self._guest_exec(_windows_program(request), request, guest)
        plain = _linux_program(request, own_session=False)
        if guest.lacks_setsid:
            return await self._guest_exec(plain, request, guest)
        apart = _linux_program(request, own_session=True)
        try:
            return await self._guest_exec(apart, request, guest)
        except AgentRefusedError:
            # Refused means that nothing ran. Where the plain shell starts, it was setsid that is missing.
            pid = await self._guest_exec(plain, request, guest)
            guest.lacks_setsid = True
            return pid

    async def _guest_exec(self, program: shell.Program, request: CommandRequest, guest: StartableGuest) -> int:
        stdin = None if request.stdin is None else request.stdin.encode()
        arguments = wire.dump_exec(program.path, program.args, program.env, stdin=stdin)
        return wire.load_pid(await guest.channel.call("guest-exec", arguments, timeout_s=self._rpc_timeout_s))

    async def _record_running(self, running: Running) -> None:
        start = CommandStart(pid=running.pid, started_at=running.started_at, agent_identity=running.agent_identity)
        try:
            await self._outcomes.start(running.command_id, start)
        except IllegalMoveError:
            _log.exception("command_started_late", extra={"command_id": running.command_id, "vmid": running.vmid})

    def _get_guest(self, vmid: int) -> StartableGuest:
        guest = self._find_vm(vmid)
        if guest is None:
            raise AgentUnavailableError("this node no longer carries the VM")
        return guest

    async def _end(self, command_id: str, state: CommandState, message: str) -> None:
        await self._outcomes.end(command_id, CommandEnd(state=state, ended_at=now(), message=message))


def _check_allowed(facts: AgentFacts) -> None:
    if not facts.enabled >= {"guest-exec", "guest-exec-status"}:
        raise AgentUnavailableError("guest-exec is disabled in the guest's QEMU Guest Agent")


def _secrets(request: CommandRequest) -> list[str]:
    values = (request.stdin or "", *(request.env or {}).values())
    return [value for value in values if len(value) >= _LEAST_SECRET_CHARS]


def _linux_program(request: CommandRequest, *, own_session: bool) -> shell.Program:
    if request.argv is None:
        return shell.linux_program(request.line, own_session=own_session, env=request.env, cwd=request.cwd)
    return shell.linux_argv(request.argv, own_session=own_session, env=request.env, cwd=request.cwd)


def _windows_program(request: CommandRequest) -> shell.Program:
    if request.env is not None or request.cwd is not None:
        raise AgentUnavailableError("env and cwd are not supported for Windows guests; put them into the command")
    return shell.windows_program(request.line) if request.argv is None else shell.windows_argv(request.argv)
