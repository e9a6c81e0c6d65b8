"""The v1 face as a whole: its envelope, its OpenAPI document, its error handling, its routes.

Source: HostUp v1 docs, conventions.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

import marshmallow
from flask import Flask
from flask_smorest import Api, Blueprint
from marshmallow import fields

from app.api.parsing import RequestParser
from app.api.v1 import errors
from app.api.v1.schemas import ErrorSchema
from app.api.v1.timestamps import timestamp
from app.request_log import request_id
from app.services import services

BASE = "/api"

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_EXAMPLE_REQUEST_ID = "2121ae20-bd9d-41e9-aeeb-5dd1dd1a24ba"
_DESCRIPTION = """
Run commands in your VMs and switch them on and off. The API follows HostUp's v1: send your key as `X-API-Key` or as
`Authorization: Bearer`; answers come in an envelope; errors have `error`, `message`, `code`, `timestamp`, `requestId`
and, where a field is to blame, `details`. Every answer carries its request id as `X-Request-Id` too.
"""


def envelope(data: Any) -> dict[str, Any]:
    """Wrap the data of an answer."""
    return {"success": True, "timestamp": timestamp(services().clock()), "requestId": request_id(), "data": data}


def example(data: Any) -> dict[str, Any]:
    """Make the example of an answer for the OpenAPI document."""
    stamp = "2026-02-10T00:00:00.000Z"
    return {"success": True, "timestamp": stamp, "requestId": _EXAMPLE_REQUEST_ID, "data": data}


class V1Blueprint(Blueprint):
    """Routes whose views return the bare data of an answer."""

    ARGUMENTS_PARSER = RequestParser()

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

    def fails(self, *statuses: int) -> Decorator:
        """Document with which errors a view may answer."""
        return cast("Decorator", self.doc(responses={status: HTTPStatus(status).name for status in statuses}))


class V1Api(Api):
    """Renders every error of an application in the v1 body, and makes the OpenAPI document of the face."""

    ERROR_SCHEMA = ErrorSchema
    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_error_handlers(self) -> None:
        self._app.register_error_handler(Exception, errors.render)


def create_api(app: Flask) -> V1Api:
    """Give an application this face, still without routes."""
    app.config |= {
        "V1_API_TITLE": "OwnUp: HostUp v1",
        "V1_API_VERSION": "v1",
        "V1_OPENAPI_VERSION": "3.0.3",
        "V1_OPENAPI_URL_PREFIX": "/openapi",
        "V1_OPENAPI_JSON_PATH": "v1.json",
        "V1_API_SPEC_OPTIONS": {
            "info": {"description": _DESCRIPTION.strip()},
            "security": [{"apiKey": []}, {"bearer": []}],
        },
    }
    api = V1Api(app, config_prefix="V1")
    schemes = api.spec.components
    schemes.security_scheme("apiKey", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    schemes.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    return api


def _required(field: fields.Field[Any]) -> fields.Field[Any]:
    field.required = True
    return field
