"""Judges a fault run: what clients were told, what Redis holds and what stands in the guests must be one story.

Pure: knows no process, no socket and no Redis. Each rule has the sentence it is reported by.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from http import HTTPStatus

from app.core.records import CommandState
from tests.faults.clients import Ticket
from tests.faults.records import Record

HAS_NOT_RUN = {CommandState.FAILED, CommandState.EXPIRED}
MAY_HAVE_RUN = {CommandState.LOST, CommandState.UNKNOWN}


@dataclass(frozen=True)
class Evidence:
    """All that is known after a run.

    Attributes:
        tickets: What the clients know; one for each command that was ordered.
        records: What Redis holds.
        by_key: Id of the record that a command's Idempotency-Key stands for, by its token.
        tokens: What stands in each guest, by vmid, in the order it was written.
    """

    tickets: Sequence[Ticket]
    records: Sequence[Record]
    by_key: Mapping[str, str]
    tokens: Mapping[int, Sequence[str]]

    @cached_property
    def pairs(self) -> list[tuple[Ticket, Record | None]]:
        """Every ticket with its record: found by the Idempotency-Key, else by the id of the request."""
        by_id = {record.command.id: record for record in self.records}
        by_request = {record.command.request_id: record for record in self.records}
        return [(ticket, self._find(ticket, by_id, by_request)) for ticket in self.tickets]

    def _find(
        self, ticket: Ticket, by_id: Mapping[str, Record], by_request: Mapping[str | None, Record]
    ) -> Record | None:
        if ticket.order.keyed:
            return by_id.get(self.by_key.get(ticket.order.token, ""))
        return next((by_request[answer.request_id] for answer in ticket.posts if answer.request_id in by_request), None)

    @cached_property
    def standing(self) -> Counter[str]:
        """How often each token stands in the guests."""
        return Counter(token for tokens in self.tokens.values() for token in tokens)

    @cached_property
    def orphans(self) -> list[Record]:
        """The records that no ticket leads to."""
        known = {record.command.id for _, record in self.pairs if record}
        return [record for record in self.records if record.command.id not in known]

    @cached_property
    def namesakes(self) -> Mapping[tuple[int, int], list[Record]]:
        """The records by vmid and pid: guests give a pid anew, after a reset for instance."""
        found: defaultdict[tuple[int, int], list[Record]] = defaultdict(list)
        for record in self.records:
            if record.command.pid is not None:
                found[record.command.vmid, record.command.pid].append(record)
        return found


@dataclass(frozen=True)
class Violation:
    """A rule that was broken, and by what."""

    rule: str
    ticket: Ticket | None = None
    record: Record | None = None
    note: str = ""

    def __str__(self) -> str:
        lines = [self.rule + (f": {self.note}" if self.note else "")]
        if self.ticket:
            order = self.ticket.order
            lines.append(f"  order   {order.token} vm={order.vmid} at={order.at_s:.1f} sleep={order.sleep_s:.2f}"
                         f" bulk={order.bulk_bytes} exit={order.exit_code} keyed={order.keyed}")  # fmt: skip
            lines += [f"  POST    {post.kind} {post.reason} (request {post.request_id})" for post in self.ticket.posts]
            lines.append(f"  told    pid={self.ticket.pid} {_short(self.ticket.result)}")
        if self.record:
            known = {name: value for name, value in asdict(self.record.command).items() if value is not None}
            lines.append("  record  " + " ".join(f"{name}={value}" for name, value in known.items()))
            lines.append(f"  output  {self.record.stdout[:80]!r} {self.record.stderr[:80]!r}")
        return "\n".join(lines)


@dataclass
class Verdict:
    """What came out of a run."""

    evidence: Evidence
    violations: list[Violation] = field(default_factory=list)

    @property
    def states(self) -> Counter[str]:
        """How many records ended in each state."""
        return Counter(record.command.state.value for record in self.evidence.records)


def judge(evidence: Evidence) -> Verdict:
    """Hold the evidence against every rule."""
    rules = (
        _unended,
        _doubled,
        _astray,
        _inexact,
        _unrun,
        _uncovered,
        _misreported,
        _misanswered,
        _mispolled,
        _unexplained,
    )
    return Verdict(evidence, [violation for rule in rules for violation in rule(evidence)])


def _unended(evidence: Evidence) -> Iterator[Violation]:
    everything = [*evidence.pairs, *((None, orphan) for orphan in evidence.orphans)]
    for ticket, record in everything:
        if record and not record.command.state.ended:
            yield Violation("a record is not in an end state", ticket, record)


def _doubled(evidence: Evidence) -> Iterator[Violation]:
    for ticket, record in evidence.pairs:
        if evidence.standing[ticket.order.token] > 1:
            yield Violation("a token stands twice", ticket, record, f"{evidence.standing[ticket.order.token]} times")


def _astray(evidence: Evidence) -> Iterator[Violation]:
    home = {ticket.order.token: ticket for ticket in evidence.tickets}
    for vmid, tokens in evidence.tokens.items():
        for token in tokens:
            if token not in home:
                yield Violation("something stands in a guest that nobody ordered", note=f"VM {vmid}: {token[:80]!r}")
            elif home[token].order.vmid != vmid:
                yield Violation("a token stands in another guest", home[token], note=f"VM {vmid}")


def _inexact(evidence: Evidence) -> Iterator[Violation]:
    for ticket, record in evidence.pairs:
        if record is None or record.command.state is not CommandState.EXITED:
            continue
        order, command = ticket.order, record.command
        got = (record.stdout, record.stderr, command.exit_code, command.signal)
        if got != (order.stdout, order.stderr, order.exit_code, None) or command.out_truncated or command.err_truncated:
            yield Violation("an exited record doesn't have exactly its own output and exit code", ticket, record)
        if not evidence.standing[order.token]:
            yield Violation("an exited record has no token in its guest", ticket, record)


def _unrun(evidence: Evidence) -> Iterator[Violation]:
    for ticket, record in evidence.pairs:
        if record and record.command.state in HAS_NOT_RUN and evidence.standing[ticket.order.token]:
            yield Violation("a record says that it has not run, and its token stands", ticket, record)


def _uncovered(evidence: Evidence) -> Iterator[Violation]:
    accounted = MAY_HAVE_RUN | HAS_NOT_RUN | {CommandState.EXITED}
    for ticket, record in evidence.pairs:
        if not evidence.standing[ticket.order.token]:
            continue
        if record is None:
            yield Violation("a token stands and no record tells of it", ticket)
        elif record.command.state not in accounted:
            yield Violation("a token stands whose record is neither exited nor lost nor unknown", ticket, record)


def _misreported(evidence: Evidence) -> Iterator[Violation]:
    """What a client was told as the result must be what the record says, or that of a later command of the same pid."""
    for ticket, record in evidence.pairs:
        if ticket.pid is None:
            continue
        if record is None or record.command.pid != ticket.pid:
            yield Violation("a client was told a pid that its record doesn't have", ticket, record)
        elif not ticket.ended:
            yield Violation("a client never saw the end of its command", ticket, record)
        elif not any(_tells(ticket, each) for each in evidence.namesakes[record.command.vmid, ticket.pid]):
            yield Violation("a client was told another result than the record has", ticket, record)


def _tells(ticket: Ticket, record: Record) -> bool:
    result = ticket.result or {}
    code = -1 if record.command.exit_code is None else record.command.exit_code
    told = (result.get("state"), result.get("exitcode"), result.get("stdout"), result.get("stderr"))
    return told == (record.command.state, code, record.stdout.decode(), record.stderr.decode())


def _misanswered(evidence: Evidence) -> Iterator[Violation]:
    """What the last POST was answered must fit what became of the command."""
    for ticket, record in evidence.pairs:
        state = record.command.state if record else None
        match ticket.posts[-1].status if ticket.posts else None:
            case HTTPStatus.OK | None:
                continue
            case HTTPStatus.BAD_REQUEST:
                fits = state is None
            case HTTPStatus.GATEWAY_TIMEOUT:
                fits = state is CommandState.EXPIRED
            case HTTPStatus.INTERNAL_SERVER_ERROR:
                fits = "no PID" in ticket.posts[-1].message
            case HTTPStatus.SERVICE_UNAVAILABLE:
                fits = True
            case _:
                fits = False
        if not fits:
            yield Violation("a POST was answered what doesn't fit its record", ticket, record)


def _mispolled(evidence: Evidence) -> Iterator[Violation]:
    """A poll of a pid that was told may find the store away; anything else but a result is wrong."""
    for ticket, record in evidence.pairs:
        for answer in ticket.polls:
            if answer.status not in {None, HTTPStatus.SERVICE_UNAVAILABLE}:
                yield Violation("a poll was answered wrongly", ticket, record, answer.kind)


def _unexplained(evidence: Evidence) -> Iterator[Violation]:
    """A record that nobody ordered; one may be of a POST that got no answer at all, not even an id."""
    unanswered = Counter(
        ticket.order.vmid
        for ticket, record in evidence.pairs
        if record is None and any(answer.status is None for answer in ticket.posts)
    )
    for record in evidence.orphans:
        unanswered[record.command.vmid] -= 1
        if unanswered[record.command.vmid] < 0:
            yield Violation("a record that nobody ordered", record=record)


def _short(result: Mapping[str, object] | None) -> str:
    return " ".join(f"{name}={str(value)[:60]!r}" for name, value in (result or {}).items())
