"""Connections of an asyncio Redis client that are kept for commands which travel together.

The client's pipeline does the same in twice the time: it borrows its connection anew, and has three tasks and a
time-out for each reply where one deadline for all of them will do.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

Args = tuple[str | bytes | int | float, ...]


class Lines:
    """Sends commands together and awaits their replies: over an idle connection, or one more of the client's pool.

    How long all of it may take, and how often it is tried, is what the client was made with for each command.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._pool = client.connection_pool
        self._timeout_s: float | None = None
        self._idle: list[AbstractConnection] = []

    async def ask(self, commands: Sequence[Args]) -> list[Any]:
        """Send commands.

        Returns:
            Their replies; where Redis refuses one, its words as an exception that isn't raised.

        Raises:
            RedisError: Redis is away; whether it has carried them out isn't known.
        """
        packed = b"".join(pack(args) for args in commands)
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            return await connection.retry.call_with_retry(
                lambda: self._converse(connection, packed, len(commands)),
                lambda _exc: connection.disconnect(nowait=True),
            )
        finally:
            self._idle.append(connection)  # one that was lost connects again when it is needed

    async def _connect(self) -> AbstractConnection:
        connection: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        # One deadline for all that is sent together takes the place of one for each step.
        self._timeout_s, connection.socket_timeout = connection.socket_timeout, None
        return connection

    async def _converse(self, connection: AbstractConnection, packed: bytes, count: int) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.send_packed_command(packed, check_health=False)
                return [await _read(connection) for _ in range(count)]
        except TimeoutError as exc:
            raise redis.TimeoutError("Redis didn't answer in time") from exc


def pack(args: Args) -> bytes:
    """Write a command as Redis takes it."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
    return packed


async def _read(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as exc:
        return exc
