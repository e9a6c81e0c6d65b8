"""The web half's road of a file: record, hand over, and pass chunks on as fast as the slower side takes them.

Knows records and their waits; the lists that chunks pass through are ``app.file_stream``'s. Doesn't know HTTP: bytes
come from an iterable and go into an iterator. Never talks to a node or a guest.
"""

import contextlib
import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.access import Principal
from app.core import ids
from app.core.clock import now
from app.core.errors import (
    FileTooLargeError,
    GuestCallExpiredError,
    GuestCallRefusedError,
    GuestCallUnknownError,
    IllegalMoveError,
    OwnUpError,
    TransferBrokenError,
    UnavailableError,
)
from app.core.queues import MOVE_FILE
from app.core.records import Command, CommandEnd, CommandKind, CommandRequest, CommandState
from app.core.store import Store, commands
from app.core.store.commands import Bounds
from app.core.store.files import CHUNK_BYTES, WINDOW_CHUNKS, Lane, MessageKind
from app.dispatch import Dispatch
from app.file_stream import Download, Lanes
from app.guest_calls import insist_on_guest
from app.inventory import VmView
from app.settings import WebSettings
from app.wakeups import Waiter, Wakeups, wait

__all__ = ["CHUNK_BYTES", "Download", "Files"]

TASKS = {CommandKind.FILE_READ: "read the file", CommandKind.FILE_WRITE: "write the file"}
"""What is done, for people."""

BEGIN_GRACE_S = 60.0
"""How much longer than the delivery deadline a claimed transfer's beginning is waited for."""
FINISH_S = 90.0
"""How long a written file may take to get its place, once all of it is there."""
RQ_MARGIN_S = 60

_NO_ANSWER = "The guest did not answer in time; nothing was done"
_NO_END = "All of it was handed over, and nothing came back; it may have been done"
_GONE = "The record of the transfer is not in the data store any more"
_TOO_MANY = "Too many requests wait for guests at the moment"


@dataclass(frozen=True)
class Files:
    """Reads and writes files in guests.

    Attributes:
        store: Where records are, and chunks.
        dispatch: The way to nodes.
        wakeups: Tells when a record has changed.
        settings: Deadlines and limits.
        seats: One for each request that may take long at the same time.
        clock: The time.
    """

    store: Store
    dispatch: Dispatch
    wakeups: Wakeups
    settings: WebSettings
    seats: threading.Semaphore
    clock: Callable[[], datetime] = field(default=now)

    def read(
        self, principal: Principal, view: VmView, path: str, request_id: str, *, on_record: Callable[[str], None]
    ) -> Download:
        """Read a file in a guest.

        Args:
            principal: Who asks.
            view: The VM.
            path: Absolute path in the guest.
            request_id: The HTTP request.
            on_record: Told the id of the record as soon as there is one.

        Returns:
            The bytes; to be closed.

        Raises:
            FileTooLargeError: The file is longer than may be read.
            GuestCallRefusedError: The guest said no; a directory, or no such file.
            GuestCallExpiredError: Nobody took it in time.
            TransferBrokenError: It was broken off at once.
            TooManyCommandsError: As many as may be are under way; nothing was done.
            UnavailableError: The node, or the data store, is away; or too much goes on already.
            VmNotRunningError: The VM is not running.
        """
        self._take_seat()
        try:
            begun = self._begun(
                principal, view, CommandKind.FILE_READ, path=path, request_id=request_id, on_record=on_record
            )
            with begun as (command, _):
                lanes = Lanes(self.store, self.settings, command.id, mine=Lane.WORD, theirs=Lane.BYTES)
        except BaseException:
            self.seats.release()
            raise
        download = Download(lanes, self.seats, self.settings.file_limit_bytes)
        try:
            download.check_size()
        except BaseException:
            download.close()
            raise
        return download

    def write(
        self,
        principal: Principal,
        view: VmView,
        path: str,
        body: Iterable[bytes],
        request_id: str,
        *,
        on_record: Callable[[str], None],
    ) -> None:
        """Write a file in a guest, whole or not at all.

        Effect: the file takes the place of the one at this path, if there is one.

        Args:
            principal: Who asks.
            view: The VM.
            path: Absolute path in the guest.
            body: The bytes, in chunks of at most ``CHUNK_BYTES``; isn't touched before the guest is ready for them.
            request_id: The HTTP request.
            on_record: Told the id of the record as soon as there is one.

        Raises:
            FileTooLargeError: It is longer than may be sent; the file is as it was.
            GuestCallRefusedError: The guest said no, or it was broken off; the file is as it was.
            GuestCallExpiredError: Nobody took it in time; the file is as it was.
            GuestCallUnknownError: All of it was sent; the file may be as it was, or not.
            TooManyCommandsError: As many as may be are under way; nothing was done.
            UnavailableError: The node, or the data store, is away; or too much goes on already.
            VmNotRunningError: The VM is not running.
        """
        self._take_seat()
        try:
            begun = self._begun(
                principal, view, CommandKind.FILE_WRITE, path=path, request_id=request_id, on_record=on_record
            )
            with begun as (command, woken):
                lanes = Lanes(
                    self.store,
                    self.settings,
                    command.id,
                    mine=Lane.BYTES,
                    theirs=Lane.WORD,
                    is_over=lambda: woken.is_set() and self._find_ended(command.id) is not None,
                )
                with contextlib.suppress(TransferBrokenError):  # the record says why
                    self._send(lanes, body)
                woken.set()  # it may have been heard of while bytes were sent
                ended = wait(woken, FINISH_S, lambda: self._find_ended(command.id))
                _insist_on_success(ended or self._find(command.id))
        finally:
            self.seats.release()

    def _send(self, lanes: Lanes, body: Iterable[bytes]) -> None:
        """Send all of a body, as fast as it is written.

        Raises:
            FileTooLargeError: It is longer than may be sent.
            TransferBrokenError: The node has given up.
        """
        digest, under_way = hashlib.sha256(), 0
        try:
            for chunk in _within(self.settings.file_limit_bytes, body):
                if under_way == WINDOW_CHUNKS:
                    lanes.take()
                    under_way -= 1
                lanes.put(MessageKind.CHUNK, chunk)
                digest.update(chunk)
                under_way += 1
            for _ in range(under_way):
                lanes.take()
        except TransferBrokenError:
            raise
        except BaseException as exc:
            lanes.break_off(str(exc) if isinstance(exc, OwnUpError) else "the client's body came to no end")
            raise
        lanes.put(MessageKind.DONE, digest.digest())

    def _take_seat(self) -> None:
        """Take a seat: a plain request must always find a thread.

        Raises:
            UnavailableError: There is none.
        """
        if not self.seats.acquire(blocking=False):
            raise UnavailableError(_TOO_MANY)

    @contextlib.contextmanager
    def _begun(
        self,
        principal: Principal,
        view: VmView,
        kind: CommandKind,
        *,
        path: str,
        request_id: str,
        on_record: Callable[[str], None],
    ) -> Iterator[tuple[Command, Waiter]]:
        """Record a transfer, hand it over, and wait until the guest is ready.

        Raises:
            GuestCallExpiredError: It isn't in time.
        """
        insist_on_guest(view, TASKS[kind])
        command = self._new_command(principal, view, kind, request_id)
        within_s = self.settings.exec_start_timeout_s
        bounds = Bounds(self.settings.exec_max_running_per_vm, self.settings.exec_max_running_per_key)
        create = commands.create(command, CommandRequest(path=path), deliver_within_s=within_s, bounds=bounds)
        with self.wakeups.expect(command.id) as woken:
            self.dispatch.put(
                command.node,
                MOVE_FILE,
                (command.id, command.vmid),
                timeout_s=math.ceil(within_s) + RQ_MARGIN_S,
                only_if=(create,),
            )
            on_record(command.id)
            if wait(woken, within_s + BEGIN_GRACE_S, lambda: self._find_begun(command)) is None:
                raise GuestCallExpiredError(TASKS[kind], _NO_ANSWER)
            yield command, woken

    def _new_command(self, principal: Principal, view: VmView, kind: CommandKind, request_id: str) -> Command:
        created_at = self.clock()
        return Command(
            id=ids.command_id(),
            vmid=view.vm.vmid,
            account=view.vm.account,
            node=view.vm.node,
            state=CommandState.QUEUED,
            created_at=created_at,
            deliver_by=created_at + timedelta(seconds=self.settings.exec_start_timeout_s),
            key_id=principal.key_id,
            request_id=request_id,
            kind=kind,
        )

    def _find_begun(self, command: Command) -> Command | None:
        """Read a transfer that is to begin; ``None`` while it hasn't.

        Raises:
            GuestCallError: It has ended instead.
        """
        found = self._find(command.id)
        if found is not None and found.state is CommandState.QUEUED:
            if self.store.run(commands.is_undelivered(command.id)):
                self._expire(command)
            return None
        if found is not None and found.state is CommandState.RUNNING:
            return found
        _insist_on_success(found)
        return found  # an empty file, read while nobody looked

    def _expire(self, command: Command) -> None:
        """End a transfer that nobody took in time.

        Raises:
            GuestCallExpiredError: It is ended.
        """
        end = CommandEnd(state=CommandState.EXPIRED, ended_at=self.clock(), message=_NO_ANSWER)
        try:
            self.store.run(commands.end(command.id, end, ttl_s=self.settings.exec_ttl_s))
        except IllegalMoveError:
            return
        raise GuestCallExpiredError(TASKS[command.kind], _NO_ANSWER)

    def _find(self, command_id: str) -> Command | None:
        return self.store.run(commands.find(command_id))

    def _find_ended(self, command_id: str) -> Command | None:
        command = self._find(command_id)
        return command if command is None or command.state.ended else None


def _within(limit_bytes: int, body: Iterable[bytes]) -> Iterator[bytes]:
    """Let a body pass up to a length.

    Raises:
        FileTooLargeError: It is longer.
    """
    size = 0
    for chunk in body:
        size += len(chunk)
        if size > limit_bytes:
            raise FileTooLargeError(limit_bytes)
        yield chunk


def _insist_on_success(command: Command | None) -> None:
    """Insist that all of a file arrived.

    Raises:
        GuestCallRefusedError: It didn't; a file that was to be written is as it was.
        GuestCallExpiredError: Nobody took it in time.
        GuestCallUnknownError: Nobody can know.
    """
    if command is None:
        raise GuestCallUnknownError("move the file", _GONE)
    task = TASKS[command.kind]
    match command.state:
        case CommandState.EXITED:
            return
        case CommandState.FAILED | CommandState.CANCELLED:
            raise GuestCallRefusedError(task, command.message or "The guest said no")
        case CommandState.EXPIRED:
            raise GuestCallExpiredError(task, command.message or _NO_ANSWER)
        case _:
            raise GuestCallUnknownError(task, command.message or _NO_END)
