"""The v1 face as a whole: its envelope, its OpenAPI document, its routes.

Source: HostUp v1 docs, conventions.
"""

from typing import Any

import marshmallow
from flask import Flask
from marshmallow import fields

from app.api.face import FaceApi, FaceBlueprint
from app.api.timestamps import timestamp
from app.api.v1.schemas import ErrorSchema, RateLimitedSchema
from app.request_log import request_id
from app.services import services

BASE = "/api"

_EXAMPLE_REQUEST_ID = "2121ae20-bd9d-41e9-aeeb-5dd1dd1a24ba"
_DESCRIPTION = """
Run commands in your VMs and switch them on and off. The API follows HostUp's v1: send your key as `X-API-Key` or as
`Authorization: Bearer`; answers come in an envelope; errors have `error`, `message`, `code`, `timestamp`, `requestId`
and, where a field is to blame, `details`; who sends too much gets 429 with `retryAfter`. Every answer carries its
request id as `X-Request-Id` too.
"""


def envelope(data: Any) -> dict[str, Any]:
    """Wrap the data of an answer."""
    return {"success": True, "timestamp": timestamp(services().clock()), "requestId": request_id(), "data": data}


def example(data: Any) -> dict[str, Any]:
    """Make the example of an answer for the OpenAPI document."""
    stamp = "2026-02-10T00:00:00.000Z"
    return {"success": True, "timestamp": stamp, "requestId": _EXAMPLE_REQUEST_ID, "data": data}


class V1Blueprint(FaceBlueprint):
    """Routes whose views return the bare data of an answer."""

    @staticmethod
    def _make_doc_response_schema(schema: marshmallow.Schema) -> type[marshmallow.Schema]:
        bare = type(schema)
        data = fields.List(fields.Nested(bare)) if schema.many else fields.Nested(bare)
        name = bare.__name__.removesuffix("Schema") + ("List" if schema.many else "")
        return marshmallow.Schema.from_dict(
            {
                "success": fields.Boolean(required=True, metadata={"description": "True for every answer with 2xx."}),
                "timestamp": fields.String(required=True, metadata={"description": "ISO 8601, UTC, milliseconds."}),
                "requestId": fields.UUID(required=True, metadata={"description": "The id of this request."}),
                "data": _required(data),
            },
            name=f"{name}Answer",
        )

    @staticmethod
    def _prepare_response_content(data: Any) -> dict[str, Any]:
        return envelope(data)


class V1Api(FaceApi):
    """Documents the face."""

    ERROR_SCHEMA = ErrorSchema
    RATE_LIMITED_SCHEMA = RateLimitedSchema


def create_api(app: Flask) -> V1Api:
    """Give an application this face, still without routes."""
    api = V1Api(app, "v1", title="OwnUp: HostUp v1", version="v1", description=_DESCRIPTION)
    api.secure("apiKey", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    api.secure("bearer", {"type": "http", "scheme": "bearer"})
    return api


def _required(field: fields.Field[Any]) -> fields.Field[Any]:
    field.required = True
    return field
