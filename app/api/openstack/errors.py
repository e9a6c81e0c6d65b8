"""The error bodies of Nova and of Keystone, and the one table that says which error is which HTTP status."""

from http import HTTPStatus
from typing import Any

from flask import Response, jsonify

from app.api.failures import Face, Failure
from app.api.openstack.addresses import IDENTITY, url
from app.core import errors
from app.core.errors import OwnUpError

STATUSES: dict[type[OwnUpError], HTTPStatus] = {
    OwnUpError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidRequestError: HTTPStatus.BAD_REQUEST,
    errors.UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.VmNotRunningError: HTTPStatus.CONFLICT,
    errors.GateClosedError: HTTPStatus.CONFLICT,
    errors.IdempotencyConflictError: HTTPStatus.CONFLICT,
    errors.RateLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TooManyCommandsError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.StartRefusedError: HTTPStatus.CONFLICT,
    errors.StartExpiredError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.GuestCallRefusedError: HTTPStatus.CONFLICT,
    errors.GuestCallExpiredError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.TransferBrokenError: HTTPStatus.CONFLICT,
    errors.FileTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}

_FAULTS = {
    HTTPStatus.BAD_REQUEST: "badRequest",
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "itemNotFound",
    HTTPStatus.METHOD_NOT_ALLOWED: "badMethod",
    HTTPStatus.CONFLICT: "conflictingRequest",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "overLimit",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "badMediaType",
    HTTPStatus.TOO_MANY_REQUESTS: "overLimit",
    HTTPStatus.NOT_IMPLEMENTED: "notImplemented",
    HTTPStatus.SERVICE_UNAVAILABLE: "serviceUnavailable",
}
"""Source: Nova, api/openstack/wsgi.py, ``Fault``: any other status is a ``computeFault``. 429 has a ``retryAfter``."""


def write_fault(failure: Failure) -> Response:
    """Make Nova's error body; who isn't known is told so in Keystone's, as by the layer that Nova has before it."""
    if failure.status is HTTPStatus.UNAUTHORIZED:
        return write_error(failure)
    fault: dict[str, Any] = {"code": int(failure.status), "message": failure.message}
    details = "; ".join(f"{problem.name}: {problem.message}" for problem in failure.problems)
    if details and failure.message not in details:
        fault["details"] = details
    if failure.status is HTTPStatus.TOO_MANY_REQUESTS:
        fault["retryAfter"] = dict(failure.headers)["Retry-After"]
    return _answer(failure, {_FAULTS.get(failure.status, "computeFault"): fault})


def write_error(failure: Failure) -> Response:
    """Make Keystone's error body."""
    error = {"code": int(failure.status), "title": failure.status.phrase, "message": failure.message}
    response = _answer(failure, {"error": error})
    if failure.status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = f'Keystone uri="{url(IDENTITY)}"'
    return response


def _answer(failure: Failure, body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.status_code = failure.status
    response.headers.extend(failure.headers)
    return response


COMPUTE_FACE = Face(STATUSES, write_fault)
IDENTITY_FACE = Face(STATUSES, write_error)
