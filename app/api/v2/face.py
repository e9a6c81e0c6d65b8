"""The v2 face as a whole: its path, its OpenAPI document, its routes' bodies, which are bare.

Source: HostUp v2 docs, conventions.
"""

from typing import Any

from flask import Flask

from app.api.face import Decorator, FaceApi, FaceBlueprint
from app.api.v2.schemas import ProblemSchema

BASE = "/api/v2"

_DESCRIPTION = """
Run commands in your VMs, watch them and switch them on and off. The API follows HostUp's v2: send your key as
`Authorization: Bearer` or as `X-API-Key`; answers are bare resources, lists are `{data, nextCursor}`, and work that
takes a while is answered with 202 and an `operation` whose `pollUrl` tells how far it is. Errors are problem documents
(RFC 7807) with a stable `code`; `/docs/errors` lists all codes. Every answer carries its request id as `X-Request-Id`.

A GB is 1,024 MB, a MB 1,024 KB, a KB 1,024 bytes. What OwnUp can't know (prices, invoices, addresses) is `null`.
"""


class V2Blueprint(FaceBlueprint):
    """Routes whose views return bare resources."""

    def response(self, status: int, schema: Any = None, **documented: Any) -> Decorator:
        """Answer as other faces do; what is documented is no problem document."""
        return super().response(status, schema, **{"content_type": "application/json"} | documented)


class V2Api(FaceApi):
    """Documents the face."""

    ERROR_SCHEMA = ProblemSchema
    DEFAULT_RESPONSE_CONTENT_TYPE = "application/problem+json"
    """That of errors, which have no other; successes say their own."""


def create_api(app: Flask) -> V2Api:
    """Give an application this face, still without routes."""
    api = V2Api(app, "v2", title="OwnUp: HostUp v2", version="v2", description=_DESCRIPTION)
    api.secure("bearer", {"type": "http", "scheme": "bearer"})
    api.secure("apiKey", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    return api
