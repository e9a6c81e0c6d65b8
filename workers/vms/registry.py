"""The VMs of this node: found by their definition files, followed while the files are there."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from app.core.errors import DefinitionError
from app.core.records import Vm as VmRecord
from app.core.store.snapshots import VmSnapshots
from workers.settings import WorkerSettings
from workers.vms import definition
from workers.vms.definition import VmDefinition
from workers.vms.vm import History, Vm

if TYPE_CHECKING:
    from workers.qga.channel import Channel

_log = logging.getLogger(__name__)

_RESTART_S = 1.0
_LONG_REPLIES = 32
"""How many results of megabytes the node receives at the same time: each may take 64 MiB of disk meanwhile."""

_Stamp = tuple[int, int, int]
_NO_STAMP: _Stamp = (0, 0, 0)


class Registry:
    """Keeps one ``Vm`` for each usable definition file; a broken file is reported and skipped, the rest go on."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        publish: Callable[[VmRecord], Awaitable[None]],
        forget: Callable[[int, bool], Awaitable[None]],
        guest_gone: Callable[[int, str], None],
        history: History | None = None,
        look_at_snapshots: Callable[[Vm], Awaitable[None]] | None = None,
    ) -> None:
        """Describe the registry; nothing is read before ``scan``.

        Args:
            settings: The worker's.
            publish: Takes every new state of a VM.
            forget: Told when this node no longer carries a VM, and whether that is for good: its file is gone or is
                another VM's, not just unreadable.
            guest_gone: Told when the system in a VM has ended, with the reason.
            history: As for ``Vm``.
            look_at_snapshots: As for ``Vm``.
        """
        self._settings = settings
        self._publish = publish
        self._forget = forget
        self._guest_gone = guest_gone
        self._history = history
        self._look_at_snapshots = look_at_snapshots
        self._long_replies = asyncio.Semaphore(_LONG_REPLIES)
        self._stamps: dict[Path, _Stamp] = {}
        self._definitions: dict[Path, VmDefinition] = {}
        self._broken: dict[Path, str] = {}
        self._vms: dict[int, tuple[Vm, asyncio.Task[None]]] = {}
        self._channels: WeakValueDictionary[Path, Channel] = WeakValueDictionary()

    @property
    def broken(self) -> int:
        """How many files had to be skipped."""
        return len(self._broken)

    def records(self) -> list[VmRecord]:
        """Write down what is known now of every VM."""
        return [vm.record() for vm, _ in self._vms.values()]

    def snapshots(self) -> list[VmSnapshots]:
        """Write down which snapshots every VM has, as far as that is known."""
        return [vm.snapshots for vm, _ in self._vms.values() if vm.snapshots is not None]

    def __len__(self) -> int:
        return len(self._vms)

    def find(self, vmid: int) -> Vm | None:
        """Find a VM of this node."""
        entry = self._vms.get(vmid)
        return entry[0] if entry else None

    async def follow(self) -> None:
        """Look at the folder again and again until cancelled."""
        while True:
            await self.scan()
            await asyncio.sleep(self._settings.vm_scan_s)

    async def scan(self) -> None:
        """Look at the folder once and follow what it says now."""
        changed, removed = await asyncio.to_thread(self._find_changes)
        found = await asyncio.to_thread(_load, changed)
        described = {(each.vmid, each.account) for _, each in found if isinstance(each, VmDefinition)}
        for path in removed:
            gone = self._definitions.get(path)
            was_renamed = gone is not None and (gone.vmid, gone.account) in described
            await self._drop(path, for_good=not was_renamed)
        await self._take_all(found)
        if changed or removed:
            await self._take_all(
                await asyncio.to_thread(_load, list(self._broken))
            )  # the vmid that one of them waited for may be free now

    async def close(self) -> None:
        """Stop following; the VMs themselves go on."""
        entries, self._vms = list(self._vms.values()), {}
        for _, task in entries:
            task.cancel()
        await asyncio.gather(*(task for _, task in entries), return_exceptions=True)

    def _find_changes(self) -> tuple[list[Path], list[Path]]:
        present: dict[Path, _Stamp] = {}
        for path in sorted(self._settings.vm_dir.glob("*.toml")):
            with contextlib.suppress(FileNotFoundError):
                present[path] = _stamp(path)
        changed = [path for path, stamp in present.items() if self._stamps.get(path) != stamp]
        removed = [path for path in self._stamps if path not in present]
        self._stamps = present
        return changed, removed

    async def _take_all(self, found: "list[tuple[Path, VmDefinition | DefinitionError]]") -> None:
        for path, each in found:
            try:
                await self._take(path, self._insist_on_unique(path, each))
            except DefinitionError as exc:
                await self._skip(path, str(exc))

    def _find_orphan(self, qga: Path) -> "Channel | None":
        """Find the channel to a socket that commands of a VM still use which isn't followed any more.

        Two would keep the socket from each other. One that a VM has is not given to another: it would be that guest.
        """
        channel = self._channels.get(qga)
        return None if any(vm.channel is channel for vm, _ in self._vms.values()) else channel

    async def _skip(self, path: Path, reason: str) -> None:
        known = self._broken.get(path)
        await self._drop(path, for_good=False)
        self._broken[path] = reason
        if reason != known:
            _log.error("definition_skipped", extra={"file": path.name, "reason": reason})

    async def _take(self, path: Path, wanted: VmDefinition) -> None:
        before = self._definitions.get(path)
        if before == wanted:
            return
        present = self.find(wanted.vmid)
        if before is not None and present is not None and _is_same_vm(before, wanted):
            self._definitions[path] = wanted
            present.describe_anew(wanted)
            _log.info("vm_described_anew", extra={"vmid": wanted.vmid, "name_": wanted.name})
            return
        await self._drop(path, heir=wanted)
        self._definitions[path] = wanted
        vm = Vm(
            wanted,
            self._settings,
            publish=self._publish,
            long_replies=self._long_replies,
            channel=self._find_orphan(wanted.qga),
            guest_gone=self._guest_gone,
            history=self._history,
            look_at_snapshots=self._look_at_snapshots,
        )
        self._channels[wanted.qga] = vm.channel
        self._vms[wanted.vmid] = (vm, asyncio.create_task(_follow(vm)))
        _log.info("vm_followed", extra={"vmid": wanted.vmid, "name_": wanted.name, "account": wanted.account})

    def _insist_on_unique(self, path: Path, found: VmDefinition | DefinitionError) -> VmDefinition:
        if isinstance(found, DefinitionError):
            raise found
        present = self._vms.get(found.vmid)
        if present is not None and present[0].definition.source != path:
            other = present[0].definition.source
            raise DefinitionError(f"{path.name}: vmid {found.vmid} is already taken by {other.name}")
        return found

    async def _drop(self, path: Path, *, heir: VmDefinition | None = None, for_good: bool = True) -> None:
        """Follow the VM of a file no longer, and have it forgotten, unless it is just described anew.

        Args:
            path: The file.
            heir: What it says now.
            for_good: Whether the VM is gone, and not just the sense of its file.
        """
        self._broken.pop(path, None)
        gone = self._definitions.pop(path, None)
        if gone is None:
            return
        _, task = self._vms.pop(gone.vmid)
        task.cancel()
        await asyncio.wait([task])
        if heir is None or (heir.vmid, heir.account) != (gone.vmid, gone.account):
            await self._forget(gone.vmid, for_good)


def _is_same_vm(before: VmDefinition, now: VmDefinition) -> bool:
    """Tell whether VM, owner and sockets are the same; all else counts when the VM is started."""
    return (before.vmid, before.account, before.qga, before.qmp) == (now.vmid, now.account, now.qga, now.qmp)


def _stamp(path: Path) -> _Stamp:
    """Tell when a file changed.

    Raises:
        FileNotFoundError: It is gone.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise
    except OSError:  # a link to itself, for instance: whoever reads it is told what is wrong
        return _NO_STAMP
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _load(paths: list[Path]) -> list[tuple[Path, VmDefinition | DefinitionError]]:
    found: list[tuple[Path, VmDefinition | DefinitionError]] = []
    for path in paths:
        try:
            found.append((path, definition.load(path)))
        except DefinitionError as exc:
            found.append((path, exc))
    return found


async def _follow(vm: Vm) -> None:
    while True:
        try:
            await vm.follow()
        except Exception:  # noqa: BLE001 - a defect met on one VM must not leave it unwatched
            _log.exception("vm_follow_failed", extra={"vmid": vm.definition.vmid})
            await asyncio.sleep(_RESTART_S)
