"""What every face does with an error before it writes it in its own body: its status, its text, who is told what.

Knows no body. A face has a table of statuses and a function that writes a ``Failure``; ``install`` finds the face by
the path, so that an unknown path and a malformed body are answered in the face's own shape too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from app.api.timestamps import timestamp
from app.core import errors
from app.core.errors import OwnUpError, Problem
from app.core.secrecy import hide_keys
from app.request_log import note_error, note_failure
from app.services import services

Statuses = Mapping[type[OwnUpError], HTTPStatus]
"""Which error is which HTTP status in a face; a class without a row has its parent's."""

SHOWN = (errors.StartFailedError, errors.GuestCallError, errors.UnavailableError)
"""The errors with a 5xx that are foreseen: their text is for the caller; of all others only the log tells."""

UNEXPECTED = "An unexpected error occurred"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a caller may be told of it.

    Attributes:
        error: What was raised; nothing of it but what stands below is for the caller.
        status: HTTP status.
        message: Text for people.
        problems: The details a caller can act on.
        headers: Header fields that belong to the status.
    """

    error: Exception
    status: HTTPStatus
    message: str
    problems: tuple[Problem, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Face:
    """How a face tells errors.

    Attributes:
        statuses: Its table.
        write: Makes its error body.
    """

    statuses: Statuses
    write: Callable[[Failure], Response]

    def render(self, error: Exception) -> Response:
        """Answer a request with the error that it ended in."""
        return self.write(judge(error, self.statuses))


def install(app: Flask, faces: Mapping[str, Face], otherwise: Face) -> None:
    """Let every error of an application be told by the face of its path.

    Args:
        app: The application.
        faces: Each face by the path it begins at; of two that fit the longer counts.
        otherwise: For all other paths.
    """
    by_length = sorted(faces.items(), key=lambda item: len(item[0]), reverse=True)

    def render(error: Exception) -> Response:
        path = request.path
        fitting = (face for base, face in by_length if path == base or path.startswith(f"{base}/"))
        return next(fitting, otherwise).render(error)

    app.register_error_handler(Exception, render)


def judge(error: Exception, statuses: Statuses) -> Failure:
    """Find out what a caller may be told of an error; what must be looked into is noted for the log."""
    note_error(error)
    if isinstance(error, HTTPException):
        return _judge_http(error)
    status = status_of(error, statuses)
    foreseen = status < HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(error, SHOWN)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        note_failure(error, expected=foreseen)
    if not isinstance(error, OwnUpError) or not foreseen:
        return Failure(error, status, UNEXPECTED)
    return Failure(error, status, hide_keys(str(error)), tuple(map(_without_keys, error.problems)), _headers(error))


def _without_keys(problem: Problem) -> Problem:
    """Take API keys out of what is told of a request: somebody put one where none belongs."""
    return replace(problem, field=hide_keys(problem.field), message=hide_keys(problem.message))


def _headers(error: OwnUpError) -> tuple[tuple[str, str], ...]:
    """Make the header fields that tell when a refused request may be sent again.

    Source: HostUp v2 docs, rate limits; RFC 9110, 10.2.3.
    """
    if isinstance(error, errors.TooManyCommandsError):
        return (("Retry-After", "1"),)  # nobody knows when one of them ends
    if not isinstance(error, errors.RateLimitedError):
        return ()
    return (
        ("Retry-After", str(error.retry_after_s)),
        ("X-RateLimit-Limit", str(error.limit)),
        ("X-RateLimit-Remaining", str(error.remaining)),
        ("X-RateLimit-Reset", timestamp(error.reset)),
    )


def status_of(error: Exception, statuses: Statuses) -> HTTPStatus:
    """Tell which HTTP status an error has in a face."""
    rows = (statuses[kind] for kind in type(error).__mro__ if kind in statuses)
    return next(rows, HTTPStatus.INTERNAL_SERVER_ERROR)


def _judge_http(error: HTTPException) -> Failure:
    """Judge an error that Flask raised: unknown path, wrong method, too much, wrong content type."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    problem = _http_problem(status)
    message = problem.message if problem else error.description or status.phrase
    headers = tuple(pair for pair in error.get_headers() if pair[0] not in {"Content-Type", "Content-Length"})
    return Failure(error, status, message, (problem,) if problem else (), headers)


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
