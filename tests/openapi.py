"""What tests do with OpenAPI documents: list their operations, hold values against their schemas."""

from typing import Any

METHODS = ("get", "put", "post", "patch", "delete")


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [item[method] for item in document["paths"].values() for method in METHODS if method in item]


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Hold a value against an object schema: all required fields there, no other ones."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "allOf" in schema:
        return check(document, schema["allOf"][0], value)
    if schema.get("type") == "array":
        for element in value:
            check(document, schema["items"], element)
    if "properties" in schema:
        assert set(schema.get("required", [])) <= set(value) <= set(schema["properties"])
        for name, member in value.items():
            if member is not None:
                check(document, schema["properties"][name], member)
    return None
