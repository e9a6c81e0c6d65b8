"""What a fault run will do, drawn from a seed before it begins: which guests, which commands, which faults, when.

Starts nothing and knows no process, so that the same seed is the same plan wherever it is drawn.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice

FIRST_VMID = 10000

_LEAD_S = 3.0
"""How long the fleet is left in peace at first: a fault in the very first moments finds nothing to spoil."""
_SHORT_SLEEP_S = 1.5
_LONG_SLEEP_S = 12.0
"""Long enough to see a killed worker, its successor and the next one's."""
_BULK_BYTES = 1_000_000
_BEFORE_FAULT_S, _AFTER_FAULT_S = 0.7, 0.1


class Peer(StrEnum):
    """What plays the guest agent of a VM."""

    VM = "real VM"
    QEMU_GA = "qemu-ga"
    FAKE = "fake agent"
    FAKE_REUSING_PIDS = "fake agent, each of its lives tells the same pids"


class FaultKind(StrEnum):
    """What the saboteur can do."""

    WORKER_KILL = "worker: SIGKILL"
    REDIS_KILL = "Redis: SIGKILL"
    REDIS_SHUTDOWN = "Redis: SHUTDOWN"
    REDIS_STALL = "Redis: stalled for seconds (SIGSTOP)"
    AGENT_KILL = "agent: SIGKILL"
    GUEST_AGENT_KILL = "agent in the VM: SIGKILL"
    VM_RESET = "VM: reset"


@dataclass(frozen=True)
class Size:
    """How much a run does. Everything is spread over `span_s`."""

    commands: int
    worker_kills: int
    redis_restarts: int
    redis_stalls: int
    agent_restarts: int
    agents: int
    span_s: float


@dataclass(frozen=True)
class Guest:
    """One VM of the fleet."""

    vmid: int
    peer: Peer


@dataclass(frozen=True)
class Order:
    """One command as its client wants it. All there is to know of it follows from its token.

    `keyed`: its POST carries an Idempotency-Key and may be repeated; of all others there is exactly one POST.
    """

    token: str
    vmid: int
    at_s: float
    sleep_s: float = 0.0
    bulk_bytes: int = 0
    exit_code: int = 0
    keyed: bool = False
    kills_agent: bool = False

    def line(self, token_file: str) -> str:
        """Write the shell line: the token first, so that whatever ran has left it."""
        parts = [f"echo {self.token} >> {token_file}", f"echo out-{self.token}", f"echo err-{self.token} >&2"]
        if self.sleep_s:
            parts.append(f"sleep {self.sleep_s:.2f}")
        if self.bulk_bytes:
            parts.append(f"yes {self.token} | head -c {self.bulk_bytes}")
        if self.kills_agent:
            parts.append("(sleep 0.3; kill -9 $(pidof qemu-ga)) >/dev/null 2>&1 &")
        return "; ".join([*parts, f"exit {self.exit_code}"]).replace("&;", "&")

    @property
    def stdout(self) -> bytes:
        """What it writes if it comes to its end."""
        word = f"{self.token}\n".encode()
        bulk = word * (self.bulk_bytes // len(word) + 1)
        return f"out-{self.token}\n".encode() + bulk[: self.bulk_bytes]

    @property
    def stderr(self) -> bytes:
        return f"err-{self.token}\n".encode()


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. `down_s`: how long what was ended stays away."""

    at_s: float
    kind: FaultKind
    vmid: int | None = None
    down_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    seed: int
    size: Size
    guests: tuple[Guest, ...]
    orders: tuple[Order, ...]
    faults: tuple[Fault, ...]

    @property
    def vm(self) -> Guest:
        """The one real VM."""
        return next(guest for guest in self.guests if guest.peer is Peer.VM)


def draw(seed: int, size: Size) -> Plan:
    """Draw a plan; equal arguments give equal plans."""
    guests = _draw_guests(size.agents)
    # Each from a source of its own: more commands don't move the faults.
    faults = _draw_faults(random.Random(f"faults {seed}"), size, guests)
    orders = _draw_orders(random.Random(f"orders {seed}"), size, guests, faults)
    return Plan(seed=seed, size=size, guests=guests, orders=orders, faults=faults)


def make_token(rng: random.Random, number: int) -> str:
    """Make a token that stands for one command and no other."""
    return f"T{number:05d}x{rng.getrandbits(48):012x}"


def _draw_guests(agents: int) -> tuple[Guest, ...]:
    peers = islice(cycle([Peer.QEMU_GA, Peer.FAKE, Peer.QEMU_GA, Peer.FAKE_REUSING_PIDS]), agents)
    return tuple(Guest(FIRST_VMID + index, peer) for index, peer in enumerate([Peer.VM, *peers]))


def _draw_faults(rng: random.Random, size: Size, guests: Sequence[Guest]) -> tuple[Fault, ...]:
    faults = [Fault(_moment(rng, size), FaultKind.WORKER_KILL) for _ in range(size.worker_kills)]
    for index in range(size.redis_restarts):
        kind = FaultKind.REDIS_SHUTDOWN if index % 3 == 1 else FaultKind.REDIS_KILL
        # The fifth one stays away for longer than a node counts as alive without a heartbeat.
        down_s = 12.0 if index == 4 else rng.uniform(0.0, 4.0)
        faults.append(Fault(_moment(rng, size), kind, down_s=down_s))
    # Stalled for longer than web and worker wait for it: it does all the same what it was asked meanwhile.
    stalls_s = [rng.uniform(2.2, 4.0) for _ in range(size.redis_stalls)]
    faults += [Fault(_moment(rng, size), FaultKind.REDIS_STALL, down_s=stall_s) for stall_s in stalls_s]
    faults += [_draw_agent_restart(rng, size, guests, index) for index in range(size.agent_restarts)]
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _draw_agent_restart(rng: random.Random, size: Size, guests: Sequence[Guest], index: int) -> Fault:
    """Restart each agent in turn; the VM's in two ways by turns."""
    guest = guests[index % len(guests)]
    if guest.peer is Peer.VM:
        kind = FaultKind.GUEST_AGENT_KILL if index // len(guests) % 2 == 0 else FaultKind.VM_RESET
        return Fault(_moment(rng, size), kind, guest.vmid)
    return Fault(_moment(rng, size), FaultKind.AGENT_KILL, guest.vmid, down_s=rng.choice([0.0, 0.2, 3.0]))


def _moment(rng: random.Random, size: Size) -> float:
    return rng.uniform(_LEAD_S, size.span_s)


def _draw_orders(rng: random.Random, size: Size, guests: Sequence[Guest], faults: Sequence[Fault]) -> tuple[Order, ...]:
    orders = [_draw_order(rng, size, guests, faults, number) for number in range(size.commands)]
    return tuple(sorted(orders, key=lambda order: order.at_s))


def _draw_order(rng: random.Random, size: Size, guests: Sequence[Guest], faults: Sequence[Fault], number: int) -> Order:
    return Order(
        token=make_token(rng, number),
        vmid=guests[number % len(guests)].vmid,
        at_s=_draw_start(rng, size, faults),
        sleep_s=_draw_sleep(rng),
        bulk_bytes=rng.randint(1, _BULK_BYTES) if rng.random() < 0.05 else 0,
        exit_code=rng.randrange(256),
        keyed=rng.random() < 0.5,
    )


def _draw_start(rng: random.Random, size: Size, faults: Sequence[Fault]) -> float:
    """Half of the commands start at any time, half just when something is about to go wrong."""
    if not faults or rng.random() < 0.5:
        return rng.uniform(0.0, size.span_s)
    return max(0.0, rng.choice(faults).at_s + rng.uniform(-_BEFORE_FAULT_S, _AFTER_FAULT_S))


def _draw_sleep(rng: random.Random) -> float:
    kind = rng.random()
    if kind < 0.3:
        return 0.0
    return rng.uniform(0.01, _SHORT_SLEEP_S if kind < 0.9 else _LONG_SLEEP_S)
