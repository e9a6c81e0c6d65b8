"""Waiting for a record to change without polling: one Redis subscription for all threads of a web process.

Knows ids, not records: whoever waits reads the record itself. Pub/sub may drop messages, so a wake-up is a hint, and
after every new subscription everybody is woken once.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self, TypeVar, cast

import redis

from app.core.errors import StoreUnavailableError
from app.core.store import WAKE_CHANNEL

T = TypeVar("T")

REREAD_S = 1.0
"""Who waits for what may also become true by the mere passing of time looks at least this often."""

_LOG = logging.getLogger(__name__)
_LISTEN_S = 0.2
"""How often the listening thread looks whether it should end; it asks Redis nothing meanwhile."""
_PAUSE_S = 0.2
_UNANSWERED_PINGS = 25
"""After so many the subscription is given up: its connection has died without a word.

The Redis client sends them, one each ``_LISTEN_S``, once nothing has come for its ``health_check_interval``.
"""


@dataclass(frozen=True, slots=True)
class News:
    """What is told of a command with a wake-up.

    Attributes:
        state: Its state; empty where none is told.
        pid: Its guest pid, if it has one.
        result: What became of it, as the store reads it; empty while it hasn't ended, or has much output.
        heard_s: When that was told, by the monotonic clock.
    """

    state: str = ""
    pid: int | None = None
    result: bytes = field(default=b"", repr=False)
    heard_s: float = field(default_factory=time.monotonic)

    @classmethod
    def load(cls, state: str = "", pid: str = "", *, result: bytes) -> Self:
        """Read them."""
        return cls(state, int(pid) if pid else None, result)


_NO_NEWS = News()


class Waiter:
    """A bell for one thread: rung whenever a record may have changed.

    A lock that is free while the bell rings; ``threading.Event`` does the same with three of them.

    Attributes:
        news: The latest news.
        not_for: A state whose news are kept and don't ring.
    """

    def __init__(self, not_for: str = "") -> None:
        self.news = _NO_NEWS
        self.not_for = not_for
        self._silence = threading.Lock()
        self._silence.acquire()

    def set(self) -> None:
        """Ring, until it is heard."""
        with contextlib.suppress(RuntimeError):  # it rings already
            self._silence.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it rings, and stop it; tell whether it has rung."""
        return self._silence.acquire(timeout=timeout_s)

    def is_set(self) -> bool:
        """Tell whether it rings."""
        return not self._silence.locked()

    def tell(self, news: News) -> None:
        """Take news."""
        self.news = news
        if not news.state or news.state != self.not_for:
            self.set()


class Wakeups:
    """Wakes threads whose record has changed."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._waiters: dict[str, set[Waiter]] = {}
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    @contextlib.contextmanager
    def expect(self, record_id: str, *, not_for: str = "") -> Iterator[Waiter]:
        """Give a bell that rings whenever the record may have changed, for as long as the block runs.

        Many may wait for one record; each has its own bell. To miss nothing, enter the block before anybody can
        change the record, or read the record after entering it.

        Args:
            record_id: The record.
            not_for: A state that isn't worth waking anybody: a thread that wakes up takes the interpreter from others.
        """
        waiter = Waiter(not_for)
        with self._lock:
            self._waiters.setdefault(record_id, set()).add(waiter)
            self._ensure_listener()
        try:
            yield waiter
        finally:
            self._forget(record_id, waiter)

    def close(self) -> None:
        """End the subscription."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _forget(self, record_id: str, waiter: Waiter) -> None:
        with self._lock:
            waiters = self._waiters[record_id]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[record_id]

    def _ensure_listener(self) -> None:
        """Start the listening thread: at the first wait and not earlier, because a fork would not carry it over."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._listen, name="wakeups", daemon=True)
            self._thread.start()

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen_once()
            except redis.RedisError as exc:
                _LOG.warning("wakeups_lost", extra={"reason": str(exc)})
                self._closing.wait(_PAUSE_S)

    def _listen_once(self) -> None:
        with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(WAKE_CHANNEL)
            while not self._closing.is_set():
                subscription.check_health()
                message = _receive(subscription)
                if message is None:
                    pass
                elif subscription.is_health_check_response(message):
                    subscription.health_check_response_counter -= 1
                elif message[0] == b"subscribe":
                    self._wake_all()
                elif message[0] == b"message":
                    self._wake(message[2])
                if subscription.health_check_response_counter > _UNANSWERED_PINGS:
                    raise redis.TimeoutError("Redis doesn't answer the subscription")

    def _wake(self, told: bytes) -> None:
        head, _, result = told.partition(b"\n")
        record_id, *facts = head.decode().split(" ")
        with self._lock:
            for waiter in self._waiters.get(record_id, ()):
                waiter.tell(News.load(*facts, result=result))

    def _wake_all(self) -> None:
        """Make everybody look: what changed before the subscription stood was told to nobody."""
        with self._lock:
            for waiters in self._waiters.values():
                for waiter in waiters:
                    waiter.tell(_NO_NEWS)


def _receive(subscription: redis.client.PubSub) -> list[bytes] | None:
    """Wait a while for what Redis sends: in half the time that ``get_message`` takes, which looks first."""
    connection = cast("redis.Connection", subscription.connection)
    try:
        return cast(
            "list[bytes]",
            connection.read_response(disconnect_on_error=False, push_request=True, timeout=_LISTEN_S),
        )
    except redis.TimeoutError:
        return None


def wait(woken: Waiter, timeout_s: float, look: Callable[[], T | None], *, reread_s: float = REREAD_S) -> T | None:
    """Look at a record after every wake-up and at the end, until there is something to see.

    An absence of Redis is sat out.

    Args:
        woken: As ``Wakeups.expect`` gives it.
        timeout_s: How long to wait at most.
        look: Reads the record; ``None`` goes on waiting.
        reread_s: How often to look at least, whatever wake-ups come.

    Returns:
        What ``look`` saw, ``None`` if it saw nothing in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        woken.wait(min(reread_s, left_s))  # what is told from now on is news again
        try:
            seen = look()
        except StoreUnavailableError:
            continue
        if seen is not None:
            return seen
    return None
