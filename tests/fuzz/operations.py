"""What can be asked of the web half, and a good body for each: from its routes and its OpenAPI documents.

So a new route is tried without a new line here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Flask

from app import docs
from tests.openapi import METHODS, by_route

_PART = re.compile(r"<(?:\w+:)?(\w+)>")
_DEFAULTS = {"string": "x", "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}


@dataclass(frozen=True)
class Operation:
    """One method of one route.

    Attributes:
        method: For instance ``POST``.
        path: As in the document: ``/api/vm/{vmid}/status``.
        parameters: Its documented query parameters and headers.
        needs: A good value for each of them that must be there.
        body: A good body, if it takes JSON.
        takes: The media type of its body, if it takes any.
        foreseen: The statuses from 500 on that its document foresees.
    """

    method: str
    path: str
    parameters: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    takes: str | None = None
    foreseen: frozenset[int] = frozenset()

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"


def read_operations(app: Flask) -> list[Operation]:
    """List everything that can be asked, in a fixed order."""
    documents = [json.loads(app.test_client().get(document["url"]).data) for document in docs.DOCUMENTS]
    documented = {
        route: _describe(document, *route, operation)
        for document in documents
        for route, operation in by_route(document).items()
    }
    routes = {
        (method, _PART.sub(r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method.lower() in METHODS
    }
    return [documented.get(route, Operation(*route)) for route in sorted(routes, key=lambda route: route[::-1])]


def _describe(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> Operation:
    content = operation.get("requestBody", {}).get("content", {})
    takes = next(iter(content), None)
    body = json.dumps(_good(document, content[takes])).encode() if takes == "application/json" else None
    parameters = [one for one in operation.get("parameters", []) if one["in"] in {"query", "header"}]
    needs = {one["name"]: str(_good(document, one)) for one in parameters if one.get("required")}
    names = tuple(one["name"] for one in parameters)
    statuses = (int(status) for status in operation["responses"] if status.isdecimal())
    foreseen = frozenset(status for status in statuses if status >= 500)
    return Operation(method, path, names, needs, body, takes, foreseen)


def _good(document: dict[str, Any], part: Mapping[str, Any]) -> Any:
    """Make a value that fits a schema, or what has a schema: of its examples, if it has any."""
    match part:
        case {"$ref": ref}:
            _, _, kind, name = ref.split("/")
            return _good(document, document["components"][kind][name])
        case {"example": value} | {"default": value} | {"enum": [value, *_]}:
            return value
        case {"schema": inner} | {"allOf": [inner, *_]} | {"anyOf": [inner, *_]}:
            return _good(document, inner)
        case {"items": items}:
            return [_good(document, items)]
        case {"properties": _}:
            return _members(document, part)
    least = part.get("minimum", 0) + bool(part.get("exclusiveMinimum"))
    return least or _DEFAULTS.get(part.get("type", "object"))


def _members(document: dict[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Make an object: with all members that may stand together, and at least those that must be there."""
    names = list(part["properties"])[: part.get("maxProperties", len(part["properties"]))]
    chosen: list[str] = next((one["required"] for one in part.get("oneOf", []) if "required" in one), [])
    others = {name for one in part.get("oneOf", []) for name in one.get("required", [])} - set(chosen)
    return {name: _good(document, part["properties"][name]) for name in names if name not in others}
