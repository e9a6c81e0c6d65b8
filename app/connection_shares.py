"""How many connections each web process has, so that each takes its share of those that come.

All processes accept from one queue, and whoever is woken first would take all: the same one as a rule. A connection
that is kept stays where it is, so one process would do most of the work while the others idle.

Source: gunicorn docs, Settings, server hooks: ``pre_fork`` runs in the parent, which knows the other processes.
"""

import mmap
from typing import Any

_COUNT_BYTES = 4
_NONE = 2**31 - 1


class Shares:
    """The number of connections of each process, in memory that they all see: make it before they are forked."""

    def __init__(self, processes: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, processes * _COUNT_BYTES)).cast("i")

    def choose(self, arbiter: Any, worker: Any) -> None:
        """Choose where a process that is about to be forked tells its number: ``worker.share``."""
        taken = [other.share for other in arbiter.WORKERS.values()]
        worker.share = min(range(len(self._counts)), key=taken.count)

    def tell(self, share: int, connections: int) -> None:
        """Tell how many connections a process has now."""
        self._counts[share] = connections

    def leave(self, share: int) -> None:
        """Tell that a process takes no more."""
        self._counts[share] = _NONE

    def fewest(self) -> int:
        """Tell how many the process has that has the fewest."""
        return min(self._counts)
