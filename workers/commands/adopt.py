"""Taking over what an earlier worker of this node left: results, running commands, undelivered starts, power jobs."""

import asyncio
import logging
from collections.abc import Callable

from app.core import store
from app.core.clock import now
from app.core.errors import StoreUnavailableError
from app.core.records import Command, CommandEnd, CommandKind, CommandState, Job, JobKind, JobState
from workers.commands.outcome import Outcomes
from workers.commands.start import StartableGuest, Starter
from workers.commands.watch import Running, Watcher

_log = logging.getLogger(__name__)

_REDIS_PAUSE_S = 0.5
_TAKEN_BACK = "The result can't be known: the VM was being taken back to a snapshot when the worker stopped"


class Adopter:
    """Brings every open record of the node into a state that this worker can answer for."""

    def __init__(
        self,
        node: str,
        outcomes: Outcomes,
        starter: Starter,
        watcher: Watcher,
        find_vm: Callable[[int], StartableGuest | None],
    ) -> None:
        self._node = node
        self._outcomes = outcomes
        self._starter = starter
        self._watcher = watcher
        self._find_vm = find_vm
        self._starts: list[asyncio.Task[None]] = []

    async def adopt(self) -> None:
        """Take over everything, once, before the first RQ job is taken.

        Effect: polls go on in the guests; a queued command that was never claimed is delivered, no other is.
        """
        await self._deliver_spool()
        jobs = [job for job in await self._open_jobs() if job.state is JobState.RUNNING]
        halfway_back = {job.vmid for job in jobs if job.kind is JobKind.SNAPSHOT_ROLLBACK}
        for command in await self._open_commands():
            if command.state is CommandState.RUNNING and command.vmid in halfway_back:
                await self._end(command, CommandState.LOST, _TAKEN_BACK)
            else:
                await self._adopt_command(command)
        for job in jobs:
            await self._fail_job(job.id, "The worker was restarted during this action; look at the VM's status")

    async def _deliver_spool(self) -> None:
        while True:
            try:
                await self._outcomes.deliver_spool()
            except StoreUnavailableError:
                await asyncio.sleep(_REDIS_PAUSE_S)
            else:
                return

    async def sweep(self) -> None:
        """End the queued commands and jobs that nobody took in time, for instance because the web half died waiting."""
        for command in await self._open_commands():
            if command.state is CommandState.QUEUED:
                await self._starter.expire_if_undelivered(command.id)
        for job in await self._open_jobs():
            if job.state is JobState.QUEUED and job.start_by < now():
                await self._fail_job(job.id, "The job was not started in time; nothing was done")

    async def _open_jobs(self) -> list[Job]:
        ids = await self._outcomes.persist(store.jobs.list_open(self._node))
        found = await asyncio.gather(*(self._outcomes.persist(store.jobs.find(job_id)) for job_id in ids))
        return [job for job in found if job is not None]

    async def _open_commands(self) -> list[Command]:
        ids = await self._outcomes.persist(store.commands.list_open(self._node))
        unknown = [command_id for command_id in ids if not self._watcher.is_watching(command_id)]
        found = await asyncio.gather(*(self._outcomes.persist(store.commands.find(each)) for each in unknown))
        return [command for command in found if command is not None]

    async def _adopt_command(self, command: Command) -> None:
        if command.kind is not CommandKind.EXEC:
            await self._give_up_file(command)
        elif command.state is CommandState.QUEUED and command.sent_at is None:
            # Not waited for: one agent that doesn't answer must not hold up the rest of the node.
            self._starts.append(asyncio.create_task(self._starter.start(command.id, command.vmid)))
        elif command.state is CommandState.QUEUED:
            await self._end(command, CommandState.UNKNOWN, "The worker died while sending it: it may have run")
        elif command.state is CommandState.RUNNING:
            self._adopt_running(command)

    async def _give_up_file(self, command: Command) -> None:
        """End the transfer of a file that the worker died in. One that nobody has claimed is RQ's, or the sweep's."""
        if command.state is CommandState.RUNNING:
            await self._end(command, CommandState.LOST, "The worker died during the transfer: it may be incomplete")
        elif command.sent_at is not None:
            await self._end(command, CommandState.FAILED, "The worker died before the transfer began")

    def _adopt_running(self, command: Command) -> None:
        guest = self._find_vm(command.vmid)
        if guest is None or command.pid is None:
            _log.warning("command_without_vm", extra={"command_id": command.id, "vmid": command.vmid})
            return
        running = Running(
            command_id=command.id,
            vmid=command.vmid,
            pid=command.pid,
            agent_identity=command.agent_identity,
            started_at=command.started_at or now(),
            timeout_s=command.timeout_s,
        )
        self._watcher.watch(running, guest)
        if command.kill_requested_at is not None:
            self._watcher.kill(command.id)

    async def _fail_job(self, job_id: str, message: str) -> None:
        await self._outcomes.persist(store.jobs.finish(job_id, JobState.FAILED, message, now()))

    async def _end(self, command: Command, state: CommandState, message: str) -> None:
        await self._outcomes.end(command.id, CommandEnd(state=state, ended_at=now(), message=message))
