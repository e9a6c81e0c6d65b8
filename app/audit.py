"""The audit trail of the web half: every entry gets its place in the one chain before its request is answered.

Threads that write at the same time travel together: who has the turn appends all that waits. While Redis is away
entries wait in memory, and a thread of its own appends them when it is back. Where a reply was lost it is found out
first whether the entries are there: none is appended twice. Knows neither HTTP nor what an entry says.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import redis

from app import audit_chain
from app.audit_chain import Facts, Seal, canonical
from app.core import logs
from app.core.clock import now
from app.core.errors import StoreUnavailableError
from app.core.store import Call, Store, audit
from app.core.store.audit import Head, Link

_LOG = logging.getLogger(__name__)
_TRAIL = logging.getLogger(logs.AUDIT)

MAX_WAITING = 10_000
"""How many entries wait in memory at most while Redis is away."""
_AT_ONCE = 500
_ATTEMPTS = 1000
"""Each failure of one process is the success of another."""
_RETRY_S = 0.2
_LONGEST_REQUEST = timedelta(hours=1)
_LOOK_FOR_LEFT_S = 300.0

_FAILURES = (StoreUnavailableError, redis.RedisError)


class _ContendedError(redis.RedisError):
    """Others were quicker each time."""


@dataclass(slots=True, eq=False)
class _Ticket:
    """An entry on its way into the trail.

    Attributes:
        facts: What it says.
        link: How it is kept; ``None`` while it isn't.
    """

    facts: Facts
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Entries that were made to follow a certain end of the trail.

    Attributes:
        tickets: The entries.
        links: How they are kept then.
        head: Where the trail ends then.
    """

    tickets: tuple[_Ticket, ...]
    links: tuple[Link, ...]
    head: Head


class Audit:
    """Writes the trail."""

    def __init__(
        self,
        store: Store,
        seal: Seal,
        *,
        max_entries: int,
        clock: Callable[[], datetime] = now,
        time_s: Callable[[], float] = time.monotonic,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Know nothing of the trail yet.

        Args:
            store: Where it is.
            seal: Makes its hashes.
            max_entries: How many entries are kept there.
            clock: The time.
            time_s: A clock that never goes back.
            max_waiting: How many entries wait in memory at most while Redis is away.
        """
        self._store = store
        self._seal = seal
        self._max_entries = max_entries
        self._clock = clock
        self._time_s = time_s
        self._max_waiting = max_waiting
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards what waits, what couldn't, and whether Redis is away
        self._waiting: deque[_Ticket] = deque()
        self._dropped = 0
        self._away = False
        self._turn = threading.Lock()  # who holds it appends; it guards all that follows
        self._head = Head()
        self._lost: _Attempt | None = None
        self._look_for_left_at_s = self._time_s()

    def write(self, facts: Facts) -> None:
        """Append an entry to the trail and to the log; returns when it is there, or Redis is away.

        Args:
            facts: What it says, its ``requestId`` among it.
        """
        ticket = _Ticket(facts)
        if self._take(ticket):
            with self._turn:
                if ticket.link is None and not self._away:
                    self._work_until(lambda: ticket.link is not None)
        _log(ticket)

    def note_intent(self, facts: Facts) -> Call[bool]:
        """Make the call that notes what is going to be done for a request, in case its entry never comes."""
        return audit.open_request(facts["requestId"], canonical(facts))

    def close(self) -> None:
        """Append what waits, or say how much of it will never be in the trail."""
        self._closing.set()
        with self._turn:
            if self._waiting and not self._work_until(lambda: not self._waiting):
                _LOG.error("audit_entries_lost", extra={"count": len(self._waiting)})

    def _take(self, ticket: _Ticket) -> bool:
        """Let an entry wait; tell whether it can be appended now."""
        with self._lock:
            if len(self._waiting) >= self._max_waiting:
                self._dropped += 1
                return False
            self._waiting.append(ticket)
            return not self._away

    # --- below: only by the thread whose turn it is -------------------------------------------------------------------

    def _work_until(self, is_done: Callable[[], bool]) -> bool:
        """Append what waits, oldest first; should Redis be away, leave it to a thread that waits for it.

        Returns:
            Whether it is done.
        """
        try:
            while not is_done():
                self._append(self._next_batch())
            self._look_for_left()
        except _FAILURES as exc:
            self._give_up(exc)
        return is_done()

    def _next_batch(self) -> tuple[_Ticket, ...]:
        """Take what is to be appended together; what may be in the trail already goes alone."""
        with self._lock:
            return self._lost.tickets if self._lost else tuple(islice(self._waiting, _AT_ONCE))

    def _append(self, tickets: tuple[_Ticket, ...]) -> None:
        """Append entries, whoever else does at the same time.

        Raises:
            _ContendedError: Others were quicker each time.
        """
        for _ in range(_ATTEMPTS):
            if self._lost is not None and self._is_there(self._lost):
                self._settle(self._lost)
                return
            links, head = self._seal.link(self._head, [each.facts for each in tickets], max_entries=self._max_entries)
            attempt = _Attempt(tickets, links, head)
            if self._try(attempt):
                self._settle(attempt)
                return
        raise _ContendedError(f"others were quicker {_ATTEMPTS} times")

    def _try(self, attempt: _Attempt) -> bool:
        closes = [each.facts["requestId"] for each in attempt.tickets if each.facts["requestId"]]
        call = audit.append(self._head, attempt.links, attempt.head, max_entries=self._max_entries, closes=closes)
        try:
            present = self._store.run(call)
        except StoreUnavailableError:
            self._lost = attempt
            raise
        if present is not None:
            self._adopt(present)
        return present is None

    def _is_there(self, attempt: _Attempt) -> bool:
        """Find out whether an attempt whose reply was lost went well. One that didn't still may, until another does."""
        present, found = self._store.run(audit.look(attempt.head.seq))
        self._adopt(present)
        return found == attempt.head.hash

    def _settle(self, attempt: _Attempt) -> None:
        self._lost = None
        self._head = max(self._head, attempt.head, key=lambda head: head.seq)
        with self._lock:
            for ticket, link in zip(attempt.tickets, attempt.links, strict=True):
                ticket.link = link
                self._waiting.popleft()
            dropped, self._dropped = self._dropped, 0
            if dropped:
                _LOG.error("audit_entries_lost", extra={"count": dropped})
                self._waiting.append(_Ticket(self._own("entries_lost", count=dropped)))

    def _adopt(self, present: Head) -> None:
        """Take note of where the trail ends; it only grows, unless something or somebody took a part of it away."""
        if present.seq < self._head.seq:
            facts = {"from": self._head.seq, "to": present.seq}
            _LOG.error("audit_trail_went_back", extra=facts)
            with self._lock:
                self._waiting.append(_Ticket(self._own("trail_went_back", **facts)))
        self._head = present

    def _own(self, event: str, **facts: Any) -> Facts:
        """Make an entry about the trail itself."""
        when = self._clock().isoformat(timespec="milliseconds")
        return {"when": when, "requestId": None, "who": None, "what": {"event": event, **facts}, "outcome": None}

    def _look_for_left(self) -> None:
        """Now and then write the entries of requests that never came to an end: their process has died."""
        if self._time_s() < self._look_for_left_at_s:
            return
        self._look_for_left_at_s = self._time_s() + _LOOK_FOR_LEFT_S
        begun_by = self._clock() - _LONGEST_REQUEST
        noted = self._store.run(audit.list_open())
        begun = {request_id: audit_chain.load_object(text) for request_id, text in noted.items()}
        if left := {request_id: facts for request_id, facts in begun.items() if _is_older(facts, begun_by)}:
            self._append_left(left)

    def _append_left(self, left: Mapping[str, Facts]) -> None:
        """Append entries of requests whose end nobody knows, unless another process is quicker."""
        unknown = {"status": None, "error": "unknown"}
        ended = [{**facts, "requestId": request_id, "outcome": unknown} for request_id, facts in left.items()]
        links, head = self._seal.link(self._head, ended, max_entries=self._max_entries)
        present = self._store.run(
            audit.append(self._head, links, head, max_entries=self._max_entries, closes=tuple(left), only_if_open=True)
        )
        if present is not None:
            self._adopt(present)
            return
        self._head = head
        for facts, link in zip(ended, links, strict=True):
            _log(_Ticket(facts, link))

    # --- while Redis is away ------------------------------------------------------------------------------------------

    def _give_up(self, exc: Exception) -> None:
        """Leave what waits to a thread that waits for Redis, unless there is one."""
        with self._lock:
            begins, self._away = not self._away, True
        if begins:
            _LOG.warning("audit_waits", extra={"reason": str(exc)})
            threading.Thread(target=self._wait_for_redis, name="audit", daemon=True).start()

    def _wait_for_redis(self) -> None:
        while not self._closing.wait(_RETRY_S):
            with self._turn:
                if self._closing.is_set() or not self._work_until(lambda: not self._waiting):
                    continue
                with self._lock:
                    self._away = False  # from now on who comes appends by itself
                    _LOG.info("audit_goes_on", extra={"seq": self._head.seq})
                self._work_until(lambda: not self._waiting)
                return


def _is_older(facts: Facts, moment: datetime) -> bool:
    """Tell whether a request began before a moment; one that doesn't say when did."""
    try:
        return datetime.fromisoformat(facts["when"]) < moment
    except (KeyError, TypeError, ValueError):
        return True


def _log(ticket: _Ticket) -> None:
    entry = canonical(ticket.facts) if ticket.link is None else audit_chain.show(ticket.link)
    logs.tell(_TRAIL, "audit", {"entry": entry})
