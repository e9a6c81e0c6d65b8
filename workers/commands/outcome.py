"""Writing how a command went: to the spool first, where nothing can be lost, then to Redis.

While Redis is away results stay in the spool, not in memory, and are delivered when it is back.
"""

import asyncio
import contextlib
import dataclasses
import logging
from typing import TypeVar

from app.core import logs, store
from app.core.errors import IllegalMoveError, StoreUnavailableError
from app.core.memory import give_back_soon
from app.core.records import COMMAND_MOVES, CommandEnd, CommandStart, CommandState
from workers.commands.spool import Spool, is_large

T = TypeVar("T")

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_STARTED = COMMAND_MOVES[CommandState.RUNNING] | {CommandState.RUNNING}
_LARGE_AT_ONCE = 2
"""How many large results are delivered at the same time: each takes some 100 MiB meanwhile."""


class Outcomes:
    """Where results go. A result is in the spool or in Redis at every moment."""

    def __init__(
        self,
        redis_store: store.AsyncStore,
        large_store: store.Store,
        spool: Spool,
        *,
        ttl_s: int,
        output_limit_bytes: int,
    ) -> None:
        """Say where everything goes.

        Args:
            redis_store: Takes what is small.
            large_store: Takes large results, from threads: megabytes that are packed and sent would hold up the loop.
            spool: Keeps results until Redis has them.
            ttl_s: How long a result can be read.
            output_limit_bytes: How much of each stream is kept.
        """
        self._store = redis_store
        self._large_store = large_store
        self._spool = spool
        self._ttl_s = ttl_s
        self._output_limit_bytes = output_limit_bytes
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._left = asyncio.Event()

    async def persist(self, call: store.Call[T]) -> T:
        """Run a small store call, again and again while Redis is away.

        Raises:
            IllegalMoveError: The record can't make this move (any more).
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._store.run(call)
            except StoreUnavailableError:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def start(self, command_id: str, start: CommandStart) -> None:
        """Record the start of a command; a note of it is in the spool until Redis has it, before any result of it.

        Raises:
            IllegalMoveError: The record can't start (any more).
        """
        self._spool.put_start(command_id, start)
        try:
            await self.persist(store.commands.start(command_id, start))
        except IllegalMoveError as exc:
            # Nobody else has the claim: an earlier try has arrived and its reply was lost, or the spool was quicker.
            if exc.present not in _STARTED:
                raise
        self._spool.remove_start(command_id)

    async def end(self, command_id: str, end: CommandEnd, *, after: "asyncio.Future[None] | None" = None) -> None:
        """Record the end of a command, through the spool; with Redis away it is delivered later.

        Args:
            command_id: Id of its record.
            end: How it ended.
            after: Done when the record is ready for its end; the spool doesn't wait for that.
        """
        end = self._cut(end)
        large = is_large(end)
        if large:  # compressed and written beside the loop, so that other VMs don't wait
            await asyncio.to_thread(self._spool.put, command_id, end)
        else:
            self._spool.put(command_id, end)
        facts = {"command_id": command_id, "state": end.state, "exit_code": end.exit_code}
        call = None if large else store.commands.end(command_id, end, ttl_s=self._ttl_s)
        is_its_turn = large and not self._large.locked() and (after is None or after.done())
        at_hand = end if is_its_turn else None
        del end  # a large one is let go until it is its turn: many that wait must not fill the memory
        try:
            if after is not None:
                await after
            await (self._deliver(command_id, call) if call else self._deliver_large(command_id, at_hand))
        except StoreUnavailableError:
            self._left.set()
        finally:
            logs.tell(_log, "command_ended", facts)  # who waits for it goes first

    async def deliver_spool(self) -> None:
        """Deliver everything that is in the spool now, one after another.

        Raises:
            StoreUnavailableError: Redis is away; what is left stays in the spool.
        """
        for command_id, start in self._spool.starts():
            with contextlib.suppress(IllegalMoveError):
                await self._store.run(store.commands.start(command_id, start))
            self._spool.remove_start(command_id)
        for command_id in await asyncio.to_thread(self._spool.ids):
            await self._deliver_large(command_id, None)

    async def deliver_later(self) -> None:
        """Deliver, until cancelled, what could not be delivered at once."""
        while True:
            await self._left.wait()
            self._left.clear()
            await asyncio.sleep(_FIRST_PAUSE_S)
            try:
                await self.deliver_spool()
            except StoreUnavailableError:
                self._left.set()
                await asyncio.sleep(_LONGEST_PAUSE_S / 2)

    async def _deliver_large(self, command_id: str, at_hand: CommandEnd | None) -> None:
        """Deliver a result that may be large, when it is its turn; out of the spool, unless it is at hand."""
        async with self._large:
            end = at_hand or await asyncio.to_thread(self._spool.get, command_id)
            if end is not None:
                await asyncio.to_thread(self._write_large, command_id, end)
                self._spool.remove(command_id)

    def _write_large(self, command_id: str, end: CommandEnd) -> None:
        give_back_soon()
        with _unless_told_before():
            for call in store.commands.end_in_parts(command_id, end, ttl_s=self._ttl_s):
                self._large_store.run(call)

    async def _deliver(self, command_id: str, call: store.Call[None]) -> None:
        with _unless_told_before():
            await self._store.run(call)
        self._spool.remove(command_id)

    def _cut(self, end: CommandEnd) -> CommandEnd:
        limit = self._output_limit_bytes
        return dataclasses.replace(
            end,
            stdout=end.stdout[:limit],
            stderr=end.stderr[:limit],
            out_truncated=end.out_truncated or len(end.stdout) > limit,
            err_truncated=end.err_truncated or len(end.stderr) > limit,
        )


def _unless_told_before() -> contextlib.AbstractContextManager[None]:
    """Go on where a record can't move: this result was delivered before, or told too late."""
    return contextlib.suppress(IllegalMoveError)
