"""The records both halves share, and the moves a record may make.

A record is what Redis holds: a frozen dataclass that says what is known, never what is hoped. Outcomes follow one rule:
OwnUp never lies about what happened in a guest.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class CommandState(StrEnum):
    """How far a command has come; each value says whether it ran in the guest."""

    QUEUED = "queued"
    """Recorded, not delivered yet: has not run."""
    RUNNING = "running"
    """Its pid is known: runs."""
    EXITED = "exited"
    """Its exit code or signal is known: ran."""
    FAILED = "failed"
    """Refused before it started: has not run."""
    EXPIRED = "expired"
    """Not delivered before its delivery deadline: has not run and will not."""
    TIMED_OUT = "timed_out"
    """Its run deadline passed and its process group was killed: ran."""
    CANCELLED = "cancelled"
    """Killed on request: ran. One without a pid was stopped before it was sent. A file: broken off, and as it was."""
    LOST = "lost"
    """It started, then the agent or the VM went away: ran, its result can't be known."""
    UNKNOWN = "unknown"
    """It was sent and no reply came: may have run."""

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return not COMMAND_MOVES[self]


COMMAND_MOVES: dict[CommandState, frozenset[CommandState]] = {
    CommandState.QUEUED: frozenset({
        CommandState.RUNNING, CommandState.FAILED, CommandState.EXPIRED, CommandState.CANCELLED, CommandState.UNKNOWN,
    }),
    CommandState.RUNNING: frozenset({
        CommandState.EXITED, CommandState.TIMED_OUT, CommandState.CANCELLED, CommandState.LOST,
    }),
} | {
    state: frozenset()
    for state in CommandState
    if state not in {CommandState.QUEUED, CommandState.RUNNING}
}  # fmt: skip
"""The one table of legal moves; ``app.core.store`` hands it to Redis, which refuses every other move."""


class CommandKind(StrEnum):
    """What a command does. Source: Virtuozzo, compute API, listing guest OS commands, ``type``."""

    EXEC = "exec"
    FILE_READ = "file-read"
    FILE_WRITE = "file-write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What is known of one command that a customer runs in a guest.

    Attributes:
        id: UUID of the record; guests recycle pids, records don't.
        vmid: The VM it is for.
        account: The account that owns it.
        node: The node that carries the VM, and so the queue it travels on.
        state: How far it has come.
        created_at: When the web half accepted it.
        deliver_by: Delivery deadline, by Redis's clock: after it nobody may send the command any more.
        sent_at: When a worker claimed it, just before sending. Set and no pid: it may have run.
        started_at: When the agent told the pid.
        ended_at: When the end became known.
        pid: Its process id in the guest.
        exit_code: Exit code, where it exited by itself.
        signal: Number of the signal that ended it (Windows: an NTSTATUS).
        out_truncated: Standard output was longer than what is kept.
        err_truncated: Standard error was longer than what is kept.
        message: Why it ended without an exit code, for people.
        agent_identity: Which life of which agent told the pid; another life's equal pid is another process.
        timeout_s: Run deadline, counted from ``started_at``; ``None`` lets it run for ever.
        wait_for_agent_s: How long the start may wait for the agent of a booting VM.
        kill_requested_at: When its kill was asked for.
        key_id: The API key that asked for it.
        request_id: The HTTP request that asked for it.
        kind: What it does; a file has no pid, and no exit code: ``exited`` says that all of it arrived.
    """

    id: str
    vmid: int
    account: str
    node: str
    state: CommandState
    created_at: datetime
    deliver_by: datetime
    sent_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    out_truncated: bool = False
    err_truncated: bool = False
    message: str | None = None
    agent_identity: str | None = None
    timeout_s: float | None = None
    wait_for_agent_s: float = 0.0
    kill_requested_at: datetime | None = None
    key_id: str | None = None
    request_id: str | None = None
    kind: CommandKind = CommandKind.EXEC

    @property
    def updated_at(self) -> datetime | None:
        """When its state last changed; ``None`` where it never has."""
        return self.ended_at or self.started_at


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRequest:
    """What is to be run; kept apart from the record, because only the worker needs it, once. Its repr shows none of it.

    Attributes:
        line: One shell line; the guest's shell interprets it. Empty where there is something else to do.
        argv: A program and its arguments, run without a shell.
        path: The file to be read or written.
        stdin: Text for its standard input; ``None`` gives it none.
        env: Variables that are added to its environment.
        cwd: The directory it starts in; ``None`` is the agent's own, ``/``.
    """

    line: str = field(default="", repr=False)
    argv: tuple[str, ...] | None = field(default=None, repr=False)
    path: str | None = None
    stdin: str | None = field(default=None, repr=False)
    env: dict[str, str] | None = field(default=None, repr=False)
    cwd: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStart:
    """What the agent told when a command started; becomes part of its record.

    Attributes:
        pid: As in ``Command``.
        started_at: As in ``Command``.
        agent_identity: As in ``Command``.
    """

    pid: int
    started_at: datetime
    agent_identity: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnd:
    """How a command ended, as the worker found out; becomes part of its record.

    Attributes:
        state: An end state.
        ended_at: When it became known.
        exit_code: As in ``Command``.
        signal: As in ``Command``.
        stdout: The bytes of standard output that are kept.
        stderr: The bytes of standard error that are kept.
        out_truncated: As in ``Command``.
        err_truncated: As in ``Command``.
        message: As in ``Command``.
    """

    state: CommandState
    ended_at: datetime
    exit_code: int | None = None
    signal: int | None = None
    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)
    out_truncated: bool = False
    err_truncated: bool = False
    message: str | None = None


class VmStatus(StrEnum):
    """Power state of a VM, in HostUp v2's words."""

    RUNNING = "running"
    STOPPED = "stopped"
    STARTING = "starting"
    STOPPING = "stopping"
    PAUSED = "paused"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """What the worker last knew of one VM: who owns it, how it is, what it uses.

    Attributes:
        vmid: The fleet-wide number of the VM.
        name: Its name in the definition file.
        account: The owner.
        node: The node that carries it.
        startable: Whether the node can start it (its definition has a machine).
        has_monitor: Whether its definition names QEMU's monitor: without one it can't be switched off or reset.
        status: Power state.
        running: Whether its virtual CPUs run: a command can be tried.
        agent_available: Whether a command can reach the guest agent and guest-exec is allowed there.
        agent_message: "QEMU Guest Agent is available", or why it isn't.
        agent_version: qemu-ga's version.
        qemu_pid: Process id of QEMU on the node.
        booted_at: When the QEMU process started.
        cpus: Number of virtual CPUs.
        cpu: Share of its virtual CPUs in use since the last sample, 0.0 to 1.0.
        mem_bytes: Memory of the node that the VM occupies (resident set of QEMU).
        maxmem_bytes: Memory the guest was given.
        netin_bytes: Bytes the guest received since QEMU started.
        netout_bytes: Bytes the guest sent.
        diskread_bytes: Bytes the guest read from its disks.
        diskwrite_bytes: Bytes the guest wrote.
        storage_bytes: Size of its disks, as the guest sees them; known once its QEMU was asked.
        storage_used_bytes: What their images occupy on the node.
        seen_at: When the worker last looked.
    """

    vmid: int
    name: str
    account: str
    node: str
    startable: bool
    status: VmStatus
    running: bool
    agent_available: bool
    agent_message: str
    seen_at: datetime
    has_monitor: bool = True
    agent_version: str | None = None
    qemu_pid: int | None = None
    booted_at: datetime | None = None
    cpus: int | None = None
    cpu: float | None = None
    mem_bytes: int | None = None
    maxmem_bytes: int | None = None
    netin_bytes: int | None = None
    netout_bytes: int | None = None
    diskread_bytes: int | None = None
    diskwrite_bytes: int | None = None
    storage_bytes: int | None = None
    storage_used_bytes: int | None = None


class JobState(StrEnum):
    """How far a job has come."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class PowerAction(StrEnum):
    """What can be done to a VM's power.

    Source: HostUp v1 docs, POST status; HostUp v2 docs, power, for ``reset``, which is always hard.
    """

    START = "start"
    STOP = "stop"
    SHUTDOWN = "shutdown"
    RESTART = "restart"
    RESET = "reset"


class JobKind(StrEnum):
    """What a job does: a power action, or something to a snapshot; job ids begin with it.

    Source: HostUp v1 docs, DELETE snapshots, for ``snapshot_rollback``.
    """

    START = PowerAction.START.value
    STOP = PowerAction.STOP.value
    SHUTDOWN = PowerAction.SHUTDOWN.value
    RESTART = PowerAction.RESTART.value
    RESET = PowerAction.RESET.value
    SNAPSHOT_CREATE = "snapshot_create"
    SNAPSHOT_ROLLBACK = "snapshot_rollback"
    SNAPSHOT_DELETE = "snapshot_delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work on a VM that takes its time, and that a client polls.

    Attributes:
        id: ``<kind>-<vmid>-<epoch ms>``.
        vmid: The VM it is for.
        account: The account that owns it.
        node: The node that carries the VM.
        kind: What is to be done.
        force: Don't ask the guest; for a shutdown: pull the plug when the guest doesn't obey.
        snapshot: Name of the snapshot it is about.
        description: What the owner says of a new snapshot.
        key_id: The API key that asked for it.
        state: How far it has come.
        created_at: When the web half accepted it.
        start_by: After this moment, by Redis's clock, no worker starts it any more.
        started_at: When a worker began.
        finished_at: When it ended.
        progress: 0 to 100.
        message: What is being done or how it ended, for people; QEMU's own words where a start failed.
    """

    id: str
    vmid: int
    account: str
    node: str
    kind: JobKind
    state: JobState
    created_at: datetime
    start_by: datetime
    force: bool = False
    snapshot: str | None = None
    description: str | None = None
    key_id: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A state of a VM that it can be taken back to.

    Attributes:
        name: Its name, unique in the VM.
        taken_at: When it was taken, by the node's clock.
        includes_memory: Whether the guest's memory was kept too, not just its disks.
        description: What its owner says of it.
        key_id: The API key that asked for it; ``None`` if it wasn't taken through OwnUp.
    """

    name: str
    taken_at: datetime
    includes_memory: bool
    description: str | None = None
    key_id: str | None = None


class GuestAction(StrEnum):
    """What a guest's agent can be asked for on behalf of a request; the worker knows the RPC of each."""

    GET_HOSTNAME = "get_hostname"
    SET_PASSWORD = "set_password"  # nosec B105  # noqa: S105 - the name of an action
    GET_SSH_KEYS = "get_ssh_keys"
    SET_SSH_KEYS = "set_ssh_keys"

    @property
    def changes(self) -> bool:
        """Whether it changes the guest: one that was sent and had no reply may have been done."""
        return self in {GuestAction.SET_PASSWORD, GuestAction.SET_SSH_KEYS}


class GuestCallState(StrEnum):
    """How far a guest call has come; each value says whether it was done in the guest."""

    QUEUED = "queued"
    """Recorded; once claimed it may be under way."""
    DONE = "done"
    """The agent said so: done."""
    FAILED = "failed"
    """Not sent, or the agent said no: not done."""
    EXPIRED = "expired"
    """Nobody took it before its delivery deadline: not done and will not be."""
    UNKNOWN = "unknown"
    """It was sent and no reply came: may have been done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestCall:
    """One question to a VM's agent that a request waits for. Not repeated, and forgotten soon after.

    A secret that goes with it is kept apart, and is gone as soon as a worker has it.

    Attributes:
        id: UUID of the record.
        vmid: The VM whose agent is asked.
        account: The account that owns it.
        node: The node that carries the VM.
        action: What is asked for.
        keys: For ``SET_SSH_KEYS``: the public keys that may log in from then on.
        state: How far it has come.
        created_at: When the web half accepted it.
        deliver_by: Delivery deadline, by Redis's clock: after it nobody may send it any more.
        sent_at: When a worker claimed it, just before sending.
        ended_at: When its outcome became known.
        value: What the agent told, in our own words; only of one that is done.
        message: Why it wasn't done, or may have been, for people.
        key_id: The API key that asked for it.
        request_id: The HTTP request that asked for it.
    """

    id: str
    vmid: int
    account: str
    node: str
    action: GuestAction
    state: GuestCallState
    created_at: datetime
    deliver_by: datetime
    keys: tuple[str, ...] = ()
    sent_at: datetime | None = None
    ended_at: datetime | None = None
    value: dict[str, str | list[str] | None] | None = None
    message: str | None = None
    key_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SshKey:
    """A public SSH key that an account keeps, to be put into its guests.

    Attributes:
        id: Its number, unique in the fleet.
        account: The owner.
        name: What its owner calls it.
        public_key: One line as OpenSSH writes it: type, base64, perhaps a comment.
        created_at: When it was stored.
    """

    id: int
    account: str
    name: str
    public_key: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key as it is stored: everything but the secret.

    Attributes:
        id: The public part of the key.
        secret_sha256: Hex digest of the whole key. The key holds 256 random bits, so a fast hash is enough.
        account: The account whose VMs it sees.
        name: What its owner calls it.
        scopes: What it may do.
        created_at: When it was made.
        expires_at: From when on it doesn't count any more.
        revoked_at: When it was withdrawn, for good.
        description: What its owner says of it.
        is_test: What its owner said: that it is for trying things out. Changes nothing.
        is_active: Whether it counts; its owner may switch it off and on.
        allowed_ips: Networks it may be used from, such as ``192.0.2.0/24``; empty: from everywhere.
        allowed_vmids: VMs it sees; empty: all of its account.
        allowed_commands: Patterns of the commands it may run, as ``app.allowed_commands`` reads them; empty: any.
        created_by: Id of the API key that made it; ``None``: the operator did, at the command line.
        last_used_at: When it was last used, give or take a minute.
        version: How often it was changed.
    """

    id: str
    secret_sha256: str = field(repr=False)
    account: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    description: str | None = None
    is_test: bool = False
    is_active: bool = True
    allowed_ips: tuple[str, ...] = ()
    allowed_vmids: tuple[int, ...] = ()
    allowed_commands: tuple[str, ...] = ()
    created_by: str | None = None
    last_used_at: datetime | None = None
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A hypervisor host whose worker is alive.

    Attributes:
        name: Its name; its queue is ``node-<name>``.
        worker: Name of the RQ worker that speaks for it.
        vms: Number of VMs it carries.
        broken_definitions: Number of definition files it had to skip.
        since: When the worker started.
    """

    name: str
    worker: str
    vms: int
    broken_definitions: int
    since: datetime
