"""The table: every key of `latest.json`, in order, with its goal. What each is stands in README.md."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """What a figure should be."""

    sign: str
    limit: float

    def is_met(self, value: float) -> bool:
        """Hold a figure against it."""
        return _SIGNS[self.sign](value, self.limit)

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"


_SIGNS: Mapping[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}

GOALS: Mapping[str, Goal | None] = {
    "vm.raw_p50_ms": None,
    "vm.http_p50_ms": None,
    "vm.http_over_raw": Goal("<=", 1.30),
    "vm.http_poll_over_raw": Goal("<=", 1.60),
    "vm.http_over_patient_raw": None,
    "agent.http_minus_raw_p50_ms": Goal("<=", 3.0),
    "get.result_rps": None,
    "get.status_rps": None,
    "get.bare_flask_rps": None,
    "get.result_over_bare": Goal(">=", 0.50),
    "get.status_over_bare": Goal(">=", 0.50),
    "many.commands_per_s": None,
    "many.raw_per_s": None,
    "many.over_raw": Goal(">=", 0.40),
    "waiters.count": Goal(">=", 500),
    "waiters.get_p95_over_idle": Goal("<=", 1.5),
    "fleet.vms": Goal(">=", 1000),
    "fleet.worker_rss_mb": Goal("<=", 250),
    "fleet.idle_cpu_percent": Goal("<=", 3),
    "fleet.one_command_over_alone": Goal("<=", 1.2),
    "fleet.end_seen_p95_ms": Goal("<=", 700),
    "hung.p95_over_clean": Goal("<=", 1.2),
    "output.mb_per_s_over_raw": Goal(">=", 0.6),
    "restart.adopt_1000_s": Goal("<=", 3),
}
"""Keys without a goal are there to be compared."""


def table(found: Mapping[str, float]) -> str:
    """Write goals and results for people."""
    rows = [("", "goal", "result", "")]
    for key, goal in GOALS.items():
        value = found.get(key)
        verdict = "" if goal is None or value is None else "met" if goal.is_met(value) else "MISSED"
        rows.append((key, str(goal or ""), "not measured" if value is None else f"{value:g}", verdict))
    return "\n".join(f"{key:30} {goal:>8} {result:>13}  {verdict}".rstrip() for key, goal, result, verdict in rows)
