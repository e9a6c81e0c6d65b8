"""Writing how a command went: to the spool first where a result could be lost, to Redis until Redis has it."""

import asyncio
import contextlib
import dataclasses
import logging
from typing import TypeVar

from app.core import store
from app.core.errors import IllegalMoveError, StoreUnavailableError
from app.core.records import CommandEnd
from workers.commands.spool import Spool

T = TypeVar("T")

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_SMALL_BYTES = 256 * 1024
"""Compressing and writing more than this is done beside the loop, so that other VMs don't wait."""


class Outcomes:
    """Where results go. A result is in the spool or in Redis at every moment."""

    def __init__(self, redis_store: store.AsyncStore, spool: Spool, *, ttl_s: int, output_limit_bytes: int) -> None:
        self._store = redis_store
        self._spool = spool
        self._ttl_s = ttl_s
        self._output_limit_bytes = output_limit_bytes

    async def persist(self, call: store.Call[T]) -> T:
        """Run a store call, again and again while Redis is away.

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

    async def end(self, command_id: str, end: CommandEnd) -> None:
        """Record the end of a command, through the spool."""
        end = self._cut(end)
        if len(end.stdout) + len(end.stderr) > _SMALL_BYTES:
            await asyncio.to_thread(self._spool.put, command_id, end)
            call = await asyncio.to_thread(store.commands.end, command_id, end, ttl_s=self._ttl_s)
        else:
            self._spool.put(command_id, end)
            call = store.commands.end(command_id, end, ttl_s=self._ttl_s)
        with contextlib.suppress(IllegalMoveError):
            await self.persist(call)
        self._spool.remove(command_id)
        _log.info("command_ended", extra={"command_id": command_id, "state": end.state, "exit_code": end.exit_code})

    async def deliver_spool(self) -> None:
        """Deliver what an earlier worker left in the spool."""
        for command_id, end in await asyncio.to_thread(lambda: list(self._spool.items())):
            await self.end(command_id, end)

    def _cut(self, end: CommandEnd) -> CommandEnd:
        limit = self._output_limit_bytes
        return dataclasses.replace(
            end,
            stdout=end.stdout[:limit],
            stderr=end.stderr[:limit],
            out_truncated=end.out_truncated or len(end.stdout) > limit,
            err_truncated=end.err_truncated or len(end.stderr) > limit,
        )
