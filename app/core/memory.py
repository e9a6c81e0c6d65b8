"""What becomes of memory that is freed: kept for the next megabytes, and given back when none come for a while.

The C library asks the system for large blocks one by one and gives each back as soon as it is free. All of a block's
pages are missing again then, and to be given them costs more than what is done with the megabytes: a result of 8 MiB
took half as long again. So freed blocks stay on the heap, up to ``_KEPT_BYTES`` at its end, until things are quiet.

Source: mallopt(3), malloc_trim(3). Of another C library than glibc nothing is asked.
"""

import contextlib
import ctypes
import threading

QUIET_S = 2.0
"""After so long without large blocks the heap is given back."""

_KEPT_BYTES = 64 * 1024 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed() -> None:
    """Let freed blocks stay on the heap, of which there is one: each thread's own would keep as much."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


class _Keeper:
    """Gives back what is free once nobody has needed large blocks for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def wait_for_quiet(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(QUIET_S, _give_back)
            self._timer.daemon = True
            self._timer.start()


_keeper = _Keeper()


def give_back_soon() -> None:
    """Note that large blocks were needed; what is free when it gets quiet goes back to the system."""
    _keeper.wait_for_quiet()


def _give_back() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
