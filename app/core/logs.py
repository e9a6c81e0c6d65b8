"""Log lines for people and programs: one line an event, ``key=value``, a constant event name first.

The message of a log call is the event's name; its data stands in ``extra``. Payloads, keys and output are never logged.
"""

import logging
import re
import sys
import time

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_QUOTED = re.compile(r'[ ="]')


class LogfmtFormatter(logging.Formatter):
    """Writes ``time=… level=… event=… key=value …``; values with spaces or quotes are quoted."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as one line; an exception's traceback follows on lines of its own."""
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        pairs = {"time": stamp, "level": record.levelname.lower(), "event": record.getMessage()}
        pairs |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line = " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quoted(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not _QUOTED.search(text):
        return text
    return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'


def configure(level: str) -> None:
    """Send every log line of this process to standard error, in logfmt.

    Args:
        level: The least level that is written, for instance ``INFO``.
    """
    # Source: Python's logging HOWTO, Optimization: what no line shows need not be found out for each.
    logging._srcfile = None  # noqa: SLF001 - the documented way
    logging.logThreads = logging.logMultiprocessing = False  # processes stay: gunicorn's own lines begin with theirs
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogfmtFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
