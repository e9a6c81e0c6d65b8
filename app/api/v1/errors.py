"""The v1 error body, and the one table that says which error is which HTTP status.

It also serves what lies outside all faces (``/``, ``/healthz`` …).
"""

from http import HTTPStatus
from typing import Any

from flask import Response, jsonify

from app.api.failures import Face, Failure
from app.api.timestamps import timestamp
from app.core import errors
from app.core.errors import OwnUpError
from app.request_log import request_id
from app.services import services

STATUSES: dict[type[OwnUpError], HTTPStatus] = {
    OwnUpError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidRequestError: HTTPStatus.BAD_REQUEST,
    errors.VmNotRunningError: HTTPStatus.BAD_REQUEST,
    errors.UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.IdempotencyConflictError: HTTPStatus.CONFLICT,
    errors.GateClosedError: HTTPStatus.CONFLICT,
    errors.SnapshotExistsError: HTTPStatus.CONFLICT,
    errors.RateLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TooManyCommandsError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.StartRefusedError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.StartUnknownError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.StartExpiredError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.GuestCallExpiredError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.SshKeyRefusedError: HTTPStatus.BAD_REQUEST,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Source for 400 and 500: HostUp v1 docs, POST agent/exec."""

_CODES = {
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL_ERROR",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "PAYLOAD_TOO_LARGE",
}
"""Codes that aren't just the name of the status. Source: HostUp v1 docs show BAD_REQUEST, NOT_FOUND, INTERNAL_ERROR."""


def write(failure: Failure) -> Response:
    """Make the error body.

    Source: HostUp v1 docs: five required fields, and no ``success``; for 429 others; HostUp's WHMCS module shows
    ``details``.
    """
    body: dict[str, Any] = {"error": failure.status.phrase, "message": failure.message, "requestId": request_id()}
    if failure.status is HTTPStatus.TOO_MANY_REQUESTS:
        body["retryAfter"] = dict(failure.headers)["Retry-After"]
    else:
        body["code"] = _CODES.get(failure.status, failure.status.name)
        body["timestamp"] = timestamp(services().clock())
    if failure.problems:
        body["details"] = [{"field": problem.name, "message": problem.message} for problem in failure.problems]
    response = jsonify(body)
    response.status_code = failure.status
    response.headers.extend(failure.headers)
    if isinstance(failure.error, errors.UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


FACE = Face(STATUSES, write)
