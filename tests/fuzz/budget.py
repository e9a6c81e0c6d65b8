"""How many inputs are tried, and that it is told: the numbers of `make test`, times ``FUZZ_FACTOR`` for a long run.

With a factor of 1 every run tries the same inputs; with another one each run tries inputs of its own.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

FACTOR = float(os.environ.get("FUZZ_FACTOR", "1"))
PATIENT = pytest.mark.timeout(120 * max(FACTOR, 1))


class Tally:
    """Counts what was tried in one test."""

    def __init__(self) -> None:
        self.tried = 0
        self.seen: dict[str, int] = {}

    def add(self, outcome: str) -> None:
        """Count one input by what came of it."""
        self.tried += 1
        self.seen[outcome] = self.seen.get(outcome, 0) + 1

    def line(self, what: str) -> str:
        outcomes = ", ".join(f"{outcome} {count}" for outcome, count in sorted(self.seen.items()))
        return f"fuzz {what}: {self.tried} inputs ({outcomes})"


def examples(count: int, *, shrink: bool = True) -> Callable[[Any], Any]:
    """Let a property be tried so often; what breaks it is made smaller unless each try takes long."""
    return settings(
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        max_examples=max(1, round(count * FACTOR)),
        derandomize=FACTOR == 1,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
