"""Settings of a guest that are read and set through its agent: hostname, password, SSH keys.

Knows what is asked of the guest for each of them. Doesn't know HTTP, nor how a guest is reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from app.access import Principal
from app.commands import Commands
from app.core.errors import (
    GuestCallError,
    GuestCallExpiredError,
    GuestCallRefusedError,
    GuestCallUnknownError,
    StartExpiredError,
    StartFailedError,
    StartRefusedError,
    UnavailableError,
)
from app.core.records import CommandRequest, CommandState, GuestAction, SshKey
from app.guest_calls import GuestCalls, Patience, insist_on_guest
from app.inventory import VmView
from app.order import Order
from app.results import Result

GLANCE = Patience(deliver_s=1.0, reply_s=0.0)
"""For a hostname that is shown if it comes at once, and not missed otherwise."""

_TASK = "change hostname"
"""Source: HostUp v1 docs, POST hostname: "VM must be running to change hostname"."""
_TIMEOUT_S = 15.0
_WAIT_S = _TIMEOUT_S + 10.0
_LINE = """
hostnamectl set-hostname "$OWNUP_HOSTNAME" 2>/dev/null || {
    old=$(hostname) && hostname "$OWNUP_HOSTNAME" && {
        printf '%s\\n' "$OWNUP_HOSTNAME" >/etc/hostname || { hostname "$old"; false; }
    }
} || exit
hostname
"""
"""The agent has no RPC for it. Prints the name the guest has then; where that can't be kept, the old one is back."""
_MOST_WORDS_CHARS = 500

_NO_END = "The guest was still at it when the time was up; it may have been done"


@dataclass(frozen=True)
class GuestSettings:
    """Reads and sets what a guest's agent can reach.

    Attributes:
        calls: Ask the agent.
        commands: Run what it has no RPC for.
    """

    calls: GuestCalls
    commands: Commands

    def glance_at_hostname(self, principal: Principal, view: VmView, request_id: str) -> str | None:
        """Ask a guest for its hostname, and do without where it can't be told at once."""
        if not view.vm.agent_available:
            return None
        try:
            value = self.calls.ask(principal, view, GuestAction.GET_HOSTNAME, request_id, patience=GLANCE)
        except (GuestCallError, UnavailableError):
            return None
        return cast("str", value["hostname"])

    def set_hostname(self, principal: Principal, view: VmView, hostname: str, request_id: str) -> str:
        """Give a guest another hostname, now and for its next boots.

        Effect: the guest's hostname changes, at most once.

        Returns:
            The hostname as it is saved, and as the guest says it.

        Raises:
            VmNotRunningError: The VM is not running.
            NodeUnavailableError: No worker listens on the VM's node.
            GuestCallRefusedError: It is not changed.
            GuestCallExpiredError: It is not changed and will not be.
            GuestCallUnknownError: It may be changed.
        """
        insist_on_guest(view, _TASK)
        wanted = normalise_hostname(hostname)
        request = CommandRequest(line=_LINE, env={"OWNUP_HOSTNAME": wanted})
        order = Order(request=request, timeout_s=_TIMEOUT_S, wait_s=_WAIT_S)
        _check(self._run(principal, view, order, request_id), wanted)
        return wanted

    def set_password(self, principal: Principal, view: VmView, password: str, request_id: str) -> None:
        """Give a guest's administrator another password.

        Effect: the password changes, at most once.

        Raises:
            OwnUpError: As ``GuestCalls.ask`` says.
        """
        self.calls.ask(principal, view, GuestAction.SET_PASSWORD, request_id, secret=password)

    def ssh_keys(self, principal: Principal, view: VmView, request_id: str) -> tuple[str, ...]:
        """Ask a guest which SSH keys its administrator may log in with: the lines, as they are.

        Raises:
            OwnUpError: As ``GuestCalls.ask`` says.
        """
        return tuple(self.calls.ask(principal, view, GuestAction.GET_SSH_KEYS, request_id)["keys"])

    def set_ssh_keys(self, principal: Principal, view: VmView, keys: Sequence[SshKey], request_id: str) -> None:
        """Let a guest's administrator log in with these SSH keys, and with no others.

        Effect: the keys in the guest are replaced, at most once.

        Raises:
            OwnUpError: As ``GuestCalls.ask`` says.
        """
        lines = tuple(key.public_key for key in keys)
        self.calls.ask(principal, view, GuestAction.SET_SSH_KEYS, request_id, keys=lines)

    def _run(self, principal: Principal, view: VmView, order: Order, request_id: str) -> Result:
        try:
            return self.commands.run(principal, view, order, request_id, idempotency_key=None, on_repeat=lambda: None)[
                1
            ]
        except StartFailedError as exc:
            raise _as_guest_call(exc) from exc


def normalise_hostname(hostname: str) -> str:
    """Write a hostname as it is saved: small letters, and no dot at the end."""
    return hostname.removesuffix(".").lower()


def _as_guest_call(exc: StartFailedError) -> GuestCallError:
    """Tell of a command of ours that didn't start what it means for the hostname."""
    if isinstance(exc, StartRefusedError):
        return GuestCallRefusedError(_TASK, exc.reason)
    if isinstance(exc, StartExpiredError):
        return GuestCallExpiredError(_TASK, exc.reason)
    return GuestCallUnknownError(_TASK, exc.reason)


def _check(result: Result, hostname: str) -> None:
    """Insist that the guest has the hostname.

    Raises:
        GuestCallRefusedError: It has the old one.
        GuestCallUnknownError: Nobody knows.
    """
    command = result.command
    if command.state is not CommandState.EXITED:
        raise GuestCallUnknownError(_TASK, command.message or _NO_END)
    if command.exit_code != 0:
        raise GuestCallRefusedError(_TASK, f"The guest said: {_words(result.stderr)}")
    if _words(result.stdout) != hostname:
        raise GuestCallRefusedError(_TASK, f"The guest still calls itself {_words(result.stdout)}")


def _words(output: bytes) -> str:
    return output.decode(errors="replace").strip()[:_MOST_WORDS_CHARS]
