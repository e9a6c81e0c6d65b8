"""Log lines: one line an event, in logfmt, whatever the data is."""

import json
import logging
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audit_chain import canonical
from app.core.logs import AuditFormatter, LogfmtFormatter


def line_of(message: str, **facts: object) -> str:
    record = logging.LogRecord("app", logging.INFO, "file", 1, message, (), None)
    vars(record).update(facts)
    return LogfmtFormatter().format(record)


def test_line_has_time_level_event_and_facts():
    line = line_of("request", status=200, route="/api/vm/<vmid>")
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info event=request status=200 route=/api/vm/<vmid>", line
    )


def test_facts_may_stand_in_one_mapping():
    facts = {"status": 200, "route": "/a b"}
    assert line_of("request", facts=facts).endswith(' event=request status=200 route="/a b"')


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


def test_an_audit_entry_is_a_line_of_json_whatever_is_in_it():
    record = logging.LogRecord("ownup.audit", logging.INFO, "file", 1, "audit", (), None)
    vars(record)["entry"] = canonical({"seq": 7, "who": {"account": "a\nb"}, "half": "\ud800"})
    line = AuditFormatter().format(record)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"event": "audit", "seq": 7, "who": {"account": "a\nb"}, "half": "\ud800"}


def test_audit_entries_are_written_whatever_the_least_level_is_and_once():
    code = (
        "import logging; from app.core import logs; logs.configure('ERROR'); logs.configure('ERROR'); "
        "logging.getLogger(logs.AUDIT).info('audit', extra={'entry': '{\"seq\":1}'}); logging.warning('other')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == '{"event":"audit","seq":1}\n'
