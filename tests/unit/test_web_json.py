"""JSON in: strict. JSON out: compact, plain UTF-8, never broken."""

import json
from contextlib import suppress

import pytest
from flask import Flask, jsonify
from hypothesis import given
from hypothesis import strategies as st

from app.api.json_text import CompactJson, load_object
from app.core.errors import InvalidRequestError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES))
def test_every_object_is_read(value: dict[str, object]):
    assert load_object(json.dumps(value).encode()) == value


@given(st.binary())
def test_anything_else_is_our_own_error(body: bytes):
    with suppress(ValueError):  # what json itself takes for an object is one
        if isinstance(json.loads(body), dict):
            return
    with pytest.raises(InvalidRequestError) as caught:
        load_object(body)
    assert [problem.field for problem in caught.value.problems] == ["body"]


@pytest.mark.parametrize("body", [b"1", b"[]", b'"x"', b"true", b"null"])
def test_other_values_are_refused(body: bytes):
    with pytest.raises(InvalidRequestError, match="must be a JSON object"):
        load_object(body)


def test_repetition_is_refused_at_any_depth():
    with pytest.raises(InvalidRequestError, match="more than once"):
        load_object(b'{"a": [{"b": 1, "b": 1}]}')


def test_too_deep_is_said():
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        load_object(b'{"a":' * 100_000)


@pytest.fixture
def app() -> Flask:
    app = Flask("test")
    app.json = CompactJson(app)
    return app


def test_output_is_compact_and_in_the_given_order(app: Flask):
    with app.app_context():
        assert jsonify({"success": True, "a": [1, {"b": "ä"}]}).data == '{"success":true,"a":[1,{"b":"ä"}]}'.encode()


@given(st.text())
def test_any_text_can_be_written(text: str):
    app = Flask("test")
    app.json = CompactJson(app)
    with app.app_context():
        written = json.loads(jsonify([text]).data)
    assert written == [text.encode(errors="replace").decode()]
