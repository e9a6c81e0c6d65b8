"""A part of a request read by a schema: what isn't given, and what is and isn't right."""

import pytest
from flask import Request
from marshmallow import Schema, fields
from werkzeug.test import EnvironBuilder

from app.api.parsing import PlainInteger, RequestReader
from app.core.errors import InvalidRequestError, ProblemKind


class Page(Schema):
    after = PlainInteger()
    limit = PlainInteger(data_key="max", maximum=100, load_default=50)


class Tagged(Schema):
    tags = fields.List(fields.String(), load_default=list)


class Poll(Schema):
    pid = PlainInteger(required=True)


def query(text: str) -> Request:
    return Request(EnvironBuilder(query_string=text).get_environ())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {"limit": 50}),
        ("max=7", {"limit": 7}),
        ("after=3&other=1", {"after": 3, "limit": 50}),
    ],
)
def test_what_is_not_given_is_left_out_or_what_the_schema_says(text: str, found: dict[str, int]) -> None:
    reader = RequestReader(Page, "query")
    assert reader.read(query(text)) == found
    assert reader.read(query("")) == {"limit": 50}


def test_a_default_that_is_made_is_made_anew_for_each_request() -> None:
    reader = RequestReader(Tagged, "query")
    first = reader.read(query(""))["tags"]
    assert first == []
    assert reader.read(query(""))["tags"] is not first


def test_what_must_be_given_is_missed() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        RequestReader(Poll, "query").read(query("other=1"))
    assert [(problem.field, problem.kind) for problem in refused.value.problems] == [("pid", ProblemKind.MISSING)]


@pytest.mark.parametrize("text", ["max=0", "max=101", "max=-1", "max=1.0", "max=%20", "max="])
def test_a_number_out_of_its_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        RequestReader(Page, "query").read(query(text))
    assert [problem.message for problem in refused.value.problems] == ["must be an integer from 1 to 100"]
