"""Flat frozen dataclasses to Redis hashes and back.

``None`` is the absence of the field. Times are epoch seconds, so that a script inside Redis can compare them. Fields
that this version doesn't know are ignored, so that web and worker can be upgraded one after the other.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar, cast

Record = TypeVar("Record")


def encode(record: Any) -> dict[str, str]:
    """Encode a record, or a part of one given as a mapping, into the fields of a Redis hash."""
    fields = record if isinstance(record, Mapping) else _shallow(record)
    return {name: _encode_value(value) for name, value in fields.items() if value is not None}


def decode(kind: type[Record], fields: Mapping[bytes, bytes]) -> Record:
    """Decode the fields of a Redis hash into a record of the given kind."""
    values = {}
    for name, value_type in _field_types(cast("Any", kind)).items():
        raw = fields.get(name.encode())
        if raw is not None:
            values[name] = _decode_value(value_type, raw)
    return kind(**values)


def _shallow(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _encode_value(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, datetime):
        return repr(value.timestamp())
    if isinstance(value, str):
        return str(value)
    return json.dumps(value, separators=(",", ":"))


def _decode_value(value_type: Any, raw: bytes) -> Any:
    if value_type is bool:
        return raw == b"1"
    if value_type is datetime:
        return datetime.fromtimestamp(float(raw), tz=UTC)
    if isinstance(value_type, type) and issubclass(value_type, StrEnum):
        return value_type(raw.decode())
    if value_type is str:
        return raw.decode()
    value = json.loads(raw)
    return tuple(value) if typing.get_origin(value_type) is tuple else value


@functools.cache
def _field_types(kind: Any) -> dict[str, Any]:
    return {name: _without_none(hint) for name, hint in typing.get_type_hints(kind).items()}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        return next(arm for arm in typing.get_args(hint) if arm is not types.NoneType)
    return hint
