"""Waiting for a record to change without polling: one Redis subscription for all threads of a web process.

Knows ids, not records: whoever waits reads the record itself. Pub/sub may drop messages, so a wake-up is a hint, and
after every new subscription everybody is woken once.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from app.core.store import WAKE_CHANNEL

_LOG = logging.getLogger(__name__)
_LISTEN_S = 0.2
"""How often the listening thread looks whether it should end; it asks Redis nothing meanwhile."""
_PAUSE_S = 0.2


class Wakeups:
    """Wakes threads whose record has changed."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._waiters: dict[str, threading.Event] = {}
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    @contextmanager
    def expect(self, record_id: str) -> Iterator[threading.Event]:
        """Give an event that is set whenever the record may have changed, for as long as the block runs.

        To miss nothing, enter the block before anybody can change the record.
        """
        event = threading.Event()
        with self._lock:
            self._waiters[record_id] = event
            self._ensure_listener()
        try:
            yield event
        finally:
            with self._lock:
                del self._waiters[record_id]

    def close(self) -> None:
        """End the subscription."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

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
                message = subscription.get_message(timeout=_LISTEN_S)
                if message is not None and message["type"] == "subscribe":
                    self._wake_all()
                elif message is not None and message["type"] == "message":
                    self._wake(message["data"].decode())

    def _wake(self, record_id: str) -> None:
        with self._lock:
            event = self._waiters.get(record_id)
        if event is not None:
            event.set()

    def _wake_all(self) -> None:
        """Make everybody look: what changed before the subscription stood was told to nobody."""
        with self._lock:
            events = list(self._waiters.values())
        for event in events:
            event.set()
