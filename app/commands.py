"""The web half's road of a command: check, record, hand over, wait for its pid, have it killed.

Knows records, their waits and what an idempotency key means. Doesn't know HTTP, and never talks to a node or a guest.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from app.access import Principal
from app.allowed_commands import insist_on_allowed
from app.core import ids
from app.core.clock import now
from app.core.errors import (
    IdempotencyConflictError,
    IllegalMoveError,
    NotFoundError,
    StartExpiredError,
    StartRefusedError,
    StartUnknownError,
    StoreRefusedError,
    StoreUnavailableError,
    VmNotRunningError,
)
from app.core.queues import KILL_COMMAND, START_COMMAND
from app.core.records import Command, CommandEnd, CommandRequest, CommandState, VmStatus
from app.core.store import Call, Store, commands, idempotency, vms
from app.core.store.commands import Bounds
from app.core.store.idempotency import Reservation
from app.dispatch import Dispatch, insist_on_node
from app.guard import Guard
from app.inventory import Inventory, VmView
from app.order import Order
from app.results import Reach, Result, Results
from app.settings import WebSettings
from app.wakeups import REREAD_S, Waiter, Wakeups, wait

T = TypeVar("T")

REPLY_GRACE_S = 5.0
"""How much longer than the delivery deadline a claimed command's pid is waited for."""
RQ_MARGIN_S = 60
"""RQ may consider a job stuck this long after the command's own deadline."""
_COMING_UP = {VmStatus.STARTING, VmStatus.RUNNING}

_UNDELIVERED = "The command could not be delivered within {:g} s; it has not run and will not run"
_NO_REPLY = "The command was sent to the guest agent and no reply came; it may have run"
_STORE_LOST = "The data store went away while the command was being delivered; it may have run"
_GONE = "The record of the command is not in the data store any more; it may have run"
_OUT_OF_SIGHT = "The command was started; its VM or its record is not there any more, it may have run to its end"

Follow = Callable[[VmView, Command, Waiter], T]
"""Waits for what becomes of a command, and tells it."""


class _ChangedError(Exception):
    """The VM has to be read: it isn't what was remembered, or more than a memory of it is needed."""


@dataclass(frozen=True, slots=True)
class _Delivery(Generic[T]):
    """What one command is delivered for.

    Attributes:
        view: The VM.
        order: What is wanted.
        is_read: Whether the VM was read just now; otherwise it is looked at once more with the delivery.
        on_repeat: Called when another request has started the command.
        follow: What comes after the delivery.
    """

    view: VmView
    order: Order
    is_read: bool = field(kw_only=True)
    on_repeat: Callable[[], None]
    follow: Follow[T]


@dataclass(frozen=True)
class Commands:
    """Starts and kills commands.

    Attributes:
        store: Where records are.
        dispatch: The way to nodes.
        guard: Refuses catastrophic commands.
        wakeups: Tells when a record has changed.
        settings: Deadlines and times to live.
        results: Tells what became of commands.
        inventory: Knows VMs.
        clock: The time.
    """

    store: Store
    dispatch: Dispatch
    guard: Guard
    wakeups: Wakeups
    settings: WebSettings
    results: Results
    inventory: Inventory
    clock: Callable[[], datetime] = field(default=now)

    def start(
        self,
        principal: Principal,
        view: VmView,
        order: Order,
        request_id: str,
        *,
        idempotency_key: str | None,
        on_repeat: Callable[[], None],
    ) -> Command:
        """Start a command and wait until its pid is known.

        With an idempotency key, a command that was started with the same key before isn't started again: its outcome
        is told, whatever has become of the VM since.

        Effect: the line may run in the guest, at most once.

        Args:
            principal: Who asks.
            view: The VM.
            order: What is wanted.
            request_id: The HTTP request.
            idempotency_key: The caller's name for this start, if it has one.
            on_repeat: Called, before anything is waited for, when another request has started it.

        Raises:
            CommandBlockedError: The guard refuses the line.
            KeyLimitedError: The key may not run it.
            TooManyCommandsError: As many as may be are under way; it was not run.
            IdempotencyConflictError: The key stands for another order.
            NodeUnavailableError: No worker listens on the VM's node.
            VmNotRunningError: The VM is not running.
            StartRefusedError: The worker or the agent refused it; it has not run.
            StartExpiredError: It wasn't delivered in time; it has not run and will not.
            StartUnknownError: It was handed over and its fate isn't known; it may have run.
            StoreUnavailableError: Redis can't be used; it was not run.
        """

        def follow(_view: VmView, command: Command, woken: Waiter) -> Command:
            return self._await_pid(command, order, woken)

        return self._start(
            principal,
            view,
            order,
            request_id=request_id,
            idempotency_key=idempotency_key,
            on_repeat=on_repeat,
            follow=follow,
        )

    def run(
        self,
        principal: Principal,
        view: VmView,
        order: Order,
        request_id: str,
        *,
        idempotency_key: str | None,
        on_repeat: Callable[[], None],
    ) -> tuple[Reach, Result]:
        """Start a command as ``start`` does, and wait for its end as long as the order says.

        Effect: the line may run in the guest, at most once.

        Returns:
            What is known when it has ended, or when the time is up: its pid at least.

        Raises:
            StartUnknownError: As ``start`` raises it and all its others; or what was started can't be seen any more.
        """
        if order.wait_s == 0:
            started = self.start(
                principal, view, order, request_id, idempotency_key=idempotency_key, on_repeat=on_repeat
            )
            return view.reach, Result(started, b"", b"")

        def follow(view: VmView, command: Command, woken: Waiter) -> tuple[Reach, Result]:
            return self._await_outcome(principal, view, command, order, woken)

        try:
            return self._start(
                principal,
                view,
                order,
                request_id=request_id,
                idempotency_key=idempotency_key,
                on_repeat=on_repeat,
                follow=follow,
            )
        except NotFoundError as exc:
            raise StartUnknownError(_OUT_OF_SIGHT) from exc

    def kill(self, principal: Principal, view: VmView, pid: int) -> Command:
        """Have a running command killed and wait a while for its end. One that has ended stays as it ended.

        Effect: the command's process group is killed in the guest.

        Returns:
            The command; still running, if its end has not become known in time.

        Raises:
            NodeUnavailableError: No worker listens on the VM's node.
            NotFoundError: No command with this pid is known in the VM.
            StoreUnavailableError: Redis is away; the kill may have been asked for, and can be asked for again.
        """
        return self._kill(view, commands.request_kill(view.vm.vmid, pid, principal.sight))

    def cancel(self, principal: Principal, view: VmView, command_id: str) -> Command:
        """Do as ``kill`` does, to a command of any kind: one that isn't sent yet isn't sent then, a file is broken off.

        Effect: the command's process group is killed in the guest; a file that was to be written is as it was.

        Returns:
            The command; not ended yet, if its end has not become known in time.

        Raises:
            NodeUnavailableError: No worker listens on the VM's node.
            NotFoundError: The VM has no such command.
            StoreUnavailableError: Redis is away; it may have been asked for, and can be asked for again.
        """
        return self._kill(view, commands.request_cancel(view.vm.vmid, command_id, principal.sight))

    def _kill(self, view: VmView, request: Call[Command | None]) -> Command:
        """Have a kill noted, hand it over and wait for the end of the command.

        Raises:
            NotFoundError: There is no such command.
        """
        insist_on_node(view)
        command = self.store.run(request)
        if command is None:
            raise NotFoundError("Command")
        if command.state.ended:
            return command
        with self.wakeups.expect(command.id) as woken:
            self.dispatch.put(command.node, KILL_COMMAND, (command.id,), timeout_s=RQ_MARGIN_S)
            ended = wait(woken, self.settings.exec_kill_wait_s, lambda: self._find_ended(command.id))
        return ended or self._get(command.id)

    def _await_outcome(
        self, principal: Principal, view: VmView, command: Command, order: Order, woken: Waiter
    ) -> tuple[Reach, Result]:
        """Wait until a command has its pid, then for its end as long as the order says.

        Raises:
            StartFailedError: It got no pid.
            NotFoundError: The VM or the record has gone.
        """
        started = self._await_pid(command, order, woken)
        woken.not_for = CommandState.RUNNING
        news, wait_s = woken.news, order.wait_s
        if news.state == CommandState.RUNNING:
            wait_s -= time.monotonic() - news.heard_s
        else:
            woken.set()  # it may have ended already
        found = self.results.await_end(principal, started, woken, wait_s)
        if found is not None:
            return found
        if started.state.ended:  # never told without its output
            return view.reach, self.results.find(principal, started.vmid, started.id)
        return view.reach, Result(started, b"", b"")

    def _start(
        self,
        principal: Principal,
        view: VmView,
        order: Order,
        *,
        request_id: str,
        idempotency_key: str | None,
        on_repeat: Callable[[], None],
        follow: Follow[T],
    ) -> T:
        """Start a command in a VM as it is remembered; where it has changed, in the VM as it is."""
        self._check(principal, order.request)

        def attempt(view: VmView, *, is_read: bool) -> T:
            command = self._new_command(principal, view, order, request_id)
            delivery = _Delivery(view, order, is_read=is_read, on_repeat=on_repeat, follow=follow)
            return self._deliver_once(delivery, command, idempotency_key)

        try:
            return attempt(view, is_read=False)
        except _ChangedError:
            return attempt(self.inventory.reread_vm(principal, view.vm.vmid), is_read=True)

    def _deliver_once(self, delivery: _Delivery[T], command: Command, idempotency_key: str | None) -> T:
        """Deliver a command, unless its idempotency key stands for one that is there already.

        Raises:
            _ChangedError: The VM has to be read.
        """
        if idempotency_key is None:
            return self._deliver(delivery, command, together_with=())
        key = _digest(idempotency_key)
        reservation = self._reserve(command, delivery.order, key)
        command = replace(command, id=reservation.command_id)
        if not reservation.recorded:
            mark = idempotency.mark_recorded(command.account, command.vmid, key)
            return self._deliver(delivery, command, together_with=(mark,))
        if not delivery.is_read:
            raise _ChangedError
        return self._repeat(delivery, command)

    def _check(self, principal: Principal, request: CommandRequest) -> None:
        if principal.commands:
            insist_on_allowed(principal.commands, request)
        cwd = request.cwd or "/"
        if request.argv is None:
            self.guard.check_line(request.line, cwd=cwd, stdin=request.stdin)
        else:
            self.guard.check_argv(request.argv, cwd=cwd, stdin=request.stdin)

    def _new_command(self, principal: Principal, view: VmView, order: Order, request_id: str) -> Command:
        created_at = self.clock()
        return Command(
            id=ids.command_id(),
            vmid=view.vm.vmid,
            account=view.vm.account,
            node=view.vm.node,
            state=CommandState.QUEUED,
            created_at=created_at,
            deliver_by=created_at + timedelta(seconds=self._deliver_within_s(order)),
            timeout_s=order.timeout_s,
            wait_for_agent_s=order.wait_for_agent_s,
            key_id=principal.key_id,
            request_id=request_id,
        )

    def _deliver_within_s(self, order: Order) -> float:
        return self.settings.exec_start_timeout_s + order.wait_for_agent_s

    def _reserve(self, command: Command, order: Order, key_sha256: str) -> Reservation:
        """Reserve an idempotency key for a new command, or find out which command it stands for.

        Raises:
            IdempotencyConflictError: The key stands for another order.
        """
        fingerprint = order.fingerprint()
        reservation = self.store.run(
            idempotency.reserve(
                command.account, command.vmid, key_sha256, fingerprint=fingerprint, command_id=command.id
            )
        )
        if reservation.fingerprint != fingerprint:
            raise IdempotencyConflictError
        return reservation

    def _deliver(self, delivery: _Delivery[T], command: Command, *, together_with: tuple[Call[bool], ...]) -> T:
        """Hand a command over that nobody had recorded a moment ago.

        Raises:
            StoreRefusedError: Redis takes nothing; it was not run.
            StartUnknownError: Redis went away meanwhile, so whether it was recorded can't be known.
            _ChangedError: The VM has to be read; nothing is done.
        """
        view, order = delivery.view, delivery.order
        insist_on_node(view)
        _insist_on_running(view, order)
        within_s = self._deliver_within_s(order)
        bounds = Bounds(self.settings.exec_max_running_per_vm, self.settings.exec_max_running_per_key)
        create = commands.create(command, order.request, deliver_within_s=within_s, bounds=bounds)
        only_if = (create,) if delivery.is_read else (vms.is_still(view), create)
        with self.wakeups.expect(command.id, not_for=self._not_for(order)) as woken:
            try:
                told = self.dispatch.put(
                    command.node,
                    START_COMMAND,
                    (command.id, command.vmid),
                    timeout_s=math.ceil(within_s) + RQ_MARGIN_S,
                    only_if=only_if,
                    together_with=together_with,
                )
            except StoreRefusedError:
                raise
            except StoreUnavailableError as exc:
                raise StartUnknownError(_STORE_LOST) from exc
            if len(told) < len(only_if):
                raise _ChangedError
            created = told[-1]
            if not created:  # an equal request was quicker
                return self._repeat(delivery, command)
            return delivery.follow(view, command, woken)

    def _repeat(self, delivery: _Delivery[T], command: Command) -> T:
        delivery.on_repeat()
        with self.wakeups.expect(command.id, not_for=self._not_for(delivery.order)) as woken:
            woken.set()  # what was told of it before has woken nobody here
            return delivery.follow(delivery.view, command, woken)

    def _await_pid(self, command: Command, order: Order, woken: Waiter) -> Command:
        """Wait until a command has its pid, which mostly comes with the news.

        Raises:
            StartUnknownError: No news of it came; or, of its sisters, the one that tells why it got none.
        """

        def look() -> Command | None:
            if (pid := woken.news.pid) is not None:
                return replace(command, pid=pid, state=CommandState.RUNNING)  # its end isn't told without output
            return self._find_started(command.id, order)

        started = wait(woken, self._deliver_within_s(order) + REPLY_GRACE_S, look)
        if started is None:
            raise StartUnknownError(_NO_REPLY)
        return started

    def _find_started(self, command_id: str, order: Order) -> Command | None:
        started = _started(self.store.run(commands.find(command_id)))
        if started is None and self.store.run(commands.is_undelivered(command_id)):
            self._expire(command_id, order)
        return started

    def _not_for(self, order: Order) -> str:
        """Tell which news needn't wake who starts a command: of its pid, where its end is what will be waited for."""
        waits = order.wait_s >= REREAD_S and self.results.may_wait()
        return CommandState.RUNNING if waits else ""

    def _expire(self, command_id: str, order: Order) -> None:
        """End a command that nobody took in time.

        Raises:
            StartExpiredError: It is ended.
        """
        reason = _UNDELIVERED.format(self._deliver_within_s(order))
        end = CommandEnd(state=CommandState.EXPIRED, ended_at=self.clock(), message=reason)
        try:
            self.store.run(commands.end(command_id, end, ttl_s=self.settings.exec_ttl_s))
        except IllegalMoveError:
            return
        raise StartExpiredError(reason)

    def _get(self, command_id: str) -> Command:
        command = self.store.run(commands.find(command_id))
        if command is None:
            raise NotFoundError("Command")
        return command

    def _find_ended(self, command_id: str) -> Command | None:
        command = self._get(command_id)
        return command if command.state.ended else None


def _insist_on_running(view: VmView, order: Order) -> None:
    """Insist that a command can run in the VM now, or, if it may wait, soon.

    Raises:
        VmNotRunningError: It can't.
    """
    soon = order.wait_for_agent_s > 0 and view.vm.status in _COMING_UP
    if not (view.vm.running or soon):
        raise VmNotRunningError(view.vm.vmid, view.vm.status)


def _started(command: Command | None) -> Command | None:
    """Tell a command that has a pid from one that may still get one.

    Raises:
        StartRefusedError: It was refused.
        StartExpiredError: It expired.
        StartUnknownError: It was sent without a reply, or its record is gone.
    """
    if command is None:
        raise StartUnknownError(_GONE)
    if command.pid is not None:
        return command
    match command.state:
        case CommandState.QUEUED:
            return None
        case CommandState.UNKNOWN:
            raise StartUnknownError(command.message or _NO_REPLY)
        case CommandState.EXPIRED:
            raise StartExpiredError(command.message or "Nobody took the command in time; it has not run")
        case _:
            raise StartRefusedError(command.message or "The command was refused; it has not run")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
