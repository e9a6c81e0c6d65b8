"""How much may be asked of an agent before it has answered: a window of request bytes, first come, first served.

qemu-ga 7.2 takes its virtio port for a file it can seek in. When it writes a reply while request bytes that it has not
parsed yet are in its buffer of 4,096 bytes, it seeks, fails ("Illegal seek" in its log) and the reply is lost, though
the request was carried out (measured: with at most 4,096 unanswered bytes never, with 5,200 at once). A request longer
than that goes alone.
"""

import asyncio
from collections import deque

WINDOW_BYTES = 4096


class Window:
    """Room for requests under way. Nobody overtakes: a long request waits until there is room for it alone."""

    def __init__(self, size_bytes: int = WINDOW_BYTES) -> None:
        self._size_bytes = size_bytes
        self._used_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._open = False

    async def take(self, request_bytes: int) -> int:
        """Take room for a request; wait until there is some.

        Returns:
            How much was taken: to be given back when the request has been answered.

        Raises:
            CancelledError: The caller has gone meanwhile; nothing is taken.
        """
        taken_bytes = min(request_bytes, self._size_bytes)
        if not self._waiting and self._used_bytes + taken_bytes <= self._size_bytes:
            self._used_bytes += taken_bytes
            return taken_bytes
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((taken_bytes, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(taken_bytes)
            raise
        return taken_bytes

    def give(self, taken_bytes: int) -> None:
        """Give room back."""
        self._used_bytes -= taken_bytes
        self._admit()

    def open_for_all(self) -> None:
        """Let everybody through: the session has ended, and each will find that out by itself."""
        self._open = True
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            taken_bytes, turn = self._waiting[0]
            if not (turn.cancelled() or self._open or self._used_bytes + taken_bytes <= self._size_bytes):
                return
            self._waiting.popleft()
            if not turn.cancelled():
                self._used_bytes += taken_bytes
                turn.set_result(None)
