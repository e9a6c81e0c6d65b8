"""What is answered to bytes that are no HTTP request, before any route or face is known: v1's error body.

Knows gunicorn's errors. Never repeats what was sent.
"""

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from gunicorn.http import errors  # type: ignore[import-untyped]

from app.api.timestamps import timestamp
from app.core import ids
from app.core.clock import now

_STATUSES: Mapping[type[Exception], HTTPStatus] = {
    errors.InvalidResponseHeader: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidResponseHeaderName: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ConfigurationProblem: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    errors.ParseException: HTTPStatus.BAD_REQUEST,
}
"""The first class that fits counts; what is none of them is our own fault."""

_MESSAGES: Mapping[HTTPStatus, str] = {
    HTTPStatus.INTERNAL_SERVER_ERROR: "An unexpected error occurred",
    HTTPStatus.REQUEST_URI_TOO_LONG: "The request line is too long",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "There are too many header fields, or too long ones",
    HTTPStatus.EXPECTATION_FAILED: "Only 100-continue can be expected",
    HTTPStatus.NOT_IMPLEMENTED: "This transfer coding is not supported",
    HTTPStatus.BAD_REQUEST: "This is no HTTP request",
}


def judge(error: Exception) -> HTTPStatus:
    """Tell the status of an answer to what led to an error."""
    fitting = (status for kind, status in _STATUSES.items() if isinstance(error, kind))
    return next(fitting, HTTPStatus.INTERNAL_SERVER_ERROR)


def write(status: HTTPStatus) -> bytes:
    """Write an answer, after which the connection ends."""
    request_id = ids.request_id()
    code = "INTERNAL_ERROR" if status is HTTPStatus.INTERNAL_SERVER_ERROR else status.name
    body = orjson.dumps({
        "error": status.phrase,
        "message": _MESSAGES[status],
        "code": code,
        "timestamp": timestamp(now()),
        "requestId": request_id,
    })
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"X-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
