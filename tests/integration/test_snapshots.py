"""Snapshots on a real QEMU whose guest is only its firmware, so that each is a matter of milliseconds."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.core import env
from app.core.errors import PowerError, SnapshotError
from app.core.records import JobKind, PowerAction, VmStatus
from app.core.records import Vm as VmRecord
from app.core.store.snapshots import VmSnapshots
from workers.settings import WorkerSettings
from workers.vms.definition import MachineDefinition, VmDefinition
from workers.vms.machine import Launcher
from workers.vms.power import Patience, Power
from workers.vms.qemu_img import QemuImg
from workers.vms.snapshots import SnapshotLimits, Snapshots
from workers.vms.vm import Vm

TIMEOUT_S = 10
MEMORY_MB = 16
CREATE, ROLLBACK, DELETE = JobKind.SNAPSHOT_CREATE, JobKind.SNAPSHOT_ROLLBACK, JobKind.SNAPSHOT_DELETE


def make_disk(path: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", path.suffix[1:], path, "1M"], check=True)
    return path


def names_in(disk: Path) -> list[str]:
    """List the snapshots in an image, whether a QEMU has it open or not."""
    listed = subprocess.run(["qemu-img", "snapshot", "-U", "-l", disk], capture_output=True, text=True, check=True)
    return [line.split()[1] for line in listed.stdout.splitlines()[2:]]


def take_by_hand(disk: Path) -> None:
    subprocess.run(["qemu-img", "snapshot", "-c", "by hand", disk], check=True)


class Bench:
    """One VM that is followed, and what can be done to it."""

    def __init__(self, folder: Path, disks: Sequence[Path], *, memory_mb: int, work_s: float, count: int) -> None:
        definition = VmDefinition(
            vmid=1,
            name="a",
            account="acme",
            qga=folder / "1.qga",
            qmp=folder / "1.qmp",
            machine=MachineDefinition(cpus=1, memory_mb=memory_mb, disks=tuple(disks)),
            source=folder / "1.toml",
        )
        self.power = Power(Launcher(binary="qemu-system-x86_64", accel="tcg"), Patience())
        self.snapshots = Snapshots(
            "node-1",
            QemuImg("qemu-img"),
            start_at=self.power.start_at,
            publish=self._take,
            guest_gone=lambda _vmid, reason: self.losses.append(reason),
            limits=SnapshotLimits(count=count, work_s=work_s, agent_s=0.5),
        )
        settings = env.load(WorkerSettings, {"FIGURES_INTERVAL_S": "0.5"})
        self.vm = Vm(
            definition,
            settings,
            publish=_ignore,
            guest_gone=lambda _vmid, _reason: None,
            look_at_snapshots=self.snapshots.look,
        )
        self.told: list[VmSnapshots] = []
        self.losses: list[str] = []

    async def act(self, kind: JobKind, name: str) -> str:
        return await self.snapshots.run(kind, self.vm, name, _report)

    async def refusal(self, kind: JobKind, name: str) -> str:
        with pytest.raises((SnapshotError, PowerError)) as caught:
            await self.act(kind, name)
        return str(caught.value)

    async def switch(self, action: PowerAction) -> None:
        await self.power.run(action, self.vm, force=False, report=_report)

    async def reach(self, status: VmStatus) -> None:
        assert await self.vm.wait_until(lambda vm: vm.seen_status is status, TIMEOUT_S), self.vm.seen_status

    def names(self) -> list[str]:
        return [snapshot.name for snapshot in self.told[-1].snapshots]

    async def until_told(self, names: list[str]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not self.told or self.names() != names:  # noqa: ASYNC110 - what is polled is told by another task
                await asyncio.sleep(0.01)

    async def _take(self, known: VmSnapshots) -> None:
        self.told.append(known)


@asynccontextmanager
async def followed(
    folder: Path, *disks: Path, memory_mb: int = MEMORY_MB, work_s: float = 30, count: int = 5
) -> AsyncIterator[Bench]:
    bench = Bench(folder, disks, memory_mb=memory_mb, work_s=work_s, count=count)
    following = asyncio.create_task(bench.vm.follow())
    try:
        await bench.reach(VmStatus.STOPPED)
        yield bench
    finally:
        await bench.switch(PowerAction.STOP)
        following.cancel()
        await asyncio.wait([following])


async def _ignore(_record: VmRecord) -> None:
    """Nobody reads it."""


async def _report(_percent: int, _text: str) -> None:
    """Nobody waits for it."""


async def test_a_snapshot_is_in_each_disk_until_it_is_deleted(tmp_path: Path) -> None:
    first, second = make_disk(tmp_path / "a.qcow2"), make_disk(tmp_path / "b, c.qcow2")
    async with followed(tmp_path, first, second) as bench:
        await bench.switch(PowerAction.START)
        assert await bench.act(CREATE, "s-1") == "the snapshot s-1 was taken"
        assert await bench.act(CREATE, "s-2") == "the snapshot s-2 was taken"
        assert names_in(first) == names_in(second) == ["s-1", "s-2"]
        known = bench.told[-1]
        assert (known.vmid, known.node, known.limit, known.obstacle) == (1, "node-1", 5, None)
        assert [(snapshot.name, snapshot.includes_memory) for snapshot in known.snapshots] == [
            ("s-1", True),
            ("s-2", True),
        ]
        assert bench.vm.seen_status is VmStatus.RUNNING
        assert await bench.refusal(CREATE, "s-1") == "the VM has a snapshot s-1 already"

        assert await bench.act(DELETE, "s-1") == "the snapshot s-1 was deleted"
        assert names_in(first) == names_in(second) == bench.names() == ["s-2"]
        assert await bench.refusal(DELETE, "s-1") == "the VM has no snapshot s-1"
        assert await bench.refusal(ROLLBACK, "s-1") == "the VM has no snapshot s-1"
        assert bench.losses == []


async def test_going_back_makes_another_guest_of_it(tmp_path: Path) -> None:
    async with followed(tmp_path, make_disk(tmp_path / "a.qcow2")) as bench:
        await bench.switch(PowerAction.START)
        await bench.act(CREATE, "s")
        bench.vm.lacks_setsid = True
        assert await bench.act(ROLLBACK, "s") == "the VM was taken back to the snapshot s"
        assert bench.losses == ["the VM was taken back to the snapshot s"]
        assert bench.vm.lacks_setsid is False
        assert bench.vm.monitor is not None
        assert await bench.vm.monitor.run_state() == "running"
        assert bench.vm.resets == 0


async def test_a_paused_vm_stays_so(tmp_path: Path) -> None:
    async with followed(tmp_path, make_disk(tmp_path / "a.qcow2")) as bench:
        await bench.switch(PowerAction.START)
        assert bench.vm.monitor is not None
        await bench.vm.monitor.execute("stop")
        await bench.reach(VmStatus.PAUSED)
        await bench.act(CREATE, "s")
        await bench.act(ROLLBACK, "s")
        assert await bench.vm.monitor.run_state() == "paused"


async def test_of_a_vm_that_is_off_snapshots_are_known_deleted_and_gone_back_to(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "a.qcow2")
    async with followed(tmp_path, disk) as bench:
        await bench.switch(PowerAction.START)
        for name in ("s-1", "s-2"):
            await bench.act(CREATE, name)
    async with followed(tmp_path, disk) as bench:
        await bench.until_told(["s-1", "s-2"])
        assert "the VM is stopped" in await bench.refusal(CREATE, "s-3")
        assert await bench.act(DELETE, "s-1") == "the snapshot s-1 was deleted"
        assert names_in(disk) == bench.names() == ["s-2"]
        assert await bench.refusal(ROLLBACK, "s-1") == "the VM has no snapshot s-1"
        assert await bench.act(ROLLBACK, "s-2") == "the VM was started where the snapshot s-2 was taken"
        assert bench.vm.seen_status is VmStatus.RUNNING
        await bench.until_told(["s-2"])


async def test_what_others_did_while_a_vm_was_off_is_seen_when_it_starts(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "a.qcow2")
    async with followed(tmp_path, disk) as bench:
        await bench.until_told([])
        take_by_hand(disk)
        await bench.switch(PowerAction.START)
        await bench.until_told(["by hand"])
        assert bench.told[-1].snapshots[0].includes_memory is False
        assert "only qemu-img on the node can go back to it" in await bench.refusal(ROLLBACK, "by hand")
        assert await bench.act(DELETE, "by hand") == "the snapshot by hand was deleted"


async def test_a_vm_with_a_raw_disk_has_none_and_says_why(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "a.qcow2")
    async with followed(tmp_path, disk, make_disk(tmp_path / "b.raw")) as bench:
        await bench.switch(PowerAction.START)
        assert await bench.refusal(CREATE, "s") == (
            "Each writable disk of the VM must be qcow2 to keep snapshots: virtio1 is raw"
        )
        assert bench.told[-1].obstacle is not None
        assert names_in(disk) == []


async def test_no_more_are_taken_than_a_vm_may_have(tmp_path: Path) -> None:
    async with followed(tmp_path, make_disk(tmp_path / "a.qcow2"), count=1) as bench:
        await bench.switch(PowerAction.START)
        await bench.act(CREATE, "s-1")
        assert await bench.refusal(CREATE, "s-2") == "the VM has 1 snapshots; it may have 1"
        assert bench.names() == ["s-1"]


async def test_a_load_that_fails_halts_the_vm_and_says_so_and_another_snapshot_saves_it(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "a.qcow2")
    async with followed(tmp_path, disk) as bench:
        await bench.switch(PowerAction.START)
        await bench.act(CREATE, "of-another-machine")
    async with followed(tmp_path, disk, memory_mb=MEMORY_MB * 2) as bench:
        await bench.switch(PowerAction.START)
        await bench.act(CREATE, "good")
        refusal = await bench.refusal(ROLLBACK, "of-another-machine")
        assert "while loading VM state; the VM is halted: go back to another snapshot" in refusal
        assert bench.losses == ["the VM was to be taken back to the snapshot of-another-machine, which failed"]
        await bench.reach(VmStatus.ERROR)
        await bench.act(ROLLBACK, "good")
        await bench.reach(VmStatus.RUNNING)
        await bench.switch(PowerAction.STOP)
        assert "error while loading state" in await bench.refusal(ROLLBACK, "of-another-machine")
        assert bench.vm.seen_status is VmStatus.STOPPED
