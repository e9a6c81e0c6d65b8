"""Every error of OwnUp, in one tree.

An error says three stable things, whatever face shows it: its ``code`` (for programs), its ``title`` (for people) and
its ``effect``: what it means for the guest. Instances carry facts; the text is derived from them. Which HTTP status and
which body an error gets is decided by each face, not here.

::

    OwnUpError
    ├── SettingsError                 an environment variable is wrong
    ├── InvalidRequestError           the caller's input is wrong; says which fields
    │   └── CommandBlockedError       the command is on the list of catastrophic ones
    ├── UnauthorizedError             no key, or one that doesn't count
    ├── ForbiddenError                a good key without the scope
    │   └── KeyLimitedError           … or one that is limited to other things than this
    ├── NotFoundError                 no such thing *for this caller*
    ├── IdempotencyConflictError      the key was used before, with another body
    ├── RateLimitedError              more was asked for in a time than is allowed
    ├── TooManyCommandsError          as many commands are under way as may be
    ├── VmNotRunningError             the VM is off
    ├── GateClosedError               what is wanted makes no sense as the VM is now
    ├── SnapshotExistsError           the VM has a snapshot of that name
    ├── StartFailedError              a command that didn't get a pid
    │   ├── StartRefusedError         … and has not run
    │   ├── StartExpiredError         … nobody took it in time; it has not run and will not
    │   └── StartUnknownError         … and may have run
    ├── GuestCallError                a guest's agent was to do something, and didn't say that it has
    │   ├── GuestCallRefusedError     … it is not done
    │   ├── GuestCallExpiredError     … nobody took it in time; it is not done and will not be
    │   └── GuestCallUnknownError     … and may be done
    ├── TransferBrokenError           a file didn't get all the way
    ├── FileTooLargeError             a file is longer than may be sent
    ├── SshKeyRefusedError            a public SSH key can't be kept
    ├── UnavailableError              a part of OwnUp is away
    │   ├── NodeUnavailableError      no worker listens on the VM's node
    │   └── StoreUnavailableError     Redis doesn't answer
    │       └── StoreRefusedError     … and nothing was done: it takes no connection, is full or a replica
    ├── IllegalMoveError              a record was to move where it can't
    ├── DefinitionError               a VM definition file is wrong
    ├── SocketTakenError              another process of this host owns a VM's socket
    ├── AgentError                    the guest agent
    │   ├── AgentUnavailableError     nobody there; the request was never sent
    │   │   └── AgentAbsentError      … because nobody listens on the socket: the VM is off
    │   ├── AgentSilentError          sent, and no reply came
    │   ├── AgentRefusedError         the agent said no
    │   └── AgentProtocolError        the far end doesn't speak the protocol
    ├── MonitorError                  QEMU's monitor (QMP) is away or said no
    │   └── MonitorAbsentError        … because nobody listens on the socket: the VM is off
    ├── PowerError                    a power action can't be done
    └── SnapshotError                 nothing can be done to a snapshot
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar


class Effect(StrEnum):
    """What an error means for the guest."""

    NONE = "none"
    """The guest was not asked anything."""
    REFUSED = "refused"
    """The guest, or QEMU, was asked and declined: nothing ran."""
    UNKNOWN = "unknown"
    """The guest was asked and didn't answer: it may have run."""


class ProblemKind(StrEnum):
    """In which way a part of a request is wrong (HostUp v2 docs, conventions, show ``missing_required``)."""

    INVALID = "invalid_value"
    MISSING = "missing_required"
    UNKNOWN = "unknown_field"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request.

    Attributes:
        field: The field, query parameter or path part it is about, as the caller spells it.
        message: What is wrong with it and what would be right.
        kind: In which way it is wrong.
        within: The fields that hold it, outermost first.
    """

    field: str
    message: str
    kind: ProblemKind = ProblemKind.INVALID
    within: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The field with those that hold it, separated by dots."""
        return ".".join((*self.within, self.field))


class OwnUpError(Exception):
    """The root of every error that OwnUp raises on purpose."""

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    effect: ClassVar[Effect] = Effect.NONE

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The details a caller can act on; empty where the message says it all."""
        return ()


class SettingsError(OwnUpError):
    """The environment doesn't make a usable configuration."""

    code = "invalid_settings"
    title = "Invalid settings"


class InvalidRequestError(OwnUpError):
    """The caller sent something that can't be accepted."""

    code = "invalid_request"
    title = "Validation failed"

    def __init__(self, *problems: Problem) -> None:
        self._problems = problems
        super().__init__("; ".join(f"{problem.name}: {problem.message}" for problem in problems))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong, field by field."""
        return self._problems


class CommandBlockedError(InvalidRequestError):
    """The command is one of those that only ever happen by accident."""

    code = "command_blocked"
    title = "Command blocked"

    def __init__(self, rule: str) -> None:
        self.rule = rule
        super().__init__(Problem("command", f"blocked by rule {rule!r}"))

    def __str__(self) -> str:
        """HostUp's own words (HostUp v1 docs, POST agent/exec, 400)."""
        return "This command has been blocked for safety reasons"


class UnauthorizedError(OwnUpError):
    """There is no key in the request, or one that is wrong, revoked or expired."""

    code = "unauthorized"
    title = "Unauthorized"


class ForbiddenError(OwnUpError):
    """The key is good and lacks the scope."""

    code = "forbidden"
    title = "Forbidden"

    def __init__(self, scope: str) -> None:
        self.scope = scope
        super().__init__(f"This API key lacks the scope {scope}")


class KeyLimitedError(ForbiddenError):
    """The key has the scope, and its owner has limited it to other things than this; the text says to what."""

    code = "key_limited"
    title = "API key limited"

    def __init__(self, limit: str) -> None:
        self.limit = limit
        OwnUpError.__init__(self, f"This API key is limited: {limit}")


class NotFoundError(OwnUpError):
    """The thing doesn't exist for this caller; another account's thing doesn't exist either."""

    code = "not_found"
    title = "Not found"

    def __init__(self, thing: str) -> None:
        self.thing = thing
        super().__init__(f"{thing} not found")


class IdempotencyConflictError(OwnUpError):
    """The Idempotency-Key was used before, for another request."""

    code = "idempotency_conflict"
    title = "Conflict"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used before with another body; nothing was run")


class RateLimitedError(OwnUpError):
    """More requests, or more wrong keys, were sent in a time than is allowed.

    Attributes:
        limit: How many are allowed.
        remaining: How many are left.
        reset: When the next one will be allowed.
        retry_after_s: How long that takes from now, in whole seconds.
    """

    code = "rate_limited"
    title = "Rate limit exceeded"

    def __init__(self, limit: int, remaining: int, reset: datetime, retry_after_s: int) -> None:
        self.limit = limit
        self.remaining = remaining
        self.reset = reset
        self.retry_after_s = retry_after_s
        super().__init__("Rate limit exceeded. Please try again later.")


class TooManyCommandsError(OwnUpError):
    """As many commands are under way as may be, in the VM or with the API key; this one was not run.

    Attributes:
        whose: ``vm`` or ``key``.
        limit: How many may be.
    """

    code = "too_many_commands"
    title = "Too many commands"

    def __init__(self, whose: str, limit: int) -> None:
        self.whose = whose
        self.limit = limit
        name = {"vm": "This VM", "key": "This API key"}[whose]
        super().__init__(f"{name} has {limit} commands under way, which is as many as it may have; nothing was run")


class VmNotRunningError(OwnUpError):
    """The VM is not running, so nothing can be done in it."""

    code = "vm_not_running"
    title = "VM not running"

    def __init__(self, vmid: int, status: str, task: str = "execute commands") -> None:
        self.vmid = vmid
        self.status = status
        super().__init__(f"VM must be running to {task}")


class GateClosedError(OwnUpError):
    """What is wanted makes no sense as the VM is now; reading it shows this too, as a closed gate.

    Attributes:
        gate: Name of the gate, for instance ``canStart``.
        reason: Why it is closed, for people.
        gate_code: Why it is closed, for programs.
    """

    code = "gate_closed"
    title = "Not possible now"

    def __init__(self, gate: str, reason: str, gate_code: str) -> None:
        self.gate = gate
        self.reason = reason
        self.gate_code = gate_code
        super().__init__(reason)


class SnapshotExistsError(OwnUpError):
    """The VM has a snapshot of the name that a new one was to have."""

    code = "snapshot_exists"
    title = "Snapshot exists"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"A snapshot named {name} exists already")


class StartFailedError(OwnUpError):
    """A command got no pid. The subclass says whether it can have run."""

    code = "start_failed"
    title = "Command not started"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__("Failed to execute command - no PID returned")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why there is no pid."""
        return (Problem("command", self.reason),)


class StartRefusedError(StartFailedError):
    """The command was refused before it started: it has not run."""

    code = "start_refused"
    effect = Effect.REFUSED


class StartExpiredError(StartFailedError):
    """Nobody took the command before its delivery deadline: it has not run and will not run."""

    code = "start_expired"
    title = "Command not delivered in time"


class StartUnknownError(StartFailedError):
    """The command was sent to the agent and no reply came: it may have run."""

    code = "start_unknown"
    title = "Command outcome unknown"
    effect = Effect.UNKNOWN


class GuestCallError(OwnUpError):
    """A guest's agent was asked to do something, and it isn't known to be done. The subclass says what may be."""

    code = "guest_call_failed"
    title = "Guest not changed"

    def __init__(self, task: str, reason: str) -> None:
        self.task = task
        self.reason = reason
        super().__init__(f"Failed to {task}")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why, in the agent's own words where it gave some."""
        return (Problem("guest", self.reason),)


class GuestCallRefusedError(GuestCallError):
    """It was not sent, or the guest said no: it is not done."""

    code = "guest_call_refused"
    effect = Effect.REFUSED


class GuestCallExpiredError(GuestCallError):
    """Nobody took it before its delivery deadline: it is not done and will not be."""

    code = "guest_call_expired"
    title = "Guest not asked in time"


class GuestCallUnknownError(GuestCallError):
    """It was sent and no reply came: it may be done."""

    code = "guest_call_unknown"
    title = "Guest call outcome unknown"
    effect = Effect.UNKNOWN


class TransferBrokenError(OwnUpError):
    """A file on its way between a client and a guest didn't get all the way; the text says why."""

    code = "transfer_broken"
    title = "Transfer broken off"


class FileTooLargeError(OwnUpError):
    """A file is longer than may be sent to a guest, or read from one."""

    code = "file_too_large"
    title = "File too large"

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"The file must be at most {limit_bytes} bytes long")


class SshKeyRefusedError(OwnUpError):
    """A public SSH key is in order and isn't kept all the same."""

    code = "ssh_key_refused"
    title = "SSH key not added"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__("Failed to add SSH key")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why."""
        return (Problem("key", self.reason),)


class UnavailableError(OwnUpError):
    """A part of OwnUp itself is away; the caller may try again later."""

    code = "unavailable"
    title = "Service unavailable"


class NodeUnavailableError(UnavailableError):
    """No worker listens on the node that carries the VM."""

    code = "node_unavailable"

    def __init__(self, node: str) -> None:
        self.node = node
        super().__init__(f"Node {node} is not reachable: no worker is listening for it")


class StoreUnavailableError(UnavailableError):
    """Redis doesn't answer."""

    code = "store_unavailable"

    def __init__(self, message: str = "The data store is not reachable at the moment") -> None:
        super().__init__(message)


class StoreRefusedError(StoreUnavailableError):
    """Redis takes nothing for now, or no connection: what was to be done isn't, so that it can be tried again."""

    def __init__(self, message: str = "The data store takes nothing new at the moment") -> None:
        super().__init__(message)


class IllegalMoveError(OwnUpError):
    """A record was asked to move to a state that can't follow its present one."""

    code = "illegal_move"

    def __init__(self, record_id: str, present: str, wanted: str) -> None:
        self.record_id = record_id
        self.present = present
        self.wanted = wanted
        super().__init__(f"record {record_id} is {present} and can't become {wanted}")


class DefinitionError(OwnUpError):
    """A VM definition file can't be used."""

    code = "invalid_definition"
    title = "Invalid VM definition"


class SocketTakenError(OwnUpError):
    """Another process of this host owns the socket, or it can't be owned."""

    code = "socket_taken"
    title = "Socket taken"


class AgentError(OwnUpError):
    """The guest agent of a VM."""

    code = "agent_error"
    title = "Guest agent error"


class AgentUnavailableError(AgentError):
    """There is nobody to ask: the request was never sent."""

    code = "agent_unavailable"


class AgentAbsentError(AgentUnavailableError):
    """Nobody listens on the agent socket: the VM is off."""

    code = "agent_absent"


class AgentSilentError(AgentError):
    """A request was sent and no reply came in time; the connection it was sent on is closed."""

    code = "agent_silent"
    effect = Effect.UNKNOWN


class AgentRefusedError(AgentError):
    """The agent answered with an error.

    Attributes:
        error_class: ``class`` of the reply, for instance ``GenericError`` or ``CommandNotFound``.
        description: ``desc`` of the reply: text for people, unstable over agent versions.
    """

    code = "agent_refused"
    effect = Effect.REFUSED

    def __init__(self, rpc: str, error_class: str, description: str) -> None:
        self.rpc = rpc
        self.error_class = error_class
        self.description = description
        super().__init__(f"{rpc}: {description}")


class AgentProtocolError(AgentError):
    """The far end sent something that no guest agent sends; the connection is closed."""

    code = "agent_protocol"
    effect = Effect.UNKNOWN


class MonitorError(OwnUpError):
    """QEMU's monitor is away or refused a request; the text holds QEMU's own words where there are some."""

    code = "monitor_error"
    title = "QEMU monitor error"


class MonitorAbsentError(MonitorError):
    """Nobody listens on the monitor socket: the VM is off."""

    code = "monitor_absent"


class PowerError(OwnUpError):
    """A power action could not be done; the text tells a person why."""

    code = "power_failed"
    title = "Power action failed"


class SnapshotError(OwnUpError):
    """A snapshot could not be taken, deleted or gone back to; the text tells a person why."""

    code = "snapshot_failed"
    title = "Snapshot action failed"
