"""The v1 error body, and the one table that says which error is which HTTP status.

It also serves what lies outside all faces (``/``, ``/healthz`` …).
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from flask import Response, jsonify
from werkzeug.exceptions import HTTPException

from app.api.v1.timestamps import timestamp
from app.core import errors
from app.core.errors import OwnUpError, Problem
from app.request_log import note_failure, request_id
from app.services import services

STATUS: dict[type[OwnUpError], HTTPStatus] = {
    OwnUpError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidRequestError: HTTPStatus.BAD_REQUEST,
    errors.VmNotRunningError: HTTPStatus.BAD_REQUEST,
    errors.UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.IdempotencyConflictError: HTTPStatus.CONFLICT,
    errors.StartRefusedError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.StartUnknownError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.StartExpiredError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""A class without a row has its parent's. Source for 400 and 500: HostUp v1 docs, POST agent/exec."""

SHOWN = (errors.StartFailedError, errors.UnavailableError)
"""The errors with a 5xx that are foreseen: their text is for the caller; of all others only the log tells."""

UNEXPECTED = "An unexpected error occurred"

_CODES = {
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL_ERROR",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "PAYLOAD_TOO_LARGE",
}
"""Codes that aren't just the name of the status. Source: HostUp v1 docs show BAD_REQUEST, NOT_FOUND, INTERNAL_ERROR."""


def render(error: Exception) -> Response:
    """Answer a request with the error that it ended in."""
    if isinstance(error, HTTPException):
        return _render_http(error)
    status = status_of(error)
    foreseen = status < HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(error, SHOWN)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        note_failure(error, expected=foreseen)
    if not isinstance(error, OwnUpError) or not foreseen:
        return _body(status, UNEXPECTED, ())
    response = _body(status, str(error), error.problems)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def status_of(error: Exception) -> HTTPStatus:
    """Tell which HTTP status an error has in this face."""
    rows = (STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return next(rows, HTTPStatus.INTERNAL_SERVER_ERROR)


def _render_http(error: HTTPException) -> Response:
    """Answer with an error that Flask raised: unknown path, wrong method, too much, wrong content type."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    problem = _http_problem(status)
    message = problem.message if problem else error.description or status.phrase
    response = _body(status, message, [problem] if problem else [])
    response.headers.extend(
        (name, value) for name, value in error.get_headers() if name not in {"Content-Type", "Content-Length"}
    )
    return response


def _http_problem(status: HTTPStatus) -> Problem | None:
    """Name what is to blame for an error that Flask raised."""
    match status:
        case HTTPStatus.NOT_FOUND:
            return Problem("path", "There is nothing at this path")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return Problem("method", "This path doesn't take this method")
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Problem("body", f"The body must be at most {services().settings.max_body_bytes} bytes long")
        case HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            return Problem("Content-Type", "The body must be JSON; send Content-Type: application/json")
        case _:
            return None


def _body(status: HTTPStatus, message: str, problems: Sequence[Problem]) -> Response:
    """Make the error body.

    Source: HostUp v1 docs: five required fields, and no ``success``; HostUp's WHMCS module shows ``details``.
    """
    body: dict[str, Any] = {
        "error": status.phrase,
        "message": message,
        "code": _CODES.get(status, status.name),
        "timestamp": timestamp(services().clock()),
        "requestId": request_id(),
    }
    if problems:
        body["details"] = [{"field": problem.field, "message": problem.message} for problem in problems]
    response = jsonify(body)
    response.status_code = status
    return response
