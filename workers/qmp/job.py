"""What QEMU does as a job: asked for, waited for, cleared away.

Source: QMP reference, ``snapshot-save`` and its like (since 6.0), ``query-jobs``, ``job-dismiss``: a job that has ended
stays, with its error, until it is dismissed. While QEMU saves or loads a guest's memory it answers nothing, so that the
answer to the command itself comes only when the work is done (measured on 7.2). Doesn't know what a job is for.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping

from app.core.errors import MonitorError
from workers.qmp import replies
from workers.qmp.monitor import Monitor

_PREFIX = "ownup-"
_ENDED = "concluded"
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0


async def run(monitor: Monitor, command: str, arguments: Mapping[str, object], *, timeout_s: float) -> None:
    """Have QEMU do something as a job, and wait for its end.

    Effect: whatever the command does. After a time-out QEMU may still do it.

    Raises:
        MonitorError: Refused, failed (with QEMU's words), or not done in time.
    """
    job_id = f"{_PREFIX}{secrets.token_hex(8)}"
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    with monitor.patient(timeout_s):
        await monitor.execute(command, {"job-id": job_id, **arguments})
        status = await _wait_ended(monitor, job_id, deadline_s)
        if status is None:
            raise MonitorError(f"{command}: QEMU has not done it within {timeout_s:g} s, and may still do it")
        with contextlib.suppress(MonitorError):  # whatever became of the connection, the work is done
            await monitor.execute("job-dismiss", {"id": job_id})
    if status.error is not None:
        raise MonitorError(f"{command}: {status.error}")


async def clear(monitor: Monitor) -> None:
    """Dismiss what has ended of an earlier worker's: nobody else will. A QEMU that knows no jobs has none."""
    with contextlib.suppress(MonitorError):
        for job_id, status in replies.load_jobs(await monitor.execute("query-jobs")).items():
            if job_id.startswith(_PREFIX) and status.status == _ENDED:
                await monitor.execute("job-dismiss", {"id": job_id})


async def _wait_ended(monitor: Monitor, job_id: str, deadline_s: float) -> replies.JobStatus | None:
    loop = asyncio.get_running_loop()
    pause_s = _FIRST_PAUSE_S
    while True:
        status = replies.load_jobs(await monitor.execute("query-jobs")).get(job_id)
        if status is None:
            raise MonitorError(f"QEMU knows nothing of its job {job_id} any more")
        if status.status == _ENDED:
            return status
        if loop.time() > deadline_s:
            return None
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
