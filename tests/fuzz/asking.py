"""Asking somebody whose answers are made up: patiently, and with one kind of error that may come of it."""

import asyncio
from collections.abc import Awaitable
from typing import Any

PATIENCE_S = 5.0
"""For an await that has to end within a tenth of a second or two, on a machine that does other things besides."""


async def outcome_of(asked: Awaitable[Any], error: type[Exception]) -> str:
    """Await something in time; tell what came of it. Any error but those foreseen is a defect."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await asked
    except error as exc:
        assert len(str(exc)) < 2000  # noqa: PT017 - what is raised is what is tested
        return type(exc).__name__
    return "answered"
