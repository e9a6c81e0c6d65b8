"""Log lines for people and programs: one line an event, ``key=value``, a constant event name first.

The message of a log call is the event's name; its data stands in ``extra``, or as one mapping in ``extra["facts"]``,
which takes less time. Payloads, keys and output are never logged.
Should something that looks like an API key get into a line all the same, an exception's words for instance, it is
written without its secret part.
The entries of the audit trail are lines of JSON among them, whatever the least level of the others is.
"""

import functools
import logging
import re
import sys
import time

from app.core.secrecy import hide_keys

AUDIT = "ownup.audit"
"""The logger of audit entries; each stands in ``entry`` of ``extra``, as a JSON object in ASCII."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_PLAIN = re.compile("[!#-<>-~]+")
_QUOTED = re.compile(r'[ ="]')
_OWN = ("app", "workers")


class LogfmtFormatter(logging.Formatter):
    """Writes ``time=… level=… event=… key=value …``; values with spaces or quotes are quoted."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as one line; an exception's traceback follows on lines of its own."""
        stamp = f"{_second(int(record.created))}.{int(record.msecs):03d}Z"
        facts = vars(record).get("facts") or {
            name: vars(record)[name] for name in vars(record) if name not in _STANDARD
        }
        pairs = [f"{name}={_quoted(value)}" for name, value in facts.items()]
        event = _quoted(record.getMessage())
        line = " ".join((f"time={stamp} level={record.levelname.lower()} event={event}", *pairs))
        whole = f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
        return hide_keys(whole)


class AuditFormatter(logging.Formatter):
    """Writes an audit entry as one line of JSON, with the ``event`` that tells it from anything else."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one entry."""
        entry: str = vars(record)["entry"]
        return f'{{"event":"{record.getMessage()}",{entry[1:]}'


@functools.lru_cache(maxsize=1)
def _second(epoch_s: int) -> str:
    """Write a second; most lines are of the same one as the line before."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def _quoted(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text) or (text and text.isprintable() and not _QUOTED.search(text)):
        return text
    return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'


def configure(level: str) -> None:
    """Send every log line of this process to standard error, in logfmt, and audit entries in JSON.

    Args:
        level: The least level that is written, for instance ``INFO``. Of libraries it is never ``DEBUG``: that is
            where they show what passes through them.
    """
    # Source: Python's logging HOWTO, Optimization: what no line shows need not be found out for each.
    logging._srcfile = None  # noqa: SLF001 - the documented way
    logging.logThreads = logging.logMultiprocessing = False  # processes stay: gunicorn's own lines begin with theirs
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogfmtFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _OWN:
        logging.getLogger(name).setLevel(level)
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.INFO))
    audit_handler = logging.StreamHandler(sys.stderr)
    audit_handler.setFormatter(AuditFormatter())
    trail = logging.getLogger(AUDIT)
    trail.handlers, trail.propagate = [audit_handler], False
    trail.setLevel(logging.INFO)
