"""The fault run in its short form: the real thing, smaller. `make faults` is the long one."""

import sys

import pytest

from tests.faults import table
from tests.faults.plan import FaultKind, Size, draw
from tests.faults.run import run

SEED = 20260210
SHORT = Size(
    commands=250, worker_kills=6, redis_restarts=2, redis_stalls=1, agent_restarts=8, agents=6, span_s=40
)  # fmt: skip
LIMIT_S = 200


@pytest.mark.timeout(LIMIT_S + 120)
def test_nothing_is_lost_doubled_or_invented_under_faults():
    outcome = run(SEED, SHORT, limit_s=LIMIT_S, say=lambda text: sys.stdout.write(f"{text}\n"))
    text = table.render(outcome)
    sys.stdout.write(f"{text}\n")
    assert not outcome.verdict.violations, text
    assert set(outcome.faults) == set(FaultKind)
    assert outcome.verdict.states["exited"] > SHORT.commands / 2
    assert any(len(record.stdout) > table.LARGE_BYTES for record in outcome.verdict.evidence.records)


def test_the_same_seed_is_the_same_plan_and_another_is_not():
    assert draw(1, SHORT) == draw(1, SHORT)
    assert draw(1, SHORT).faults != draw(2, SHORT).faults
    assert draw(1, SHORT).orders != draw(2, SHORT).orders


def test_more_commands_do_not_move_the_faults():
    more = Size(**{**vars(SHORT), "commands": 500})
    assert draw(1, more).faults == draw(1, SHORT).faults


def test_the_long_run_has_what_it_promises():
    plan = draw(SEED, Size(2000, 40, 5, 5, 20, 10, 600))
    kinds = [fault.kind for fault in plan.faults]
    assert len({order.token for order in plan.orders}) == len(plan.orders) == 2000
    assert len(plan.guests) == 11
    assert kinds.count(FaultKind.WORKER_KILL) == 40
    assert {FaultKind.REDIS_KILL, FaultKind.REDIS_SHUTDOWN} <= set(kinds)
    assert kinds.count(FaultKind.REDIS_KILL) + kinds.count(FaultKind.REDIS_SHUTDOWN) == 5
    restarts = (FaultKind.AGENT_KILL, FaultKind.GUEST_AGENT_KILL, FaultKind.VM_RESET)
    assert sum(kinds.count(kind) for kind in restarts) == 20
