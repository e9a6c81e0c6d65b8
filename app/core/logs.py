"""Log lines for people and programs: one line an event, ``key=value``, a constant event name first.

The message of a log call is the event's name; its data stands in ``extra``. What comes with each request or command is
told (``tell``), which takes less time. Payloads, keys and output are never logged. Should something that looks like an
API key get into a line all the same, an exception's words for instance, it is written without its secret part.
The entries of the audit trail are lines of JSON among them, whatever the least level of the others is.
"""

import functools
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from app.core.secrecy import hide_keys

AUDIT = "ownup.audit"
"""The logger of audit entries; each stands in ``entry`` of ``extra``, as a JSON object in ASCII."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_PLAIN = re.compile("[!#-<>-~]+")
_QUOTED = re.compile(r'[ ="]')
_OWN = ("app", "workers")


class LineFormatter(logging.Formatter):
    """Makes one line of an event."""

    def line(self, at_s: float, level: str, event: str, facts: Mapping[str, object]) -> str:
        """Write an event.

        Args:
            at_s: When it was, in epoch seconds.
            level: How grave it is, as ``logging`` names it.
            event: Its name.
            facts: What there is to say of it.
        """
        raise NotImplementedError


class LogfmtFormatter(LineFormatter):
    """Writes ``time=… level=… event=… key=value …``; values with spaces or quotes are quoted."""

    def line(self, at_s: float, level: str, event: str, facts: Mapping[str, object]) -> str:
        """Write an event."""
        stamp = f"{_second(int(at_s))}.{int(at_s % 1 * 1000):03d}Z"
        names, texts = ("event", *facts), [event, *map(str, facts.values())]
        if not (all(texts) and _PLAIN.fullmatch("".join(texts))):
            texts = [*map(_quoted, texts)]
        pairs = map("=".join, zip(names, texts, strict=True))
        return hide_keys(" ".join((f"time={stamp} level={level.lower()}", *pairs)))

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as one line; an exception's traceback follows on lines of its own."""
        facts = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line = self.line(record.created, record.levelname, record.getMessage(), facts)
        return f"{line}\n{hide_keys(self.formatException(record.exc_info))}" if record.exc_info else line


class AuditFormatter(LineFormatter):
    """Writes an audit entry as one line of JSON, with the ``event`` that tells it from anything else."""

    def line(self, _at_s: float, _level: str, event: str, facts: Mapping[str, object]) -> str:
        """Write one entry."""
        entry = str(facts["entry"])
        return f'{{"event":"{event}",{entry[1:]}'

    def format(self, record: logging.LogRecord) -> str:
        """Write one entry."""
        return self.line(record.created, record.levelname, record.getMessage(), vars(record))


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines to standard error, which takes each at once."""

    def __init__(self, formatter: LineFormatter) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(formatter)
        self._line = formatter.line

    def tell(self, event: str, facts: Mapping[str, object]) -> None:
        """Write an event of level ``INFO``; that it can't be written holds nobody up."""
        text = f"{self._line(time.time(), 'INFO', event, facts)}\n"
        self.acquire()
        try:
            self.stream.write(text)
        except (OSError, ValueError):  # the disk is full; standard error is closed
            return
        finally:
            self.release()


def tell(logger: logging.Logger, event: str, facts: Mapping[str, object]) -> None:
    """Log an event of level ``INFO``, as ``logger.info`` does.

    Where ``configure`` has been called that takes a third of the time: of a record nobody wants more than its line.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    handlers = logger.handlers or logging.root.handlers
    if len(handlers) == 1 and isinstance(handlers[0], LineHandler):
        handlers[0].tell(event, facts)
    else:
        logger.info(event, extra=facts)


@functools.lru_cache(maxsize=1)
def _second(epoch_s: int) -> str:
    """Write a second; most lines are of the same one as the line before."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def _quoted(text: str) -> str:
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
    logging.basicConfig(level=level, handlers=[LineHandler(LogfmtFormatter())], force=True)
    for name in _OWN:
        logging.getLogger(name).setLevel(level)
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.INFO))
    trail = logging.getLogger(AUDIT)
    trail.handlers, trail.propagate = [LineHandler(AuditFormatter())], False
    trail.setLevel(logging.INFO)
