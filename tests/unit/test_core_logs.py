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
from app.core import logs
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


FACTS = f"{{'status': 200, 'route': '/a b', 'key': 'ownup_{16 * '0'}_secret'}}"
TOLD = f"logs.tell(logging.getLogger('app.any'), 'request', {FACTS})"
LOGGED = f"logging.getLogger('app.any').info('request', extra={FACTS})"


def logged_by(code: str, level: str = "INFO") -> str:
    """Let a process of its own log; what it has written to standard error."""
    begin = f"import logging; from app.core import logs; logs.configure({level!r}); "
    return subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=True).stderr


def test_what_is_told_is_the_line_of_a_log_call():
    told, logged = logged_by(TOLD), logged_by(LOGGED)
    assert told.partition(" ")[2] == logged.partition(" ")[2]
    assert told.endswith(f'event=request status=200 route="/a b" key=ownup_{16 * "0"}_(hidden)\n')


def test_nothing_is_told_below_the_least_level():
    assert logged_by(TOLD, "WARNING") == ""


def test_told_lines_of_many_threads_stay_whole():
    code = (
        "from concurrent.futures import ThreadPoolExecutor as Pool; log = logging.getLogger('app.any'); "
        "pool = Pool(8); list(pool.map(lambda i: logs.tell(log, 'told', {'i': i}), range(2000)))"
    )
    lines = logged_by(code).splitlines()
    assert sorted(int(line.rpartition("event=told i=")[2]) for line in lines) == list(range(2000))


def test_a_log_that_takes_nothing_stops_nobody():
    full = "import os; end = os.dup(2); os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"
    assert logged_by(f"{full}; {TOLD}; {TOLD}; os.write(end, b'goes on')") == "goes on"


def test_who_else_listens_gets_what_is_told(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="app")
    logs.tell(logging.getLogger("app.any"), "request", {"status": 200})
    (record,) = caplog.records
    assert (record.message, vars(record)["status"]) == ("request", 200)


def test_audit_entries_are_written_whatever_the_least_level_is_and_once():
    code = (
        "import logging; from app.core import logs; logs.configure('ERROR'); logs.configure('ERROR'); "
        "trail, entry = logging.getLogger(logs.AUDIT), {'entry': '{\"seq\":1}'}; "
        "trail.info('audit', extra=entry); logs.tell(trail, 'audit', entry); logging.warning('other')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == 2 * '{"event":"audit","seq":1}\n'
