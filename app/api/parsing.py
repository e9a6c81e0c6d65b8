"""How every face takes in a request: bodies, query parameters and path parts through marshmallow schemas.

What is wrong is raised as OwnUp's own error; the face renders it.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn, cast

import marshmallow
from flask import Request
from marshmallow import ValidationError, fields, validate
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.api.json_text import load_object
from app.core.errors import InvalidRequestError, Problem, ProblemKind
from app.present import present_request

MAX_INTEGER = 2**63 - 1

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


class RequestParser(FlaskParser):
    """Reads a request by a schema, and refuses it with our own error."""

    DEFAULT_VALIDATION_STATUS = 400

    def get_default_request(self) -> Request:
        """Get the request that is to be read."""
        return present_request()

    def load_json(self, req: Request, *_args: Any) -> Any:
        """Read the body; no body reads as an object without fields.

        Raises:
            RequestEntityTooLarge: The body is too long.
            UnsupportedMediaType: There is a body, and it doesn't say that it is JSON.
        """
        body = req.get_data()
        limit_bytes = req.max_content_length
        if req.content_length is None and limit_bytes is not None and len(body) >= limit_bytes:
            raise RequestEntityTooLarge  # werkzeug cuts a chunked body at the limit without a word
        if body and not req.is_json:
            raise UnsupportedMediaType
        return load_object(body) if body else {}

    def load_querystring(self, req: Request, schema: marshmallow.Schema) -> Any:
        """Read the query parameters.

        Raises:
            InvalidRequestError: One that the schema knows is given more than once.
        """
        names = (field.data_key or name for name, field in schema.fields.items())
        repeated = [name for name in names if len(req.args.getlist(name)) > 1]
        if repeated:
            raise InvalidRequestError(*(Problem(name, "must be given only once") for name in repeated))
        return req.args.to_dict()

    def handle_error(self, error: ValidationError, *args: Any, **_kwargs: Any) -> NoReturn:
        """Refuse a request that doesn't fit its schema.

        Raises:
            InvalidRequestError: Always.
        """
        by_location, schema = cast("dict[str, dict[str, Any]]", error.messages), cast("marshmallow.Schema", args[1])
        found = [problem for by_field in by_location.values() for problem in _problems(by_field)]
        known = {field.data_key or name for name, field in schema.fields.items()}
        given = error.data if isinstance(error.data, Mapping) else {}
        raise InvalidRequestError(*(_classify(problem, known, given) for problem in found)) from error


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
