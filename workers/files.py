"""The file transfers of a node: taken on in turn, each in a task of its own, and their ends written down.

How a file is moved is ``workers.transfer``'s business.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Protocol

from app.core import store
from app.core.clock import now
from app.core.errors import AgentError, AgentUnavailableError, StoreUnavailableError
from app.core.records import Command, CommandEnd, CommandState
from workers.commands.outcome import Outcomes
from workers.qga import guest_file
from workers.qga.channel import AgentFacts, Channel
from workers.transfer import Carrier, Transfer

_log = logging.getLogger(__name__)

AT_ONCE = 64
"""How many transfers a node has under way: each waits in Redis on a connection of its own."""
_AT_ONCE_IN_A_VM = 2
"""The rest wait: short calls to the agent wait for a chunk of each that is under way."""
_CLEAN_UP_S = 5.0
"""How long transfers that a stopping worker breaks off may take to leave the guest as it was."""

Claim = Callable[[str], Awaitable[store.commands.Claim | None]]


class Guest(Protocol):
    """What a transfer needs of a VM."""

    channel: Channel


class Files:
    """Moves files; several at once, on one loop."""

    def __init__(
        self, outcomes: Outcomes, carrier: Carrier, find_vm: Callable[[int], Guest | None], *, claim: Claim
    ) -> None:
        """Have nothing under way.

        Args:
            outcomes: Where records are written.
            carrier: The way to the web half.
            find_vm: Finds a VM of this node.
            claim: Claims a command, or ends it where it may not be begun any more.
        """
        self._outcomes = outcomes
        self._carrier = carrier
        self._find_vm = find_vm
        self._claim = claim
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._turns_in_vms: defaultdict[int, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_AT_ONCE_IN_A_VM)
        )
        self._under_way: dict[str, Transfer] = {}
        self._tasks: dict[Transfer, asyncio.Task[None]] = {}

    async def move(self, command_id: str, vmid: int) -> None:
        """Begin a transfer that nobody has begun, when it is its turn; it goes on by itself.

        Effect: as the command's kind says, at most once.
        """
        async with contextlib.AsyncExitStack() as turns:
            await turns.enter_async_context(self._turns_in_vms[vmid])
            await turns.enter_async_context(self._turns)
            transfer = await self._take_on(command_id, vmid)
            if transfer is None:
                return
            task = asyncio.create_task(self._see_to_end(transfer, turns.pop_all()))
            task.add_done_callback(lambda done: self._forget(transfer, done))
            self._tasks[transfer] = task

    def cancel(self, command_id: str) -> None:
        """Break a transfer off on request; does nothing for one that isn't under way here."""
        self._stop(command_id, CommandState.CANCELLED, "Command was cancelled")

    def lose(self, vmid: int, reason: str) -> None:
        """End every transfer of a VM as lost: the guest that had the file open is gone, and its handles mean others."""
        for transfer in list(self._under_way.values()):
            if transfer.command.vmid == vmid:
                self._stop(transfer.command.id, CommandState.LOST, f"The result can't be known: {reason}")

    async def close(self) -> None:
        """Break all transfers off, because the worker stops."""
        tasks = list(self._tasks.values())
        for command_id in list(self._under_way):
            self._stop(command_id, CommandState.CANCELLED, "Broken off: the worker was stopped")
        if tasks:
            await asyncio.wait(tasks, timeout=_CLEAN_UP_S)

    async def _take_on(self, command_id: str, vmid: int) -> Transfer | None:
        try:
            channel, facts = await self._open(vmid)
        except AgentError as exc:
            if claim := await self._claim(command_id):  # only who has the claim may say that nothing was done
                await self._end(claim.command, CommandState.FAILED, str(exc))
            return None
        claim = await self._claim(command_id)
        return Transfer(claim, channel, facts, self._carrier, self._outcomes) if claim else None

    async def _open(self, vmid: int) -> tuple[Channel, AgentFacts]:
        guest = self._find_vm(vmid)
        if guest is None:
            raise AgentUnavailableError("this node no longer carries the VM")
        facts = await guest.channel.open()
        if not facts.enabled >= guest_file.RPCS:
            raise AgentUnavailableError("guest-file-open and its kin are disabled in the guest's QEMU Guest Agent")
        return guest.channel, facts

    async def _see_to_end(self, transfer: Transfer, turns: contextlib.AsyncExitStack) -> None:
        """Carry a transfer out and write down what came of it; then tell the web half, which waits for that."""
        async with turns:
            self._under_way[transfer.command.id] = transfer
            state, message = await transfer.run()
            await self._end(transfer.command, state, message)
            with contextlib.suppress(StoreUnavailableError):
                await transfer.take_leave(message)

    async def _end(self, command: Command, state: CommandState, message: str | None) -> None:
        await self._outcomes.end(command.id, CommandEnd(state=state, ended_at=now(), message=message))

    def _stop(self, command_id: str, state: CommandState, message: str) -> None:
        transfer = self._under_way.get(command_id)
        if transfer is not None and transfer.stop(state, message):
            self._tasks[transfer].cancel()

    def _forget(self, transfer: Transfer, task: "asyncio.Task[None]") -> None:
        self._under_way.pop(transfer.command.id, None)
        self._tasks.pop(transfer, None)
        if not task.cancelled() and task.exception() is not None:
            _log.error("transfer_failed", exc_info=task.exception(), extra={"command_id": transfer.command.id})
