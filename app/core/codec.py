"""Flat frozen dataclasses to Redis hashes and back.

``None`` is the absence of the field. Times are epoch seconds, so that a script inside Redis can compare them. Fields
that this version doesn't know are ignored, so that web and worker can be upgraded one after the other.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
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
    readers = _readers(cast("Any", kind))
    return kind(**{known[0]: known[1](raw) for key, raw in fields.items() if (known := readers.get(key))})


def _shallow(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _names(cast("Any", type(record)))}


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _encode_value(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, datetime):
        return repr(value.timestamp())
    if isinstance(value, str | int):
        return str(value)
    return json.dumps(value, separators=(",", ":"))


@functools.cache
def _readers(kind: Any) -> dict[bytes, tuple[str, Callable[[bytes], Any]]]:
    """Tell by its name in Redis each field's name and how its value is read: worked out once for a kind of record."""
    hints = typing.get_type_hints(kind)
    return {name.encode(): (name, _reader(_without_none(hint))) for name, hint in hints.items()}


def _reader(value_type: Any) -> Callable[[bytes], Any]:
    if value_type in _READERS:
        return _READERS[value_type]
    if isinstance(value_type, type) and issubclass(value_type, StrEnum):
        return lambda raw: value_type(raw.decode())
    if typing.get_origin(value_type) is tuple:
        return lambda raw: tuple(json.loads(raw))
    return json.loads


_READERS: dict[Any, Callable[[bytes], Any]] = {
    bool: lambda raw: raw == b"1",
    datetime: lambda raw: datetime.fromtimestamp(float(raw), tz=UTC),
    float: float,
    int: int,
    str: bytes.decode,
}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        return next(arm for arm in typing.get_args(hint) if arm is not types.NoneType)
    return hint
