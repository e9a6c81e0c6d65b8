"""Figures are what /proc, /sys and QEMU say, or they are unknown."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.core.errors import MonitorError
from workers.vms.figures import Figures, Sampler

PID = 42
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Gauge:
    """A monitor that tells what it was given, or that it can't."""

    def __init__(self, told: tuple[int, int] | None = (7, 8)) -> None:
        self.told = told

    async def block_bytes(self) -> tuple[int, int]:
        if self.told is None:
            raise MonitorError("away")
        return self.told


class Host:
    """A /proc and a /sys in a folder, and a clock that is set by hand."""

    def __init__(self, folder: Path) -> None:
        self.proc_dir, self.sys_dir, self.now_s = folder / "proc", folder / "sys", 0.0
        self.write(self.proc_dir / "stat", "cpu 1 2 3\nbtime 1700000000\nprocesses 1\n")
        self.run(0)

    def run(self, used_s: float, started_s: float = 100) -> None:
        before, after = " ".join(["R"] + ["1"] * 10), " ".join(["1"] * 6)
        used, started = int(used_s * TICKS_PER_S), int(started_s * TICKS_PER_S)
        stat = f"{PID} (qemu) R 1 (x)) {before} {used - used // 4} {used // 4} {after} {started} 99 99\n"
        self.write(self.proc_dir / str(PID) / "stat", stat)
        self.write(self.proc_dir / str(PID) / "statm", "1000 300 10 1 0 1 0\n")

    def tap(self, name: str, received: int, sent: int) -> None:
        statistics = self.sys_dir / "class/net" / name / "statistics"
        self.write(statistics / "rx_bytes", f"{received}\n")
        self.write(statistics / "tx_bytes", f"{sent}\n")

    def sampler(self, *nics: str) -> Sampler:
        return Sampler(PID, nics=nics, proc_dir=self.proc_dir, sys_dir=self.sys_dir, clock=lambda: self.now_s)

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def share(sampler: Sampler, cpus: int | None = 1) -> float | None:
    return (await sampler.sample(Gauge(), cpus=cpus)).cpu


async def test_the_share_is_that_of_all_virtual_cpus_since_the_last_sample(host: Host) -> None:
    sampler = host.sampler()
    assert await share(sampler, cpus=2) is None
    host.now_s += 10
    host.run(5)
    assert await share(sampler, cpus=2) == pytest.approx(0.25)
    host.now_s += 10
    host.run(5)
    assert await share(sampler, cpus=2) == 0


async def test_the_share_is_never_more_than_all_of_them(host: Host) -> None:
    sampler = host.sampler()
    await share(sampler)
    host.now_s += 1
    host.run(3)  # QEMU's own threads use processors too
    assert await share(sampler) == 1


async def test_the_share_is_unknown_where_it_would_be_invented(host: Host) -> None:
    sampler = host.sampler()
    await share(sampler)
    host.run(1)
    assert await share(sampler) is None  # no time has passed
    host.now_s += 10
    assert await share(sampler, cpus=None) is None
    host.now_s += 10
    host.run(2, started_s=200)
    assert await share(sampler) is None  # the pid is another process's now


async def test_memory_and_start_are_qemus_own(host: Host) -> None:
    figures = await host.sampler().sample(Gauge(), cpus=1)
    assert figures.mem_bytes == 300 * PAGE_BYTES
    assert figures.booted_at == datetime.fromtimestamp(1700000100, UTC)


async def test_disk_figures_are_what_qemu_told(host: Host) -> None:
    figures = await host.sampler().sample(Gauge((3, 4)), cpus=1)
    assert (figures.diskread_bytes, figures.diskwrite_bytes) == (3, 4)


async def test_a_monitor_that_is_away_costs_the_disk_figures_only(host: Host) -> None:
    figures = await host.sampler().sample(Gauge(None), cpus=1)
    assert (figures.diskread_bytes, figures.diskwrite_bytes) == (None, None)
    assert figures.mem_bytes is not None


async def test_what_a_tap_receives_is_what_the_guest_sent(host: Host) -> None:
    host.tap("tap1", received=10, sent=200)
    host.tap("tap2", received=1, sent=2)
    figures = await host.sampler("tap,ifname=tap1", "tap,id=n,ifname=tap2,script=no").sample(Gauge(), cpus=1)
    assert (figures.netin_bytes, figures.netout_bytes) == (202, 11)


@pytest.mark.parametrize("nic", ["user", "tap", "tap,ifname=tap9", "tap,ifname=../../x", "user,ifname=tap1", "bridge"])
async def test_network_figures_are_unknown_if_one_card_is(host: Host, nic: str) -> None:
    host.tap("tap1", received=10, sent=200)
    figures = await host.sampler("tap,ifname=tap1", nic).sample(Gauge(), cpus=1)
    assert (figures.netin_bytes, figures.netout_bytes) == (None, None)


async def test_network_figures_are_unknown_without_a_known_card(host: Host) -> None:
    figures = await host.sampler().sample(Gauge(), cpus=1)
    assert (figures.netin_bytes, figures.netout_bytes) == (None, None)


@pytest.mark.parametrize("text", ["", "42 (qemu) R 1 2", "42 (qemu) " + "x " * 30])
async def test_a_process_that_cannot_be_read_has_no_figures(host: Host, text: str) -> None:
    host.write(host.proc_dir / str(PID) / "stat", text)
    host.write(host.proc_dir / str(PID) / "statm", text)
    assert await host.sampler().sample(Gauge(None), cpus=1) == Figures()


async def test_a_process_that_is_gone_has_no_figures(tmp_path: Path) -> None:
    sampler = Sampler(PID, nics=(), proc_dir=tmp_path, sys_dir=tmp_path)
    assert await sampler.sample(Gauge(None), cpus=1) == Figures()


async def test_a_host_that_hides_its_boot_time_hides_the_start_only(host: Host) -> None:
    host.write(host.proc_dir / "stat", "cpu 1 2 3\n")
    figures = await host.sampler().sample(Gauge(), cpus=1)
    assert figures.booted_at is None
    assert figures.mem_bytes is not None


async def test_the_real_proc_is_read() -> None:
    sampler = Sampler(os.getpid(), nics=())
    first = await sampler.sample(Gauge(), cpus=os.cpu_count())
    second = await sampler.sample(Gauge(), cpus=os.cpu_count())
    assert first.mem_bytes is not None
    assert first.mem_bytes > PAGE_BYTES
    assert first.booted_at is not None
    assert timedelta(seconds=-2) < datetime.now(UTC) - first.booted_at < timedelta(hours=1)
    assert second.cpu is not None
    assert 0 <= second.cpu <= 1
