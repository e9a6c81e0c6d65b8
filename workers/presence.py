"""Telling the fleet that this node is there and how its VMs are."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from app.core import store
from app.core.errors import StoreUnavailableError
from app.core.records import Node
from app.core.records import Vm as VmRecord

_log = logging.getLogger(__name__)

_BEAT_S = 3.0


class Presence:
    """Publishes VM records and the node's heartbeat; what Redis missed is told again when it is back."""

    def __init__(self, redis_store: store.AsyncStore) -> None:
        self._store = redis_store
        self._missed = False
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

    async def beat(self, describe: Callable[[], Node], vms: Callable[[], Iterable[VmRecord]]) -> None:
        """Beat until cancelled."""
        while True:
            try:
                is_new = await self._store.run(store.nodes.beat(describe()))
            except StoreUnavailableError:
                self._missed = True
            else:
                if is_new or self._missed:
                    self._missed = False
                    for vm in vms():
                        await self.publish(vm)
            await asyncio.sleep(_BEAT_S)
