"""The table that a fault run prints. Says what came out; decides nothing."""

import re
from collections import Counter
from collections.abc import Iterator

from app.core.records import CommandState
from tests.faults.run import Outcome
from tests.faults.verdict import HAS_NOT_RUN, MAY_HAVE_RUN, Evidence

LARGE_BYTES = 256 * 1024

_WIDTH = 90
_NUMBER = re.compile(r"\d+")
_COMMON = "The result can't be known: "


def render(outcome: Outcome) -> str:
    """Write the table, and below it every violation."""
    rows = [*_what_happened(outcome), ("", ""), *_records(outcome), ("", ""), *_clients(outcome.verdict.evidence)]
    lines = [f"{name:<{_WIDTH}}{value:>10}".rstrip() for name, value in rows]
    violations = [f"\nVIOLATION  {violation}" for violation in outcome.verdict.violations]
    kept = [f"\nEverything that was printed and stored is in {outcome.folder}"] if violations else []
    return "\n".join([*lines, *violations, *kept])


def _what_happened(outcome: Outcome) -> Iterator[tuple[str, object]]:
    yield "seed", outcome.plan.seed
    yield "duration", f"{outcome.duration_s:.0f} s"
    for peer, count in Counter(guest.peer for guest in outcome.plan.guests).items():
        yield f"guests: {peer}", count
    for kind, count in sorted(outcome.faults.items()):
        yield kind.value, count
    yield "qemu-ga ended by itself, as its client was killed", outcome.hung_up_agents
    yield "worker's memory at the end", f"{outcome.worker_rss_bytes / 2**20:.0f} MiB"


def _records(outcome: Outcome) -> Iterator[tuple[str, object]]:
    evidence, states = outcome.verdict.evidence, outcome.verdict.states
    yield "commands ordered", len(evidence.tickets)
    yield "records", len(evidence.records)
    for state in CommandState:
        yield f"  {state}", states[state]
        yield from _reasons(evidence, state)
    exited = [record for record in evidence.records if record.command.state is CommandState.EXITED]
    yield "exited with more than 256 KiB of output", sum(len(record.stdout) > LARGE_BYTES for record in exited)
    yield "lost or unknown", sum(states[state] for state in MAY_HAVE_RUN)
    yield "records not in an end state", sum(states[state] for state in CommandState if not state.ended)
    yield "tokens in the guests", sum(evidence.standing.values())
    yield "tokens that stand twice", sum(count > 1 for count in evidence.standing.values())
    yield "tokens of lost or unknown commands", _standing(evidence, MAY_HAVE_RUN)
    yield "tokens of failed or expired commands", _standing(evidence, HAS_NOT_RUN)
    yield "pids that a guest told more than once", sum(len(each) > 1 for each in evidence.namesakes.values())
    yield "violations", len(outcome.verdict.violations)


def _clients(evidence: Evidence) -> Iterator[tuple[str, object]]:
    posts = Counter(answer.kind for ticket in evidence.tickets for answer in ticket.posts)
    for kind, count in posts.most_common():
        yield f"POST answered: {kind[: _WIDTH - 16]}", count
    yield (
        "POSTs repeated under an Idempotency-Key",
        sum(len(ticket.posts) - 1 for ticket in evidence.tickets if ticket.posts),
    )
    polls = Counter(answer.kind for ticket in evidence.tickets for answer in ticket.polls)
    for kind, count in polls.most_common():
        yield f"poll answered: {kind[: _WIDTH - 16]}", count
    pidless = [record for ticket, record in evidence.pairs if ticket.pid is None]
    yield "commands whose client was told no pid", len(pidless)
    for state, count in Counter(
        record.command.state.value if record else "no record" for record in pidless
    ).most_common():
        yield f"  their records: {state}", count


def _reasons(evidence: Evidence, state: CommandState) -> Iterator[tuple[str, object]]:
    """Say why records ended in a state, the most frequent reason first."""
    messages = [record.command.message for record in evidence.records if record.command.state is state]
    for reason, count in Counter(_NUMBER.sub("N", message) for message in messages if message).most_common():
        yield f"    {reason.removeprefix(_COMMON)[: _WIDTH - 6]}", f"({count})"


def _standing(evidence: Evidence, states: set[CommandState]) -> int:
    return sum(
        bool(evidence.standing[ticket.order.token])
        for ticket, record in evidence.pairs
        if record and record.command.state in states
    )
