"""What all routes of this face have in common: who is asking, which version is spoken, what every answer carries.

Source: Nova, API guide and microversion history. One microversion is spoken, 2.1, the first.
"""

import re
from functools import partial
from typing import Any

from flask import Response, request
from werkzeug.exceptions import NotAcceptable

from app.access import Principal
from app.api.face import FaceBlueprint
from app.api.openstack.addresses import COMPUTE, IDENTITY
from app.api.requires import requires as requires_of
from app.core.errors import InvalidRequestError, Problem, UnauthorizedError
from app.present import present_request
from app.request_log import request_id
from app.services import services

MICROVERSION = "2.1"
VERSION_HEADERS = ("OpenStack-API-Version", "X-OpenStack-Nova-API-Version")
"""A client may send either; an answer carries both. Source: Nova, API guide, microversions."""

_VERSION = re.compile(r"\d{1,4}\.\d{1,4}")


def by_token() -> Principal:
    """Find out who is asking, as OpenStack's services do.

    Raises:
        UnauthorizedError: No token and no API key, or one that doesn't count.
    """
    secret = request.headers.get("X-Auth-Token")
    if secret is None:
        raise UnauthorizedError("The request carries no X-Auth-Token: log in first")
    return services().tokens.principal(secret, request.remote_addr)


requires = partial(requires_of, who=by_token)
"""``app.api.requires.requires`` for this face."""


class ComputeBlueprint(FaceBlueprint):
    """Routes of Nova, or below it: they insist on a microversion that is spoken here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before_request(insist_on_microversion)


def insist_on_microversion() -> None:
    """Refuse what asks for another microversion.

    Source: Nova, API guide, microversions: 406 for one that isn't spoken, 400 for what is none.

    Raises:
        NotAcceptable: Another one is asked for.
        InvalidRequestError: What is asked for is no microversion.
    """
    version = _wanted_version()
    if version in {None, MICROVERSION, "latest"}:
        return
    if not _VERSION.fullmatch(version or ""):
        raise InvalidRequestError(Problem(VERSION_HEADERS[0], f"must be like 'compute {MICROVERSION}'"))
    raise NotAcceptable(f"Version {version} is not supported by the API: the only one is {MICROVERSION}")


def add_headers(response: Response) -> Response:
    """Let an answer below this face carry what OpenStack's clients look for, if it is an error too."""
    path = present_request().path
    in_compute = _is_below(path, COMPUTE)
    if in_compute:
        response.headers["X-Compute-Request-ID"] = f"req-{request_id()}"
        response.headers[VERSION_HEADERS[0]] = f"compute {MICROVERSION}"
        response.headers[VERSION_HEADERS[1]] = MICROVERSION
        response.vary.update(VERSION_HEADERS)
    if in_compute or _is_below(path, IDENTITY):
        response.headers["X-Openstack-Request-Id"] = f"req-{request_id()}"
        response.vary.add("X-Auth-Token")
    return response


def _wanted_version() -> str | None:
    """Read which microversion the request asks of Nova; the first header goes before the second."""
    for part in request.headers.get(VERSION_HEADERS[0], "").split(","):
        service, _, version = part.strip().partition(" ")
        if service.lower() == "compute":
            return version.strip()
    return request.headers.get(VERSION_HEADERS[1])


def _is_below(path: str, base: str) -> bool:
    return path == base or path.startswith(f"{base}/")
