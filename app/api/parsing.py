"""How every face takes in a request: bodies, query parameters and path parts through marshmallow schemas.

What is wrong is raised as OwnUp's own error; the face renders it.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn, cast

import marshmallow
from flask import Request
from marshmallow import ValidationError, fields, validate
from marshmallow.types import UnknownOption
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.api.json_text import load_object
from app.core.errors import InvalidRequestError, Problem, ProblemKind

MAX_INTEGER = 2**63 - 1

SchemaLike = marshmallow.Schema | type[marshmallow.Schema]

_DIGITS = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class PlainInteger(fields.Integer):
    """A positive integer of a path or a query: decimal digits and nothing else, 1 to 2^63-1 or less."""

    def __init__(self, *, maximum: int = MAX_INTEGER, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(1, maximum), **kwargs)
        self._maximum = maximum

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> int:
        number = int(value) if _DIGITS.fullmatch(value) else 0
        if not 1 <= number <= self._maximum:
            raise ValidationError(f"must be an integer from 1 to {self._maximum}")
        return number

    def _validate(self, value: int) -> None:
        """Do nothing: the range, which the OpenAPI document shows, is kept to already."""


class PlainNumber(fields.Float):
    """A number of a query: decimal digits, perhaps with a fraction; no sign, no exponent."""

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> float:
        if not _DECIMAL.fullmatch(value):
            raise self.make_error("invalid")
        return float(value)


class StrictBoolean(fields.Boolean):
    """``true`` or ``false``; not ``"yes"``, ``1`` or ``0``."""

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("must be true or false")
        return value


class StrictNumber(fields.Float):
    """A number of a JSON body; not ``"5"``, not ``true``."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        if not isinstance(value, int | float):
            raise self.make_error("invalid")
        return super()._deserialize(value, *args, **kwargs)


class StrictInteger(fields.Integer):
    """An integer of a JSON body; not ``"5"``, not ``5.0``, not ``true``."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.make_error("invalid")
        return super()._deserialize(value, *args, **kwargs)


class RequestReader:
    """Reads one part of a request by a schema, and refuses it with our own error."""

    def __init__(self, schema: SchemaLike, location: str, unknown: UnknownOption | None = None) -> None:
        """Prepare for requests.

        Args:
            schema: What is to be read.
            location: ``path``, ``query``, ``headers`` or ``json``.
            unknown: What becomes of fields that the schema doesn't know; ``None``: a body may have none, elsewhere they
                are ignored.
        """
        self._schema = schema() if isinstance(schema, type) else schema
        self._give = _LOCATIONS[location]
        self._unknown = unknown or (marshmallow.RAISE if location == "json" else marshmallow.EXCLUDE)
        self._fields = {field.data_key or name: (name, field) for name, field in self._schema.load_fields.items()}
        self._required = {key for key, (_, field) in self._fields.items() if field.required}
        self._defaults = {
            name: field.load_default
            for name, field in self._schema.load_fields.items()
            if field.load_default is not marshmallow.missing
        }
        has_hooks = any(self._schema._hooks.values())  # noqa: SLF001 - public nowhere
        is_computed = any(callable(default) for default in self._defaults.values())
        self._is_plain = self._unknown == marshmallow.EXCLUDE and not has_hooks and not is_computed

    def read(self, request: Request) -> Any:
        """Read it.

        Raises:
            InvalidRequestError: It isn't as the schema wants it.
        """
        given = self._give(request, self._fields)
        try:
            if self._is_plain:
                return self._load_plain(given)
        except ValidationError:
            pass  # marshmallow's own way finds everything that is wrong
        try:
            return self._schema.load(given, unknown=self._unknown)
        except ValidationError as error:
            self._refuse(error, given)

    def _load_plain(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Do what the schema does where nothing is wrong and it has no hooks, in half the time.

        Raises:
            ValidationError: Something is wrong.
        """
        if not self._required <= given.keys():
            raise ValidationError("Something is missing")
        loaded = self._defaults.copy()
        for key, value in given.items():
            if key in self._fields:
                name, field = self._fields[key]
                loaded[name] = field.deserialize(value, key, given)
        return loaded

    def _refuse(self, error: ValidationError, given: Mapping[str, Any]) -> NoReturn:
        found = _problems(cast("dict[str, Any]", error.messages))
        raise InvalidRequestError(*(_classify(problem, self._fields, given) for problem in found)) from error


def _give_body(request: Request, _known: Collection[str]) -> Any:
    """Take the body; no body reads as an object without fields.

    Raises:
        RequestEntityTooLarge: The body is too long.
        UnsupportedMediaType: There is a body, and it doesn't say that it is JSON.
    """
    body = request.get_data()
    limit_bytes = request.max_content_length
    if request.content_length is None and limit_bytes is not None and len(body) >= limit_bytes:
        raise RequestEntityTooLarge  # werkzeug cuts a chunked body at the limit without a word
    if body and not request.is_json:
        raise UnsupportedMediaType
    return load_object(body) if body else {}


def _give_query(request: Request, known: Collection[str]) -> dict[str, str]:
    """Take the query parameters.

    Raises:
        InvalidRequestError: One that the schema knows is given more than once.
    """
    given = request.args.to_dict(flat=False)
    repeated = [name for name, values in given.items() if len(values) > 1 and name in known]
    if repeated:
        raise InvalidRequestError(*(Problem(name, "must be given only once") for name in repeated))
    return {name: values[0] for name, values in given.items()}


def _give_headers(request: Request, known: Collection[str]) -> dict[str, str]:
    return {name: request.headers[name] for name in known if name in request.headers}


def _give_path(request: Request, _known: Collection[str]) -> dict[str, Any]:
    return request.view_args or {}


_LOCATIONS: dict[str, Callable[[Request, Collection[str]], dict[str, Any]]] = {
    "path": _give_path,
    "query": _give_query,
    "headers": _give_headers,
    "json": _give_body,
}


def _problems(by_field: Mapping[str, Any], *within: str) -> Iterator[Problem]:
    """Flatten ``{field: [message, …]}``; what stands for a list are the fields of that field."""
    for name, found in by_field.items():
        if name == marshmallow.exceptions.SCHEMA and within:  # what is wrong is the whole of what should have fields
            yield from _problems({within[-1]: found}, *within[:-1])
        elif isinstance(found, Mapping):
            yield from _problems(found, *within, str(name))  # the fields of a list are its indices
        else:
            yield from (Problem(str(name), message, within=within) for message in found)


def _classify(problem: Problem, known: Collection[str], given: Collection[str]) -> Problem:
    """Tell a field that is missing or that nobody knows from one whose value is wrong."""
    if problem.within:
        return problem
    if problem.field not in known:
        return replace(problem, kind=ProblemKind.UNKNOWN)
    return problem if problem.field in given else replace(problem, kind=ProblemKind.MISSING)
