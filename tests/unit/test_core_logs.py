"""Log lines: one line an event, in logfmt, whatever the data is."""

import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.logs import LogfmtFormatter


def line_of(message: str, **facts: object) -> str:
    record = logging.LogRecord("app", logging.INFO, "file", 1, message, (), None)
    vars(record).update(facts)
    return LogfmtFormatter().format(record)


def test_line_has_time_level_event_and_facts():
    line = line_of("request", status=200, route="/api/vm/<vmid>")
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info event=request status=200 route=/api/vm/<vmid>", line
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [("a b", '"a b"'), ("a=b", '"a=b"'), ('say "x"', '"say \\"x\\""'), ("", '""'), ("a\nb", '"a\\nb"'), (None, "None")],
)
def test_values_that_would_be_misread_are_quoted(value: object, written: str):
    assert line_of("event", reason=value).endswith(f"reason={written}")


@given(st.text())
def test_no_value_makes_a_second_line(value: str):
    assert len(line_of("event", reason=value).splitlines()) == 1


def test_exception_follows_on_lines_of_its_own():
    try:
        raise ValueError("boom")  # noqa: TRY301 - a traceback is needed
    except ValueError:
        record = logging.LogRecord("app", logging.ERROR, "file", 1, "request", (), sys.exc_info())
    first, *rest = LogfmtFormatter().format(record).splitlines()
    assert first.endswith("event=request")
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "ValueError: boom"
