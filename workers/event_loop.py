"""The worker's event loop: its short waits end when they should, and not at the next whole millisecond.

Source: epoll_wait(2) takes whole milliseconds, and CPython's ``EpollSelector`` makes more of what is less. select(2)
takes microseconds, and epoll(7) says that an epoll instance itself is readable while anything in it is ready. select(2)
knows no file above number 1,023: the loop's own is among the first that a process opens.
"""

import asyncio
import select
from selectors import EpollSelector, SelectorKey

_SHORT_S = 0.004
"""Longer waits are as they were: for them a part of a millisecond is nothing."""


class ExactSelector(EpollSelector):
    """Waits for files as ``EpollSelector`` does, in short waits to the microsecond."""

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait until something is ready, but not for longer than so many seconds; ``None``: without an end."""
        if timeout is not None and 0 < timeout < _SHORT_S:
            if not select.select((self.fileno(),), (), (), timeout)[0]:
                return []
            timeout = 0
        return super().select(timeout)


def make_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop that waits so."""
    return asyncio.SelectorEventLoop(ExactSelector())
