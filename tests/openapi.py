"""What tests do with OpenAPI documents: find their operations and examples, hold values against their schemas."""

from collections.abc import Iterator
from typing import Any

from openapi_schema_validator import OAS30Validator

METHODS = ("get", "put", "post", "patch", "delete")
AS_IT_IS = {"example", "default", "enum", "oneOf"}
"""What in a schema holds values, or schemas of which others tell the other members."""


def by_route(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """List the operations by method and path."""
    return {
        (method.upper(), path): item[method]
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    }


def examples(part: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """List what a document, or a part of it, gives as examples: answers, bodies, fields; each with its schema."""
    if isinstance(part, list):
        part = dict(enumerate(part))
    if isinstance(part, dict):
        given = [entry["value"] for entry in part.get("examples", {}).values()]
        given += [part["example"]] if "example" in part else []
        yield from ((part.get("schema", part), value) for value in given)
        for name in set(part) - {"example", "examples"}:
            yield from examples(part[name])


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Hold a value against a schema: it fits, and no object has members that aren't documented."""
    components = {name: _closed(member) for name, member in document["components"]["schemas"].items()}
    OAS30Validator(_closed(schema) | {"components": {"schemas": components}}).validate(value)


def _closed(schema: Any) -> Any:
    """Make a schema of which the objects may have no other members than the documented ones."""
    if isinstance(schema, list):
        return [_closed(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: schema[name] if name in AS_IT_IS else _closed(schema[name]) for name in schema}
    return ({"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}) | closed
