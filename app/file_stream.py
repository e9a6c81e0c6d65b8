"""The web half's end of a file's two lists: messages there and back, and the bytes of a guest's file as they come.

Knows neither records nor HTTP.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from typing import Self

from app.core.errors import FileTooLargeError, StoreUnavailableError, TransferBrokenError
from app.core.store import Store, files
from app.core.store.files import Incoming, Lane, Message, MessageKind
from app.settings import WebSettings

GUEST_GRACE_S = 35.0
"""How much longer than a transfer may stand still: the agent may take so long for one chunk, and says nothing then."""
_TTL_MARGIN_S = 60
_LONGEST_SLICE_S = 1.0


class Lanes:
    """Both lists of one transfer, seen from this side."""

    def __init__(
        self,
        store: Store,
        settings: WebSettings,
        transfer_id: str,
        *,
        mine: Lane,
        theirs: Lane,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_over = is_over
        self._store = store
        self._settings = settings
        self._id = transfer_id
        self._mine = mine
        self._theirs = theirs
        self._sent = 0
        self._incoming = Incoming()

    def put(self, kind: MessageKind, payload: bytes = b"") -> None:
        """Send a message.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        ttl_s = int(self._settings.file_stall_s) + _TTL_MARGIN_S
        self._store.run(files.put(self._id, self._mine, Message(self._sent, kind, payload), ttl_s=ttl_s))
        self._sent += 1

    def take(self) -> Message:
        """Wait for a message.

        Raises:
            TransferBrokenError: None came in time, or one that says that there will be nothing more.
            StoreUnavailableError: Redis is away.
        """
        slice_s = min(self._settings.redis_timeout_s / 2, _LONGEST_SLICE_S)
        deadline_s = time.monotonic() + self._settings.file_stall_s + GUEST_GRACE_S
        while time.monotonic() < deadline_s:
            message = self._store.run(files.take(self._id, self._theirs, wait_s=slice_s))
            if message is not None:
                return self._incoming.check(message)
            if self._is_over():
                break
        raise TransferBrokenError("the node let nothing be heard any more")

    def break_off(self, reason: str) -> None:
        """Tell the node that there will be nothing more; with Redis away it finds out by the clock."""
        with contextlib.suppress(StoreUnavailableError):
            self.put(MessageKind.BROKEN, reason.encode(errors="replace"))


class Download:
    """The bytes of a guest's file as they come. To be closed, read to its end or not."""

    def __init__(self, lanes: Lanes, seat: threading.Semaphore, limit_bytes: int) -> None:
        self._lanes = lanes
        self._seat = seat
        self._limit_bytes = limit_bytes
        self._digest = hashlib.sha256()
        self._size = 0
        self._due = False
        self._ended = False
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Wait for the next bytes; that they are asked for says that those before are done with.

        Raises:
            StopIteration: That was all of it, and the record says so.
            TransferBrokenError: There is more, and it will not come.
            StoreUnavailableError: Redis is away.
        """
        if self._due:
            self._lanes.put(MessageKind.DONE)
            self._due = False
        message = self._take()
        if message.kind is MessageKind.DONE:
            self._ended = True
            if message.payload != self._digest.digest():
                raise TransferBrokenError("a part of it was changed in the data store")
            raise StopIteration
        self._digest.update(message.payload)
        self._size += len(message.payload)
        if self._size > self._limit_bytes:
            self._refuse()
        self._due = True
        return message.payload

    def check_size(self) -> None:
        """Take the message that goes first.

        Raises:
            FileTooLargeError: The file is longer than may be read.
            TransferBrokenError: It doesn't come.
            StoreUnavailableError: Redis is away.
        """
        size = self._take().payload
        if size and int(size) > self._limit_bytes:
            self._refuse()

    def close(self) -> None:
        """Let it end here, at the latest."""
        if self._closed:
            return
        self._closed = True
        self._seat.release()
        if not self._ended:
            self._lanes.break_off("the client didn't take all of it")

    def _take(self) -> Message:
        try:
            return self._lanes.take()
        except TransferBrokenError:
            self._ended = True
            raise

    def _refuse(self) -> None:
        self._ended = True
        self._lanes.break_off(f"the file is longer than {self._limit_bytes} bytes")
        raise FileTooLargeError(self._limit_bytes)
