"""Asking a guest's agent on behalf of a request: claimed once, sent once, its outcome written down.

What can be asked stands in a table here: the web half names an action, never an RPC. A secret is in this process from
the claim to the reply, and nowhere else.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.core import store
from app.core.clock import now
from app.core.errors import AgentError, AgentRefusedError, AgentUnavailableError, Effect
from app.core.records import GuestAction, GuestCall, GuestCallState
from app.core.store.guest_calls import Claim
from workers.commands.outcome import Outcomes
from workers.hiding import hide
from workers.qga import settings
from workers.qga.channel import AgentFacts, Channel

_log = logging.getLogger(__name__)

_NOT_DELIVERED = "It was not delivered in time; nothing was done"
_SECRET_GONE = "The data store went away at the wrong moment; nothing was done"  # nosec B105  # noqa: S105 - a sentence
_ADMINISTRATORS = {False: "root", True: "Administrator"}
"""Whose password and keys are meant, by whether the guest runs Windows."""


class Guest(Protocol):
    """What asking needs of a VM."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class _Action:
    """How an action is performed.

    Attributes:
        rpc: The agent's name for it.
        dump: Writes its arguments, for an administrator of this name.
        load: Reads what the agent returned, into our own words.
        needs_secret: Whether it can't be sent without the call's secret.
        without_file: What is told where the agent says that there is no such file.
    """

    rpc: str
    dump: Callable[[str, Claim], dict[str, object]]
    load: Callable[[Any], dict[str, Any]]
    needs_secret: bool = False
    without_file: dict[str, Any] | None = None


_ACTIONS: Mapping[GuestAction, _Action] = {
    GuestAction.GET_HOSTNAME: _Action(
        "guest-get-host-name",
        dump=lambda _administrator, _claim: {},
        load=lambda reply: {"hostname": settings.load_hostname(reply)},
    ),
    GuestAction.SET_PASSWORD: _Action(
        "guest-set-user-password",
        dump=lambda administrator, claim: settings.dump_password(administrator, claim.secret or ""),
        load=lambda _reply: {},
        needs_secret=True,
    ),
    GuestAction.GET_SSH_KEYS: _Action(
        "guest-ssh-get-authorized-keys",
        dump=lambda administrator, _claim: {"username": administrator},
        load=lambda reply: {"keys": settings.load_ssh_keys(reply)},
        without_file={"keys": []},
    ),
    GuestAction.SET_SSH_KEYS: _Action(
        "guest-ssh-add-authorized-keys",
        dump=lambda administrator, claim: settings.dump_ssh_keys(administrator, claim.call.keys),
        load=lambda _reply: {},
    ),
}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of a call, as its record will say it."""

    state: GuestCallState
    value: dict[str, Any] | None = None
    message: str | None = None


class GuestCalls:
    """Performs guest calls; many at once, on one loop."""

    def __init__(self, outcomes: Outcomes, find_vm: Callable[[int], Guest | None], *, rpc_timeout_s: float) -> None:
        self._outcomes = outcomes
        self._find_vm = find_vm
        self._rpc_timeout_s = rpc_timeout_s

    async def perform(self, call_id: str, vmid: int) -> None:
        """Perform one guest call, whatever comes of it: the outcome is in its record.

        The channel is opened first, because that is harmless and may take long; then the call is claimed, which only
        one worker can do only once and only before the delivery deadline; then it is sent.

        Effect: what the action does in the guest, at most once.
        """
        try:
            channel, facts = await self._open(vmid)
        except AgentError as exc:
            # Claimed all the same: only who has the claim may say that nothing was done.
            claim = await self._claim(call_id)
            outcome = _failed(str(exc))
        else:
            claim = await self._claim(call_id)
            outcome = await self._ask(claim, channel, facts) if claim else _failed(_NOT_DELIVERED)
        if claim is not None:  # who waits for a call that nobody may claim finds out by the clock
            await self._end(claim.call, outcome)

    async def _open(self, vmid: int) -> tuple[Channel, AgentFacts]:
        guest = self._find_vm(vmid)
        if guest is None:
            raise AgentUnavailableError("this node no longer carries the VM")
        return guest.channel, await guest.channel.open()

    async def _claim(self, call_id: str) -> Claim | None:
        return await self._outcomes.persist(store.guest_calls.claim(call_id))

    async def _ask(self, claim: Claim, channel: Channel, facts: AgentFacts) -> _Outcome:
        action = _ACTIONS[claim.call.action]
        if claim.late:
            return _Outcome(GuestCallState.EXPIRED, message=_NOT_DELIVERED)
        if action.needs_secret and claim.secret is None:
            return _failed(_SECRET_GONE)
        if action.rpc not in facts.enabled:
            return _failed(f"{action.rpc} is disabled in the guest's QEMU Guest Agent, or the agent is too old for it")
        try:
            return await self._send(action, claim, channel, _ADMINISTRATORS[facts.windows])
        except AgentError as exc:
            return _judge(exc, action, claim)

    async def _send(self, action: _Action, claim: Claim, channel: Channel, administrator: str) -> _Outcome:
        arguments = action.dump(administrator, claim)
        reply = await channel.call(action.rpc, arguments, timeout_s=self._rpc_timeout_s)
        return _Outcome(GuestCallState.DONE, value=action.load(reply))

    async def _end(self, call: GuestCall, outcome: _Outcome) -> None:
        end = store.guest_calls.end(call.id, outcome.state, now(), value=outcome.value, message=outcome.message)
        await self._outcomes.persist(end)
        extra = {"call_id": call.id, "vmid": call.vmid, "action": call.action, "state": outcome.state}
        _log.info("guest_call_ended", extra=extra | {"request_id": call.request_id})


def _judge(exc: AgentError, action: _Action, claim: Claim) -> _Outcome:
    """Find out what an error means for the guest."""
    if isinstance(exc, AgentRefusedError) and action.without_file is not None and settings.has_no_file(exc):
        return _Outcome(GuestCallState.DONE, value=action.without_file)
    message = hide(str(exc), claim.secret or "")
    if claim.call.action.changes and exc.effect is Effect.UNKNOWN:
        return _Outcome(GuestCallState.UNKNOWN, message=f"It may have been done: {message}")
    return _failed(message)


def _failed(message: str) -> _Outcome:
    return _Outcome(GuestCallState.FAILED, message=message)
