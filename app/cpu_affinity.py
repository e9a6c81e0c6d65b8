"""One CPU for each web process: its threads take turns with Python anyway, and find warm what the last one has used.

Left to itself the kernel wakes each thread wherever a CPU is idle, and all that the process works on moves along: that
costs a quarter of its time (bench/README.md). Two hooks of gunicorn.

Source: gunicorn docs, Settings, server hooks: ``pre_fork`` runs in the parent, which knows the other processes.
"""

import os
from typing import Any


def choose(arbiter: Any, worker: Any) -> None:
    """Choose the CPU that the fewest web processes have; with two services on one host each begins elsewhere."""
    cpus = sorted(os.sched_getaffinity(0))
    start = os.getpid() % len(cpus)
    taken = [other.cpu for other in arbiter.WORKERS.values()]
    worker.cpu = min(cpus[start:] + cpus[:start], key=taken.count)


def keep(_arbiter: Any, worker: Any) -> None:
    """Stay on the CPU that was chosen; where that isn't allowed, everything works without."""
    try:
        os.sched_setaffinity(0, {worker.cpu})
    except OSError as exc:
        worker.log.warning("This process goes on with any CPU: %s", exc.strerror)
