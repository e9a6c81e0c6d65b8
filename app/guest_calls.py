"""The web half's road of a guest call: record, hand over, wait for what came of it.

Knows records and their waits. Doesn't know HTTP, nor the agent's RPCs, and never talks to a node or a guest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.access import Principal
from app.core import ids
from app.core.clock import now
from app.core.errors import (
    GuestCallExpiredError,
    GuestCallRefusedError,
    GuestCallUnknownError,
    StoreRefusedError,
    StoreUnavailableError,
    VmNotRunningError,
)
from app.core.queues import ASK_AGENT
from app.core.records import GuestAction, GuestCall, GuestCallState
from app.core.store import Store, guest_calls
from app.dispatch import Dispatch, insist_on_node
from app.inventory import VmView
from app.settings import WebSettings
from app.wakeups import Waiter, Wakeups, wait

REPLY_GRACE_S = 10.0
"""How much longer than the delivery deadline the outcome of a claimed call is waited for."""
RQ_MARGIN_S = 60
"""RQ may consider a job stuck this long after the call's own deadline."""

TASKS = {
    GuestAction.GET_HOSTNAME: "read hostname",
    GuestAction.SET_PASSWORD: "reset password",
    GuestAction.GET_SSH_KEYS: "read SSH keys",
    GuestAction.SET_SSH_KEYS: "reset SSH keys",
}
"""What each action is called. Source: HostUp v1 docs, POST reset-ssh-keys: "Failed to reset SSH keys"."""

_NO_REPLY = "It was handed over and nothing came back; it may have been done"
_NO_ANSWER = "The guest did not answer in time"
_NOT_TAKEN = "It could not be delivered in time; nothing was done"
_STORE_LOST = "The data store went away meanwhile; it may have been done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a guest call may take.

    Attributes:
        deliver_s: Until a worker has claimed it; then nobody may any more.
        reply_s: From then on until its outcome is known.
    """

    deliver_s: float
    reply_s: float = REPLY_GRACE_S


@dataclass(frozen=True)
class GuestCalls:
    """Has guests' agents asked.

    Attributes:
        store: Where records are.
        dispatch: The way to nodes.
        wakeups: Tells when a record has changed.
        settings: Deadlines.
        clock: The time.
    """

    store: Store
    dispatch: Dispatch
    wakeups: Wakeups
    settings: WebSettings
    clock: Callable[[], datetime] = field(default=now)

    def ask(
        self,
        principal: Principal,
        view: VmView,
        action: GuestAction,
        request_id: str,
        *,
        keys: tuple[str, ...] = (),
        secret: str | None = None,
        patience: Patience | None = None,
    ) -> dict[str, Any]:
        """Ask a VM's agent and wait for what it says.

        Effect: what the action does in the guest, at most once.

        Args:
            principal: Who asks.
            view: The VM.
            action: What is asked for.
            request_id: The HTTP request.
            keys: As in ``GuestCall``.
            secret: What only the worker may read, once.
            patience: How long it may take; as long as the start of a command by default.

        Raises:
            NodeUnavailableError: No worker listens on the VM's node.
            VmNotRunningError: The VM is not running.
            GuestCallRefusedError: The worker or the guest said no; it is not done.
            GuestCallExpiredError: It wasn't delivered in time and will not be done, or what was read came too late.
            GuestCallUnknownError: It was handed over and its fate isn't known; it may be done.
            StoreUnavailableError: Redis went away, and there is nothing that may have been done.
        """
        insist_on_guest(view, TASKS[action])
        patience = patience or Patience(deliver_s=self.settings.exec_start_timeout_s)
        call = self._new_call(principal, view, action, request_id=request_id, keys=keys, patience=patience)
        with self.wakeups.expect(call.id) as woken:
            self._put(call, secret, patience)
            return self._await_value(call, woken, patience)

    def _new_call(
        self,
        principal: Principal,
        view: VmView,
        action: GuestAction,
        *,
        request_id: str,
        keys: tuple[str, ...],
        patience: Patience,
    ) -> GuestCall:
        created_at = self.clock()
        return GuestCall(
            id=ids.command_id(),
            vmid=view.vm.vmid,
            account=view.vm.account,
            node=view.vm.node,
            action=action,
            keys=keys,
            state=GuestCallState.QUEUED,
            created_at=created_at,
            deliver_by=created_at + timedelta(seconds=patience.deliver_s),
            key_id=principal.key_id,
            request_id=request_id,
        )

    def _put(self, call: GuestCall, secret: str | None, patience: Patience) -> None:
        """Record a call and hand it over.

        Raises:
            StoreRefusedError: Redis takes nothing; nothing was asked of the guest.
            GuestCallUnknownError: Redis went away, so whether it was recorded can't be known.
            StoreUnavailableError: The same, where it matters to nobody.
        """
        create = guest_calls.create(call, secret=secret, deliver_within_s=patience.deliver_s)
        try:
            self.dispatch.put(
                call.node,
                ASK_AGENT,
                (call.id, call.vmid),
                timeout_s=math.ceil(patience.deliver_s) + RQ_MARGIN_S,
                only_if=(create,),
            )
        except StoreRefusedError:
            raise
        except StoreUnavailableError as exc:
            if not call.action.changes:
                raise
            raise GuestCallUnknownError(TASKS[call.action], _STORE_LOST) from exc

    def _await_value(self, call: GuestCall, woken: Waiter, patience: Patience) -> dict[str, Any]:
        ended = wait(woken, patience.deliver_s + patience.reply_s, lambda: self._find_ended(call.id))
        if ended is not None:
            return _value(ended)
        if call.action.changes:
            raise GuestCallUnknownError(TASKS[call.action], _NO_REPLY)
        raise GuestCallExpiredError(TASKS[call.action], _NO_ANSWER)

    def _find_ended(self, call_id: str) -> GuestCall | None:
        call = self.store.run(guest_calls.read(call_id))
        return None if call is None or call.state is GuestCallState.QUEUED else call


def insist_on_guest(view: VmView, task: str) -> None:
    """Insist that there is a guest, and a worker that can reach it.

    Args:
        view: The VM.
        task: What is to be done: a verb and its object, for people.

    Raises:
        NodeUnavailableError: No worker listens on the VM's node.
        VmNotRunningError: The VM is not running.
    """
    insist_on_node(view)
    if not view.vm.running:
        raise VmNotRunningError(view.vm.vmid, view.vm.status, task)


def _value(call: GuestCall) -> dict[str, Any]:
    """Tell what the agent told.

    Raises:
        GuestCallRefusedError: It, or the worker, said no.
        GuestCallExpiredError: Nobody took the call in time.
        GuestCallUnknownError: The call was sent without a reply.
    """
    task = TASKS[call.action]
    match call.state:
        case GuestCallState.DONE:
            return call.value or {}
        case GuestCallState.EXPIRED:
            raise GuestCallExpiredError(task, call.message or _NOT_TAKEN)
        case GuestCallState.UNKNOWN:
            raise GuestCallUnknownError(task, call.message or _NO_REPLY)
        case _:
            raise GuestCallRefusedError(task, call.message or "The guest said no")
