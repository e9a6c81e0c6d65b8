"""Telling the fleet that this node is there and how its VMs are."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from app.core import store
from app.core.errors import SettingsError, StoreUnavailableError
from app.core.records import Node
from app.core.records import Vm as VmRecord
from app.core.store.disks import Disk
from app.core.store.metrics import Usage
from app.core.store.snapshots import VmSnapshots

_log = logging.getLogger(__name__)

_BEAT_S = 3.0
_RETRY_S = 0.5


class Presence:
    """Publishes VM records and the node's heartbeat; what Redis missed is told again when it is back."""

    def __init__(self, redis_store: store.AsyncStore) -> None:
        self._store = redis_store
        self._missed = False
        self._is_ours = False
        self._conflicts: dict[int, str] = {}

    async def publish(self, vm: VmRecord) -> None:
        """Publish one VM; a vmid that another living node already carries is reported once and not published."""
        try:
            other = await self._store.run(store.vms.publish(vm))
        except StoreUnavailableError:
            self._missed = True
            return
        if other is None:
            self._conflicts.pop(vm.vmid, None)
        elif self._conflicts.get(vm.vmid) != other:
            self._conflicts[vm.vmid] = other
            _log.error("vmid_taken_by_another_node", extra={"vmid": vm.vmid, "other_node": other})

    async def publish_snapshots(self, known: VmSnapshots) -> None:
        """Publish which snapshots a VM has."""
        try:
            await self._store.run(store.snapshots.publish(known))
        except StoreUnavailableError:
            self._missed = True

    async def add_usage(self, account: str, vmid: int, usage: Usage, covered_s: float) -> None:
        """Keep what a VM used; what Redis misses is a gap."""
        await self._write(vmid, store.metrics.record(account, vmid, usage, covered_s=covered_s))

    async def set_disks(self, account: str, vmid: int, disks: tuple[Disk, ...]) -> None:
        """Keep what a VM's disks are; what Redis misses is told again with the next news of them."""
        await self._write(vmid, store.disks.write(account, vmid, disks))

    async def _write(self, vmid: int, call: store.Call[None]) -> None:
        if vmid not in self._conflicts:
            with contextlib.suppress(StoreUnavailableError):
                await self._store.run(call)

    async def take_node(self, node: Node) -> None:
        """Become the worker that speaks for a node; waits a while for the heartbeat of one that died elsewhere.

        While Redis is away nothing can be taken: the first heartbeat that gets through does it then.

        Raises:
            SettingsError: Another worker speaks for it.
        """
        deadline_s = asyncio.get_running_loop().time() + store.nodes.TTL_S + _BEAT_S
        dead = ""
        while not self._is_ours:
            try:
                other = (await self._store.run(store.nodes.beat(node, instead_of=dead))).taken_by
            except StoreUnavailableError:
                self._missed = True
                return
            self._is_ours = other is None
            dead = other if other is not None and is_dead(other) else ""
            if other is not None and not dead:
                if asyncio.get_running_loop().time() > deadline_s:
                    raise SettingsError(f"worker {other} already speaks for NODE_NAME={node.name}: give each its own")
                await asyncio.sleep(_RETRY_S)

    async def beat(
        self,
        describe: Callable[[], Node],
        vms: Callable[[], Iterable[VmRecord]],
        snapshots: Callable[[], Iterable[VmSnapshots]],
    ) -> None:
        """Beat until cancelled.

        Raises:
            SettingsError: Another worker speaks for this node; this one must not go on.
        """
        while True:
            await self.take_node(describe())
            if self._is_ours:
                await self._beat(describe(), vms, snapshots)
            await asyncio.sleep(_BEAT_S)

    async def _beat(
        self,
        node: Node,
        vms: Callable[[], Iterable[VmRecord]],
        snapshots: Callable[[], Iterable[VmSnapshots]],
    ) -> None:
        try:
            beat = await self._store.run(store.nodes.beat(node))
        except StoreUnavailableError:
            self._missed = True
            return
        if beat.taken_by is not None:
            raise SettingsError(f"worker {beat.taken_by} speaks for this node now: this one ends")
        if beat.is_news or self._missed:
            self._missed = False
            for vm in vms():
                await self.publish(vm)
            for known in snapshots():
                await self.publish_snapshots(known)


def worker_name(node: str) -> str:
    """Name this process among all workers: the node, the host and the process id."""
    return f"{node}@{socket.gethostname()}:{os.getpid()}"


def is_dead(worker: str) -> bool:
    """Tell whether a worker of this name is known to be dead: it was on this host, and its process isn't there."""
    host, _, pid = worker.rpartition("@")[2].rpartition(":")
    return host == socket.gethostname() and not Path(f"/proc/{pid}").exists()
