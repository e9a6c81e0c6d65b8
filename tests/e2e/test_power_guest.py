"""Power actions on a real VM: a real QEMU, a real guest, its real agent and its real power button."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.core import env
from app.core.errors import PowerError
from app.core.records import PowerAction, VmStatus
from app.core.records import Vm as VmRecord
from lab import accel
from lab import guest as lab_guest
from lab.accel import Accelerator
from lab.guest import LabGuest
from workers.settings import WorkerSettings
from workers.socket_lock import SocketLock
from workers.vms.definition import MachineDefinition, VmDefinition
from workers.vms.machine import Launcher, is_running, running_pid
from workers.vms.power import Patience, Power
from workers.vms.vm import Vm

BOOT_TIMEOUT_S = 60
MEMORY_MB = 256


class Bench:
    """One VM that is followed, and what is needed to switch it."""

    def __init__(self, vm: Vm, accelerator: Accelerator) -> None:
        self.vm = vm
        self._launcher = Launcher(binary="qemu-system-x86_64", accel=accelerator, start_timeout_s=30)
        self.reports: list[str] = []

    async def act(self, action: PowerAction, *, force: bool = False, guest_s: float = 30) -> str:
        patience = Patience(guest_s=guest_s, agent_s=guest_s / 2)
        power = Power(self._launcher, patience)
        return await power.run(action, self.vm, force=force, report=self._report)

    async def boot(self) -> None:
        assert await self.act(PowerAction.START) == "the VM was started"
        assert await self.vm.wait_until(lambda vm: vm.record().agent_available, BOOT_TIMEOUT_S)

    async def wait_for_guest(self) -> None:
        """Wait for a guest whose agent may not be asked: it opens the agent's port in any case."""
        deadline_s = asyncio.get_running_loop().time() + BOOT_TIMEOUT_S
        while self.vm.monitor is None or not await self.vm.monitor.agent_port_open(self.vm.definition.qga):
            assert asyncio.get_running_loop().time() < deadline_s
            await asyncio.sleep(0.05)

    async def _report(self, _percent: int, text: str) -> None:
        self.reports.append(text)


@pytest.fixture(scope="session")
def guest() -> LabGuest:
    return lab_guest.build(Path(os.environ.get("VAR_DIR", "var")))


@pytest.fixture(scope="session")
def accelerator(guest: LabGuest) -> Accelerator:
    return accel.choose(Path(os.environ.get("VAR_DIR", "var")), guest)


@asynccontextmanager
async def followed(folder: Path, guest: LabGuest, accelerator: Accelerator, *words: str) -> AsyncIterator[Bench]:
    definition = VmDefinition(
        vmid=10001,
        name="lab",
        account="acme",
        qga=folder / "1.qga",
        qmp=folder / "1.qmp",
        machine=MachineDefinition(cpus=1, memory_mb=MEMORY_MB, extra_args=tuple(guest.qemu_args(*words))),
        source=folder / "1.toml",
    )

    async def publish(_record: VmRecord) -> None:
        """Nobody reads it."""

    settings = env.load(WorkerSettings, {"FIGURES_INTERVAL_S": "0.5"})
    vm = Vm(definition, settings, publish=publish, guest_gone=lambda _vmid, _reason: None)
    following = asyncio.create_task(vm.follow())
    bench = Bench(vm, accelerator)
    try:
        assert await vm.wait_until(lambda vm: vm.seen_status is VmStatus.STOPPED, 5)
        yield bench
    finally:
        await bench.act(PowerAction.STOP)
        following.cancel()
        await asyncio.wait([following])


async def test_a_vm_starts_reboots_resets_and_shuts_down_through_its_agent(
    tmp_path: Path, guest: LabGuest, accelerator: Accelerator
) -> None:
    async with followed(tmp_path, guest, accelerator) as bench:
        await bench.boot()
        first_pid = running_pid(bench.vm.definition)
        assert bench.vm.record().qemu_pid == first_pid

        assert await bench.act(PowerAction.RESTART) == "the guest rebooted"
        assert await bench.vm.wait_until(lambda vm: vm.record().agent_available, BOOT_TIMEOUT_S)
        assert await bench.act(PowerAction.RESTART, force=True) == "the VM was reset"
        assert await bench.vm.wait_until(lambda vm: vm.record().agent_available, BOOT_TIMEOUT_S)
        assert running_pid(bench.vm.definition) == first_pid

        assert await bench.act(PowerAction.SHUTDOWN) == "the guest shut down"
        assert bench.reports[-1] == "the guest agent was asked to shut the guest down"
        assert bench.vm.record().status is VmStatus.STOPPED
        assert await bench.act(PowerAction.SHUTDOWN) == "the VM was already stopped"


async def test_figures_of_a_running_vm_are_real(tmp_path: Path, guest: LabGuest, accelerator: Accelerator) -> None:
    async with followed(tmp_path, guest, accelerator) as bench:
        await bench.boot()
        assert await bench.vm.wait_until(lambda vm: vm.record().cpu is not None, 10)
        record = bench.vm.record()
        assert record.cpus == 1
        assert record.maxmem_bytes == MEMORY_MB * 1024 * 1024
        assert record.mem_bytes is not None
        assert 20_000_000 < record.mem_bytes < 1_000_000_000
        assert record.booted_at is not None
        assert timedelta(seconds=-2) < datetime.now(UTC) - record.booted_at < timedelta(seconds=BOOT_TIMEOUT_S)
        assert (record.diskread_bytes, record.diskwrite_bytes) == (0, 0)
        assert record.netin_bytes is None


async def test_a_guest_whose_agent_cannot_be_asked_obeys_the_power_button(
    tmp_path: Path, guest: LabGuest, accelerator: Accelerator
) -> None:
    lock = SocketLock.take(tmp_path / "1.qga")
    try:
        async with followed(tmp_path, guest, accelerator) as bench:
            await bench.act(PowerAction.START)
            await bench.wait_for_guest()
            with pytest.raises(PowerError, match="the guest can't be asked to reboot"):
                await bench.act(PowerAction.RESTART)
            assert await bench.act(PowerAction.SHUTDOWN) == "the guest shut down"
            assert bench.reports[-1] == "the ACPI power button was pressed"
    finally:
        lock.release()


async def test_a_guest_that_ignores_everything_keeps_its_power_until_it_is_forced(
    tmp_path: Path, guest: LabGuest, accelerator: Accelerator
) -> None:
    async with followed(tmp_path, guest, accelerator, "rdinit=/bin/sleep", "--", "999") as bench:
        await bench.act(PowerAction.START)
        with pytest.raises(PowerError, match=r"the guest ignored the ACPI power button within 1 s; .*; force switches"):
            await bench.act(PowerAction.SHUTDOWN, guest_s=1)
        assert bench.vm.seen_status is VmStatus.RUNNING
        message = await bench.act(PowerAction.SHUTDOWN, force=True, guest_s=1)
        assert message.startswith("the VM was switched off, because the guest ignored")
        assert not is_running(bench.vm.definition)
