"""The v2 error body, a problem document, and the tables that say which error has which status, code and title.

Source: RFC 7807; HostUp v2 docs, conventions and error reference.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from flask import Response, jsonify, request

from app.api.failures import UNEXPECTED, Face, Failure
from app.api.timestamps import timestamp
from app.core import errors
from app.core.errors import GateClosedError, InvalidRequestError, NotFoundError, OwnUpError, Problem
from app.core.secrecy import hide_keys
from app.request_log import request_id
from app.services import services

CONTENT_TYPE = "application/problem+json"
TYPE_BASE = "/docs/errors#"
"""A problem's ``type`` is this and its code: the page of this very server that explains it (RFC 7807, 3.1)."""

STATUSES: dict[type[OwnUpError], HTTPStatus] = {
    OwnUpError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidRequestError: HTTPStatus.BAD_REQUEST,
    errors.UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.IdempotencyConflictError: HTTPStatus.CONFLICT,
    errors.SnapshotExistsError: HTTPStatus.CONFLICT,
    errors.VmNotRunningError: HTTPStatus.CONFLICT,
    errors.GateClosedError: HTTPStatus.CONFLICT,
    errors.RateLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TooManyCommandsError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.StartRefusedError: HTTPStatus.BAD_GATEWAY,
    errors.StartUnknownError: HTTPStatus.BAD_GATEWAY,
    errors.StartExpiredError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.GuestCallError: HTTPStatus.BAD_GATEWAY,
    errors.GuestCallExpiredError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.SshKeyRefusedError: HTTPStatus.BAD_REQUEST,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}

_UNAVAILABLE = ("upstream_unavailable", "Service unavailable")
_NOT_READY = ("vps_not_ready", "VPS not ready")
_SPELT: dict[type[OwnUpError], tuple[str, str]] = {
    errors.VmNotRunningError: _NOT_READY,
    errors.GateClosedError: _NOT_READY,
    errors.UnavailableError: _UNAVAILABLE,
    errors.NodeUnavailableError: _UNAVAILABLE,
    errors.StoreUnavailableError: _UNAVAILABLE,
    errors.StoreRefusedError: _UNAVAILABLE,
}
"""Code and title where HostUp's error reference has other ones than ``app.core.errors``."""
_INTERNAL = ("internal_error", "Internal server error")
_HTTP = {
    HTTPStatus.NOT_FOUND: ("not_found", "Not found", "There is nothing at this path."),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "Method not allowed", "This path doesn't take this method."),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("payload_too_large", "Payload too large", "The body is too long."),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (
        "unsupported_media_type",
        "Unsupported media type",
        "The body doesn't say that it is JSON.",
    ),
}
"""Code, title and meaning of the errors that Flask raises."""

THINGS = ("VM", "Command", "Job", "Snapshot", "SSH key")
"""What a ``NotFoundError`` may be about."""
_TOLD_OTHERWISE = {OwnUpError, NotFoundError, errors.GuestCallError}
"""Errors that are never told under the code of their class."""
_PRODUCT_NAMES = {"VM": "VPS"}
_POINTER_ESCAPES = str.maketrans({"~": "~0", "/": "~1"})
"""Source: RFC 6901, 3."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the page that problems lead to says of a code.

    Attributes:
        code: The code.
        title: Its title.
        status: Its HTTP status.
        meaning: What has happened.
    """

    code: str
    title: str
    status: HTTPStatus
    meaning: str


def write(failure: Failure) -> Response:
    """Make the problem document."""
    code, title = _code_and_title(failure)
    response = jsonify(
        {
            "type": f"{TYPE_BASE}{code}",
            "title": title,
            "status": failure.status.value,
            "detail": _detail(failure),
            "code": code,
            "instance": hide_keys(request.path),
            "requestId": request_id(),
            "timestamp": timestamp(services().clock()),
        }
        | _members(failure.error)
    )
    response.status_code, response.mimetype = failure.status, CONTENT_TYPE
    response.headers.extend(failure.headers)
    if isinstance(failure.error, errors.UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


FACE = Face(STATUSES, write)


def explain_codes() -> list[Explanation]:
    """List every code that this face may answer with."""
    by_code: dict[str, Explanation] = {}
    for entry in _explanations():
        known = by_code.get(entry.code)
        by_code[entry.code] = replace(entry, meaning=f"{known.meaning} {entry.meaning}") if known else entry
    return sorted(by_code.values(), key=lambda entry: (entry.status, entry.code))


def _explanations() -> Iterator[Explanation]:
    for row, status in STATUSES.items():
        for kind in _those_of(row):
            if kind not in _TOLD_OTHERWISE:
                yield Explanation(*_spelt(kind), status, (kind.__doc__ or "").partition("\n")[0])
    for thing in THINGS:
        yield Explanation(*_not_found(thing), HTTPStatus.NOT_FOUND, _no_such(thing))
    for status, (code, title, meaning) in _HTTP.items():
        yield Explanation(code, title, status, meaning)
    yield Explanation(*_INTERNAL, HTTPStatus.INTERNAL_SERVER_ERROR, f"{UNEXPECTED}.")


def _those_of(row: type[OwnUpError]) -> Iterator[type[OwnUpError]]:
    """List the errors that a row of the table is about; of all that have none only ``internal_error`` is told."""
    yield row
    for kind in row.__subclasses__() if row is not OwnUpError else ():
        if kind not in STATUSES:
            yield from _those_of(kind)


def _code_and_title(failure: Failure) -> tuple[str, str]:
    error = failure.error
    if failure.message == UNEXPECTED:
        return _INTERNAL
    if isinstance(error, NotFoundError):
        return _not_found(error.thing)
    if isinstance(error, OwnUpError):
        return _spelt(type(error))
    code, title, _ = _HTTP.get(failure.status, (failure.status.name.lower(), failure.status.phrase, ""))
    return code, title


def _spelt(kind: type[OwnUpError]) -> tuple[str, str]:
    return _SPELT.get(kind, (kind.code, kind.title))


def _detail(failure: Failure) -> str:
    """Tell what is wrong in one text; what has no place of its own in the body is told here."""
    error = failure.error
    if isinstance(error, NotFoundError):
        return _no_such(error.thing)
    if type(error) is InvalidRequestError or not isinstance(error, OwnUpError) or not failure.problems:
        return failure.message
    return f"{failure.message}: {'; '.join(problem.message for problem in failure.problems)}"


def _members(error: Exception) -> dict[str, Any]:
    """Make the members that only some problems have."""
    if isinstance(error, GateClosedError):
        return {"actions": {error.gate: {"allowed": False, "reason": error.reason, "code": error.gate_code}}}
    if type(error) is InvalidRequestError:
        return {"errors": [_entry(problem) for problem in error.problems]}
    return {}


def _entry(problem: Problem) -> dict[str, str]:
    return {"pointer": _pointer(problem), "detail": problem.message, "code": problem.kind}


def _pointer(problem: Problem) -> str:
    """Point to a field of the body; a parameter or a header is named as if it were one."""
    names = () if problem.field == "body" else (*problem.within, problem.field)
    return "".join(f"/{name.translate(_POINTER_ESCAPES)}" for name in names)


def _not_found(thing: str) -> tuple[str, str]:
    name = _PRODUCT_NAMES.get(thing, thing)
    return f"{name.lower().replace(' ', '_')}_not_found", f"{name} not found"


def _no_such(thing: str) -> str:
    return f"No {_PRODUCT_NAMES.get(thing, thing)} matching the given ID was found."
