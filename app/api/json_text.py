"""How every face reads and writes JSON: strictly in, compactly out. Knows no face."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import orjson
from flask import Response
from flask.json.provider import DefaultJSONProvider

from app.core.errors import InvalidRequestError, Problem


class CompactJson(DefaultJSONProvider):
    """Writes JSON without spaces and in plain UTF-8; half a surrogate pair, which UTF-8 can't hold, becomes ``?``.

    Source: HostUp's first acme.sh hook greps answers for the bytes ``"success":true``.
    """

    ensure_ascii = False
    sort_keys = False

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """Make a response of one JSON value."""
        return answer(self._prepare_response_obj(args, kwargs))


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Make a response of one JSON value."""
    return Response(_write(value), status, headers, content_type="application/json")


def _write(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # half a surrogate pair, or more than 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def load_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object that must be one by RFC 8259, with each name given once.

    Raises:
        InvalidRequestError: It is something else; the problem's field is ``body``.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repetition)
    except RecursionError:
        raise InvalidRequestError(Problem("body", "is nested too deeply")) from None
    except ValueError as exc:
        raise InvalidRequestError(Problem("body", f"is not valid JSON: {exc}")) from exc
    if not isinstance(value, dict):
        raise InvalidRequestError(Problem("body", "must be a JSON object"))
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _refuse_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name is given more than once")
    return fields
