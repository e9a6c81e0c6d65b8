"""One file on its way, on the node: between the lists of ``app.core.store.files`` and an open file in a guest.

One chunk at a time is asked of the agent, so that short calls overtake. A file that is written appears whole or not at
all: it grows under another name in its folder, its length is checked there, and then it takes the place of the old one.
Nothing is repeated; whatever breaks a transfer off is told, and the caller writes it down.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from app.core import store
from app.core.clock import now
from app.core.errors import (
    AgentError,
    AgentRefusedError,
    AgentSilentError,
    AgentUnavailableError,
    Effect,
    IllegalMoveError,
    OwnUpError,
    TransferBrokenError,
)
from app.core.records import CommandKind, CommandState
from app.core.store import files
from app.core.store.files import CHUNK_BYTES, WINDOW_CHUNKS, Incoming, Lane, Message, MessageKind
from workers.commands import shell
from workers.commands.outcome import Outcomes
from workers.qga import guest_file, wire
from workers.qga.channel import AgentFacts, Channel
from workers.qga.guest_file import GuestFile

_SLICE_S = 0.5
"""How long Redis is asked to wait at once; a good deal less than a connection may be silent."""
_TTL_MARGIN_S = 60
_SCRIPT_TIMEOUT_S = 30.0
_POLL_PAUSE_S = 0.02
_MOST_WORDS_CHARS = 500

_PREPARE = """\
if [ -e "$1" ] && [ ! -f "$1" ]; then echo "$1 is not a regular file" >&2; exit 1; fi
umask 077; set -C; : >"$0"
"""
"""The new file is its owner's alone until it has its place: qemu-ga would let everybody write it (mode 0666)."""

_REPLACE = """\
if [ -e "$1" ]; then chown "$(stat -L -c %u:%g "$1")" "$0" && chmod "$(stat -L -c %a "$1")" "$0"
else chmod 644 "$0"; fi && mv -f "$0" "$1"
"""
_REMOVE = 'rm -f "$0"'


@dataclass(frozen=True, slots=True)
class Carrier:
    """The way that messages take.

    Attributes:
        store: Runs calls that wait.
        stall_s: How long a transfer may stand still.
    """

    store: store.PatientStore
    stall_s: float

    async def put(self, transfer_id: str, lane: Lane, message: Message) -> None:
        """Send a message.

        Raises:
            StoreUnavailableError: Redis is away; it may have got there.
        """
        await self.store.run(files.put(transfer_id, lane, message, ttl_s=int(self.stall_s) + _TTL_MARGIN_S))

    async def take(self, transfer_id: str, lane: Lane, *, check: Callable[[], None]) -> Message:
        """Wait for the next message.

        Args:
            transfer_id: The transfer.
            lane: The lane.
            check: Called now and then; raises where nobody waits any more.

        Raises:
            StoreUnavailableError: Redis is away; a message may be lost.
            TransferBrokenError: None came in time.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.stall_s
        while loop.time() < deadline_s:
            check()
            message = await self.store.run(files.take(transfer_id, lane, wait_s=_SLICE_S))
            if message is not None:
                return message
        raise TransferBrokenError(f"the other side let nothing be heard for {self.stall_s:g} s")


class Transfer:
    """One file on its way."""

    def __init__(
        self,
        claim: store.commands.Claim,
        channel: Channel,
        facts: AgentFacts,
        carrier: Carrier,
        outcomes: Outcomes,
    ) -> None:
        self.command = claim.command
        self._path = claim.request.path or ""
        self._channel = channel
        self._windows = facts.windows
        self._carrier = carrier
        self._outcomes = outcomes
        self._incoming = Incoming()
        self._sent = 0
        self._digest = hashlib.sha256()
        self._begun = False
        self._replacing = False
        self._over = False
        self._stopped: tuple[CommandState, str] | None = None

    @property
    def _writes(self) -> bool:
        return self.command.kind is CommandKind.FILE_WRITE

    @property
    def _part(self) -> str:
        """The name that a file has until it is whole; nobody can guess it."""
        return f"{self._path.rpartition('/')[0]}/.{self.command.id}.part"

    def stop(self, state: CommandState, message: str) -> bool:
        """Note why it is to be stopped; tells whether there is something to stop."""
        if self._stopped is not None or self._over or self._replacing:
            return False
        self._stopped = state, message
        return True

    async def run(self) -> tuple[CommandState, str | None]:
        """Carry it out, whatever comes of it.

        Returns:
            How it ended, and why where that isn't with success.

        Raises:
            CancelledError: Somebody else than ``stop`` wants that.
        """
        try:
            await (self._write() if self._writes else self._read())
        except asyncio.CancelledError:
            if self._stopped is None:
                raise
            return self._stopped
        except OwnUpError as exc:
            return self._stopped or self._judge(exc)
        finally:
            self._over = True
        return CommandState.EXITED, None

    async def take_leave(self, message: str | None) -> None:
        """Tell the web half that its end is in the record.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        mine, theirs = (Lane.WORD, Lane.BYTES) if self._writes else (Lane.BYTES, Lane.WORD)
        if message is not None:
            await self._put(mine, MessageKind.BROKEN, message.encode(errors="replace"))
        elif not self._writes:
            await self._put(mine, MessageKind.DONE, self._digest.digest())
        await self._carrier.store.run(files.forget(self.command.id, theirs))

    def _judge(self, exc: OwnUpError) -> tuple[CommandState, str]:
        if not self._begun:
            return CommandState.FAILED, str(exc)
        if self._replacing and exc.effect is Effect.UNKNOWN:
            return CommandState.LOST, f"All of it arrived, and it may have taken its place or not: {exc}"
        return CommandState.CANCELLED, f"Broken off: {exc}{'; the file is as it was' if self._writes else ''}"

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        async with guest_file.opened(self._channel, self._path, "rb") as file:
            size = await file.find_size()
            data, eof = await file.read(CHUNK_BYTES)  # before it counts as begun: what can be opened may not be read
            await self._begin()
            await self._put(Lane.BYTES, MessageKind.SIZE, b"" if size is None else str(size).encode())
            under_way = 0
            while data:
                if under_way == WINDOW_CHUNKS:
                    await self._take(Lane.WORD)
                    under_way -= 1
                await self._put(Lane.BYTES, MessageKind.CHUNK, data)
                self._digest.update(data)
                under_way += 1
                data, eof = (b"", True) if eof else await file.read(CHUNK_BYTES)
            for _ in range(under_way):
                await self._take(Lane.WORD)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        if self._windows:
            raise AgentUnavailableError("file-write is not supported for Windows guests")
        try:
            await self._run(_PREPARE, self._part, self._path)
            async with guest_file.opened(self._channel, self._part, "wb") as file:
                await self._begin()
                await self._receive(file)
            self._replacing = True
            await self._run(_REPLACE, self._part, self._path)
        except BaseException as exc:
            unsure = self._replacing and isinstance(exc, OwnUpError) and exc.effect is Effect.UNKNOWN
            if not unsure and (self._stopped is None or self._stopped[0] is not CommandState.LOST):
                await self._remove_part()
            raise

    async def _receive(self, file: GuestFile) -> None:
        """Write what comes, and check that all of it is there.

        Raises:
            TransferBrokenError: It isn't.
        """
        size = 0
        while (message := await self._take(Lane.BYTES)).kind is MessageKind.CHUNK:
            await file.write(message.payload)
            self._digest.update(message.payload)
            size += len(message.payload)
            await self._put(Lane.WORD, MessageKind.DONE)
        if message.payload != self._digest.digest():
            raise TransferBrokenError("a part of it was changed in the data store")
        await file.flush()
        if await file.find_size() != size:
            raise TransferBrokenError("the file in the guest has another length")

    async def _remove_part(self) -> None:
        with contextlib.suppress(AgentError):
            await self._run(_REMOVE, self._part)

    async def _run(self, script: str, *arguments: str) -> None:
        """Run a fixed script in the guest to its end.

        Raises:
            AgentRefusedError: It failed, or wasn't let run.
            AgentSilentError: It has taken too long.
        """
        program = wire.dump_exec("/bin/sh", ("-c", script, *arguments), shell.ENVIRONMENT)
        pid = wire.load_pid(await self._channel.call("guest-exec", program, timeout_s=_SCRIPT_TIMEOUT_S))
        try:
            async with asyncio.timeout(_SCRIPT_TIMEOUT_S):
                status = await self._await_exit(pid)
        except TimeoutError as exc:
            raise AgentSilentError("the guest didn't get ready in time") from exc
        if status.exit_code != 0:
            words = status.stderr.decode(errors="replace").strip()[:_MOST_WORDS_CHARS]
            raise AgentRefusedError("file-write", "GenericError", words or "the guest refused")

    async def _await_exit(self, pid: int) -> wire.ExecStatus:
        while True:
            status = await self._channel.exec_status(pid, timeout_s=_SCRIPT_TIMEOUT_S)
            if status.exited:
                return status
            await asyncio.sleep(_POLL_PAUSE_S)

    # --- both ---------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Let the record say that it runs, for which the web half waits.

        Raises:
            TransferBrokenError: The record has ended already.
        """
        try:
            await self._outcomes.persist(store.commands.begin(self.command.id, now()))
        except IllegalMoveError as exc:
            raise TransferBrokenError("its record has ended before it began") from exc
        self._begun = True

    def _check_stopped(self) -> None:
        """Go no further once it is to be stopped.

        Cancelling the task may have gone unheard: ``asyncio.wait_for``, by which the Redis client sends, loses it where
        both happen in the same turn of the loop. Source: Python issue 86296, mended in 3.12.

        Raises:
            TransferBrokenError: It is to be stopped.
        """
        if self._stopped is not None and not self._over:
            raise TransferBrokenError(self._stopped[1])

    async def _put(self, lane: Lane, kind: MessageKind, payload: bytes = b"") -> None:
        self._check_stopped()
        await self._carrier.put(self.command.id, lane, Message(self._sent, kind, payload))
        self._sent += 1

    async def _take(self, lane: Lane) -> Message:
        return self._incoming.check(await self._carrier.take(self.command.id, lane, check=self._check_stopped))
