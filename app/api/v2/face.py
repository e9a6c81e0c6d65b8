"""The v2 face as a whole: its path, its OpenAPI document, its routes' bodies, which are bare.

Source: HostUp v2 docs, conventions.
"""

from typing import Any

from flask import Flask

from app.api.face import FaceApi, FaceBlueprint
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

    def response(
        self, status_code: int, schema: Any = None, *, content_type: str = "application/json", **doc: Any
    ) -> Any:
        """Dump what a view returns with a schema; as ``flask_smorest.Blueprint.response``."""
        return super().response(status_code, schema, content_type=content_type, **doc)


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
