"""``python -m workers``: the worker of one node, put together here and nowhere else."""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import PythonRespSerializer
from redis.retry import Retry

from app.core import env, logs, memory, secrecy, store
from app.core.clock import now
from app.core.errors import OwnUpError, SettingsError
from app.core.queues import queue_name
from app.core.records import Node
from app.core.redis_url import insist_on_access
from workers import garbage, privileges
from workers.commands.adopt import Adopter
from workers.commands.outcome import Outcomes
from workers.commands.spool import Spool
from workers.commands.start import Starter
from workers.commands.watch import Watcher
from workers.event_loop import make_event_loop
from workers.files import AT_ONCE, Files
from workers.guest_calls import GuestCalls
from workers.jobs import JobRunner, job_table
from workers.node_worker import DEQUEUE_TIMEOUT_S, NodeWorker
from workers.presence import Presence, worker_name
from workers.settings import WorkerSettings
from workers.transfer import Carrier
from workers.vms.machine import Launcher
from workers.vms.power import Patience, Power
from workers.vms.qemu_img import QemuImg
from workers.vms.registry import Registry
from workers.vms.snapshots import SnapshotLimits, Snapshots

_log = logging.getLogger(__name__)

_REDIS_CONNECTIONS = 16
_SWEEP_S = 30.0
_COPIED_BYTES = 6000


def main() -> int:
    """Run the worker until SIGTERM or SIGINT.

    Returns:
        The exit code of the process.
    """
    garbage.rest()
    try:
        settings = env.load(WorkerSettings, os.environ)
        secrecy.forget_secrets(os.environ)
        secrecy.forbid_core_files()
        logs.configure(settings.log_level)
        logging.getLogger("rq.worker").setLevel(logging.WARNING)
        memory.keep_freed()
        privileges.restrict(settings.run_as)
        insist_on_access(settings.redis_url, settings.redis_timeout_s)
        with _only_one(settings), asyncio.Runner(loop_factory=make_event_loop) as runner:
            runner.run(_run(settings))
    except OwnUpError as exc:
        sys.stderr.write(f"ownup worker: {exc}\n")
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a worker consists of."""

    settings: WorkerSettings
    began: datetime
    outcomes: Outcomes
    watcher: Watcher
    files: Files
    presence: Presence
    registry: Registry
    adopter: Adopter
    rq_worker: NodeWorker

    def describe_node(self) -> Node:
        """Write down what the heartbeat says."""
        return Node(
            name=self.settings.node_name,
            worker=self.rq_worker.name,
            vms=len(self.registry),
            broken_definitions=self.registry.broken,
            since=self.began,
        )


def _build(settings: WorkerSettings, redis_store: store.AsyncStore, source: redis.asyncio.Redis) -> _Parts:
    outcomes = Outcomes(
        redis_store,
        store.Store(_blocking_redis(settings, command_packer=_pack_by_reference())),
        Spool(settings.spool_dir),
        ttl_s=settings.exec_ttl_s,
        output_limit_bytes=settings.exec_output_limit_bytes,
    )
    watcher = Watcher(outcomes, agent_lost_s=settings.agent_lost_s, kill_grace_s=settings.kill_grace_s)
    presence = Presence(redis_store)
    launcher = Launcher(
        binary=settings.qemu_binary, accel=settings.qemu_accel, load_timeout_s=settings.snapshot_timeout_s
    )
    power = Power(launcher, Patience(guest_s=settings.shutdown_timeout_s))

    def guest_gone(vmid: int, reason: str) -> None:
        watcher.lose(vmid, reason)
        files.lose(vmid, reason)

    snapshots = Snapshots(
        settings.node_name,
        QemuImg(settings.qemu_img_binary),
        start_at=power.start_at,
        publish=presence.publish_snapshots,
        guest_gone=guest_gone,
        limits=SnapshotLimits(count=settings.snapshot_limit, work_s=settings.snapshot_timeout_s),
    )
    registry = Registry(
        settings,
        publish=presence.publish,
        forget=lambda vmid, for_good: _forget(outcomes, vmid, settings.node_name, for_good=for_good),
        guest_gone=guest_gone,
        history=presence,
        look_at_snapshots=snapshots.look,
    )
    starter = Starter(outcomes, watcher, registry.find, rpc_timeout_s=settings.agent_rpc_timeout_s)
    carrier = Carrier(store.PatientStore(source), settings.file_stall_s)
    files = Files(outcomes, carrier, registry.find, claim=starter.claim)
    guest_calls = GuestCalls(outcomes, registry.find, rpc_timeout_s=settings.agent_rpc_timeout_s)
    runner = JobRunner(outcomes, power, snapshots, registry.find)
    return _Parts(
        settings=settings,
        began=now(),
        outcomes=outcomes,
        watcher=watcher,
        files=files,
        presence=presence,
        registry=registry,
        adopter=Adopter(settings.node_name, outcomes, starter, watcher, registry.find),
        rq_worker=NodeWorker(
            queue_name(settings.node_name),
            name=worker_name(settings.node_name),
            connection=_blocking_redis(settings),
            source=source,
            jobs=job_table(starter, watcher, runner, guest_calls, files),
        ),
    )


async def _forget(outcomes: Outcomes, vmid: int, node: str, *, for_good: bool) -> None:
    await outcomes.persist(store.vms.remove(vmid, node, with_results=for_good))
    await outcomes.persist(store.snapshots.leave(vmid, node))


async def _run(settings: WorkerSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().call_later(garbage.SETTLED_S, garbage.resume)
    wait_s = DEQUEUE_TIMEOUT_S  # the queue's source waits in Redis, and never asks twice: what it took would be lost
    waiting = _redis(settings, tries=1, wait_s=wait_s, connections=AT_ONCE + _REDIS_CONNECTIONS)
    async with _redis(settings, tries=2) as client, waiting as source:
        redis_store = store.AsyncStore(client)
        parts = _build(settings, redis_store, source)
        await parts.presence.take_node(parts.describe_node())
        try:
            await _serve(parts, stop)
        finally:
            await parts.files.close()
            await parts.watcher.close()
            await parts.registry.close()
            with contextlib.suppress(OwnUpError):
                await redis_store.run(store.nodes.leave(settings.node_name))
            await redis_store.close()
            _log.info("worker_stopped", extra={"node": settings.node_name})


async def _serve(parts: _Parts, stop: asyncio.Event) -> None:
    """Work until ``stop`` is set, or until something that must not end has ended."""
    await parts.registry.scan()
    await _alongside(
        _work(parts, stop),
        stop,
        parts.presence.beat(parts.describe_node, parts.registry.records, parts.registry.snapshots),
        parts.registry.follow(),
        parts.outcomes.deliver_later(),
        _sweep(parts.adopter),
    )


async def _work(parts: _Parts, stop: asyncio.Event) -> None:
    adopting = asyncio.create_task(parts.adopter.adopt())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({adopting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not adopting.done():
        adopting.cancel()
        return
    adopting.result()
    _log.info("worker_ready", extra={"node": parts.settings.node_name, "vms": len(parts.registry)})
    await parts.rq_worker.serve(stop)


async def _alongside(work: Coroutine[Any, Any, None], stop: asyncio.Event, *endless: Coroutine[Any, Any, None]) -> None:
    """Run work to its end and endless things beside it; one of those that ends stops the work, and is raised."""
    working = asyncio.create_task(work)
    others = [asyncio.create_task(part) for part in endless]
    await asyncio.wait({working, *others}, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await asyncio.wait({working})
    failed = [task for task in others if task.done()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in (*failed, working):
        task.result()


async def _sweep(adopter: Adopter) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        await adopter.sweep()


@contextlib.asynccontextmanager
async def _redis(
    settings: WorkerSettings, *, tries: int, wait_s: float = 0, connections: int = _REDIS_CONNECTIONS
) -> AsyncIterator[redis.asyncio.Redis]:
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=connections,
        timeout=settings.redis_timeout_s,
        socket_timeout=wait_s + settings.redis_timeout_s,
        socket_connect_timeout=settings.redis_timeout_s,
        retry=AsyncRetry(NoBackoff(), tries - 1),
    )
    client = redis.asyncio.Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()


def _pack_by_reference() -> PythonRespSerializer:
    """Make a packer that sends what is long from where it is: hiredis's copies it, twice."""

    def encode(value: str | bytes | float) -> bytes:
        return value if isinstance(value, bytes) else str(value).encode()

    return PythonRespSerializer(_COPIED_BYTES, encode)


def _blocking_redis(settings: WorkerSettings, **options: Any) -> "redis.Redis":
    return redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=settings.redis_timeout_s,
        socket_connect_timeout=settings.redis_timeout_s,
        retry=Retry(NoBackoff(), 1),
        **options,
    )


@contextlib.contextmanager
def _only_one(settings: WorkerSettings) -> Iterator[None]:
    """Hold the node on this host: a second worker for the same spool would deliver and adopt what is ours.

    Raises:
        SettingsError: Another worker holds it.
    """
    settings.spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.spool_dir / "worker.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise SettingsError(f"another worker already runs with SPOOL_DIR={settings.spool_dir}") from exc
        yield


if __name__ == "__main__":
    sys.exit(main())
