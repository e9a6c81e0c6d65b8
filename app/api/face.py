"""What the faces share where they meet flask-smorest: how routes are declared, and one OpenAPI document a face."""

import functools
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import marshmallow
from flask import Flask, Response
from flask_smorest import Api, Blueprint
from flask_smorest.utils import prepare_response
from marshmallow.types import UnknownOption

from app.api.json_text import answer
from app.api.parsing import RequestReader, SchemaLike
from app.present import present_request

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_LIMIT_HEADERS = {
    "Retry-After": {"description": "Seconds to wait before the next try.", "schema": {"type": "integer"}},
    "X-RateLimit-Limit": {"description": "How many requests are allowed.", "schema": {"type": "integer"}},
    "X-RateLimit-Remaining": {"description": "How many are left.", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {
        "description": "When the next one is allowed.",
        "schema": {"type": "string", "format": "date-time"},
    },
}
"""Source: HostUp v2 docs, rate limits. The last three aren't there if it is commands that are too many."""


def about(description: str) -> dict[str, str]:
    """Make the metadata of a field that is explained in the OpenAPI document."""
    return {"description": description}


class AnswerSchema(marshmallow.Schema):
    """What stands in an answer; made from a dict, or from a record."""

    def __init__(self, **options: Any) -> None:
        """Prepare for answers; the options are marshmallow's."""
        super().__init__(**options)
        self._outgoing = tuple(
            (name, field.data_key or name, field.dump_default, field._serialize)  # noqa: SLF001 - as Nested does
            for name, field in self.dump_fields.items()
        )

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """Write it, or a list of them; marshmallow's own way, with hooks and accessors, takes twice as long."""
        is_list = self.many if many is None else many
        return [self._dump(each) for each in obj] if is_list else self._dump(obj)

    def _dump(self, obj: Any) -> dict[str, Any]:
        find = obj.get if isinstance(obj, dict) else functools.partial(getattr, obj)
        answer = {}
        for name, key, default, serialize in self._outgoing:
            value = find(name, default)
            if value is not marshmallow.missing:
                answer[key] = serialize(value, name, obj)
        return answer


class FaceBlueprint(Blueprint):
    """Routes of a face."""

    def arguments(
        self,
        schema: SchemaLike,
        *,
        location: str = "json",
        as_kwargs: bool = False,
        required: bool = True,
        unknown: UnknownOption | None = None,
    ) -> Decorator:
        """Give a view what a part of the request says, read by a schema, and document it.

        Args:
            schema: What is to be read.
            location: ``path``, ``query``, ``headers`` or ``json``.
            as_kwargs: Whether each field is an argument of the view, and not all of them one.
            required: Whether there must be a body, as far as the document goes.
            unknown: As in ``RequestReader``.
        """
        document = super().arguments(
            schema, location=location, required=required, error_status_code=HTTPStatus.BAD_REQUEST
        )
        read = RequestReader(schema, location, unknown).read

        def decorate(view: Any) -> Any:
            @functools.wraps(document(view))
            def given(*args: Any, **kwargs: Any) -> Any:
                found = read(present_request())
                return view(*args, **(kwargs | found)) if as_kwargs else view(*args, found, **kwargs)

            return given

        return decorate

    def response(self, status: int, schema: Any = None, **documented: Any) -> Decorator:
        """Answer with the data that a view returns, written by a schema, and document it.

        A view may return its data and headers, as a pair; or a response of its own.

        Args:
            status: Of the answer.
            schema: Writes the data; where views make the responses, it may be one of OpenAPI.
            documented: What flask-smorest documents beside these.
        """
        document = super().response(status, schema, **documented)
        writer = schema() if isinstance(schema, type) else schema

        def decorate(view: Any) -> Any:
            @functools.wraps(document(view))
            def answered(*args: Any, **kwargs: Any) -> Response:
                found = view(*args, **kwargs)
                if isinstance(found, Response):
                    return found
                data, headers = found if isinstance(found, tuple) else (found, None)
                return answer(self._prepare_response_content(writer.dump(data) if writer else data), status, headers)

            return answered

        return decorate

    def fails(self, *statuses: int) -> Decorator:
        """Document with which errors a view may answer; one that asks for a key may always find it used too much."""
        limited = {HTTPStatus.TOO_MANY_REQUESTS} if HTTPStatus.UNAUTHORIZED in statuses else set()
        responses = {int(status): HTTPStatus(status).name for status in sorted({*statuses, *limited})}

        def decorate(view: Any) -> Any:
            view._apidoc = self.doc(responses=responses)(view)._apidoc  # noqa: SLF001 - one call less a request
            return view

        return decorate


def _allow_null(_converter: Any, _field: Any, ret: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
    """Document that null stands where there is no object; apispec's own way to say it doesn't allow null.

    Source: OpenAPI 3.0.3, schema object: ``nullable`` adds to the ``type`` beside it, and to no other one.
    """
    if not (ret.get("nullable") and "allOf" in ret):
        return {}
    del ret["nullable"]
    return {"anyOf": [*ret.pop("allOf"), {"type": "object", "nullable": True, "enum": [None]}]}


class FaceApi(Api):
    """Makes the OpenAPI document of a face, ``/openapi/<name>.json``; a subclass sets ``ERROR_SCHEMA``.

    It may set ``RATE_LIMITED_SCHEMA`` too, where the body of a 429 has another one.
    """

    DEFAULT_ERROR_RESPONSE_NAME = None
    RATE_LIMITED_SCHEMA: Any = None

    def __init__(self, app: Flask, name: str, *, title: str, version: str, description: str) -> None:
        """Give an application a face, still without routes.

        Args:
            app: The application.
            name: Of the document.
            title: For people.
            version: Of the face.
            description: What is true of all its routes, in Markdown.
        """
        prefix = name.upper()
        app.config |= {
            f"{prefix}_API_TITLE": title,
            f"{prefix}_API_VERSION": version,
            f"{prefix}_OPENAPI_VERSION": "3.0.3",
            f"{prefix}_OPENAPI_URL_PREFIX": "/openapi",
            f"{prefix}_OPENAPI_JSON_PATH": f"{name}.json",
            f"{prefix}_API_SPEC_OPTIONS": {"info": {"description": description.strip()}},
        }
        super().__init__(app, config_prefix=prefix)
        self.ma_plugin.converter.add_attribute_function(_allow_null)

    def secure(self, name: str, scheme: dict[str, Any]) -> None:
        """Document a way to authenticate; any one of several will do."""
        self.spec.components.security_scheme(name, scheme)
        self.spec.options.setdefault("security", []).append({name: []})

    def _register_responses(self) -> None:
        """Document the errors, among them the 429 with its header fields."""
        super()._register_responses()
        too_many = HTTPStatus.TOO_MANY_REQUESTS
        schema = self.RATE_LIMITED_SCHEMA or self.ERROR_SCHEMA
        response = {"description": too_many.phrase, "schema": schema, "headers": _LIMIT_HEADERS}
        prepare_response(response, self.spec, self.DEFAULT_RESPONSE_CONTENT_TYPE)
        self.spec.components.response(too_many.name, response, lazy=True)

    def _register_error_handlers(self) -> None:
        """Leave errors to ``app.api.failures``, which knows all faces."""
