"""The error tree: stable codes, an effect each, text derived from facts, one HTTP status each in v1."""

import re
from http import HTTPStatus
from pathlib import Path

import pytest

import app.guard  # noqa: F401 - its errors belong to the tree
from app.api.failures import SHOWN, status_of
from app.api.v1.errors import STATUSES as V1
from app.core import errors
from app.core.errors import Effect, OwnUpError, Problem


def walk(kind: type[OwnUpError]) -> list[type[OwnUpError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in walk(child))]


TREE = walk(OwnUpError)
STATUSES = {
    "InvalidRequestError": 400,
    "CommandBlockedError": 400,
    "VmNotRunningError": 400,
    "UnauthorizedError": 401,
    "ForbiddenError": 403,
    "KeyLimitedError": 403,
    "NotFoundError": 404,
    "IdempotencyConflictError": 409,
    "SnapshotExistsError": 409,
    "GateClosedError": 409,
    "RateLimitedError": 429,
    "TooManyCommandsError": 429,
    "StartExpiredError": 504,
    "GuestCallExpiredError": 504,
    "SshKeyRefusedError": 400,
    "UnavailableError": 503,
    "NodeUnavailableError": 503,
    "StoreUnavailableError": 503,
    "StoreRefusedError": 503,
}
"""All others are 500."""


@pytest.mark.parametrize("kind", TREE)
def test_every_error_has_its_status_in_v1(kind: type[OwnUpError]):
    error = kind.__new__(kind)
    assert status_of(error, V1) == STATUSES.get(kind.__name__, 500)


@pytest.mark.parametrize("kind", TREE)
def test_text_of_a_5xx_is_shown_only_where_it_was_written_for_callers(kind: type[OwnUpError]):
    if status_of(kind.__new__(kind), V1) >= 500 and issubclass(kind, SHOWN):
        assert kind.__name__ in STATUSES or issubclass(kind, (errors.StartFailedError, errors.GuestCallError))


def test_table_holds_no_row_without_use():
    for kind, status in V1.items():
        parents = [V1[parent] for parent in kind.__mro__[1:] if parent in V1]
        assert not parents or parents[0] is not status or kind in {errors.StartRefusedError, errors.StartUnknownError}


def test_error_that_is_not_ours_is_500():
    assert status_of(ValueError(), V1) is HTTPStatus.INTERNAL_SERVER_ERROR


@pytest.mark.parametrize("kind", TREE)
def test_every_error_has_a_code_a_title_and_an_effect(kind: type[OwnUpError]):
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.title
    assert isinstance(kind.effect, Effect)
    assert kind.__name__.endswith("Error")
    assert kind.__doc__


def test_tree_in_the_docstring_is_the_real_one():
    drawn = set(re.findall(r"[─┬ ] (\w+Error)\b", errors.__doc__ or ""))
    real = {kind.__name__ for kind in TREE if kind.__module__ == errors.__name__}
    assert drawn == real


def test_texts_are_derived_from_facts():
    assert str(errors.NotFoundError("VM")) == "VM not found"
    assert str(errors.VmNotRunningError(1, "stopped")) == "VM must be running to execute commands"
    assert str(errors.VmNotRunningError(1, "stopped", "change hostname")) == "VM must be running to change hostname"
    assert str(errors.GuestCallRefusedError("reset SSH keys", "no")) == "Failed to reset SSH keys"
    assert str(errors.CommandBlockedError("rm")) == "This command has been blocked for safety reasons"
    assert str(errors.StartRefusedError("no")) == "Failed to execute command - no PID returned"
    assert "write:vm" in str(errors.ForbiddenError("write:vm"))
    assert "n1" in str(errors.NodeUnavailableError("n1"))


def test_problems_are_told_field_by_field():
    error = errors.InvalidRequestError(Problem("a", "is required"), Problem("b", "is unknown"))
    assert str(error) == "a: is required; b: is unknown"
    assert [problem.field for problem in error.problems] == ["a", "b"]
    assert errors.StartUnknownError("lost").problems == (Problem("command", "lost"),)
    assert errors.GuestCallRefusedError("reset password", "no").problems == (Problem("guest", "no"),)
    assert errors.SshKeyRefusedError("twice").problems == (Problem("key", "twice"),)
    assert errors.CommandBlockedError("rm").problems[0].field == "command"
    assert errors.UnauthorizedError().problems == ()


def test_errors_live_in_few_places():
    assert {Path(kind.__module__.replace(".", "/")).parts[0] for kind in TREE} <= {"app", "workers"}
