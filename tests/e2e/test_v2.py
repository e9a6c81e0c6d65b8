"""HostUp v2 over HTTP on real VMs: lists, commands, power, metrics; and one command seen through both faces."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.e2e.conftest import BOOT_TIMEOUT_S, REQUEST_TIMEOUT_S, Client, Stack, until

BUSY_S = 45
"""How long a guest is kept busy at most."""


@dataclass(frozen=True)
class V2:
    """A client of v2, which sends its key as HostUp's docs say."""

    url: str
    http: requests.Session

    def ask(self, method: str, path: str, status: int = 200, **kwargs: Any) -> Any:
        response = self.http.request(method, f"{self.url}{path}", timeout=REQUEST_TIMEOUT_S, **kwargs)
        assert response.status_code == status, response.text
        return response.json()

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def run(self, vps: str, **body: Any) -> Any:
        """Run a command to its end, as HostUp's docs say: start it, then poll."""
        started = self.ask("POST", f"{vps}/agent/exec", json=body)
        assert set(started) == {"pid", "pollUrl"}

        def ended() -> Any:
            result = self.get(started["pollUrl"])
            return result if result["exited"] else None

        return until(30, "the command ends", ended)

    def act(self, vps: str, action: str) -> Any:
        """Carry out an action and poll its operation to the end."""
        operation = self.ask("POST", f"{vps}/actions/{action}", 202)["operation"]

        def ended() -> Any:
            job = self.get(operation["pollUrl"])["data"]
            return job if job["isCompleted"] or job["isFailed"] else None

        return until(BOOT_TIMEOUT_S, f"{action} ends", ended)


@pytest.fixture
def v2(stack: Stack) -> Iterator[V2]:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {stack.key}"
        yield V2(stack.url, session)


@pytest.fixture
def vps(v2: V2, vmid: int) -> str:
    """The path of the first VM, which runs, found as a client finds it."""
    (path,) = [f"/api/v2/vps/{entry['id']}" for entry in v2.get("/api/v2/vps")["data"] if entry["vmid"] == vmid]
    return path


def test_all_vps_are_listed_a_page_at_a_time(v2: V2, vmids: tuple[int, ...]) -> None:
    first = v2.get("/api/v2/vps?limit=2")
    second = v2.get(f"/api/v2/vps?limit=2&cursor={first['nextCursor']}")
    assert tuple(entry["vmid"] for entry in first["data"] + second["data"]) == vmids
    assert second["nextCursor"] is None
    assert {entry["powerState"] for entry in first["data"] + second["data"]} == {"running"}
    assert first["data"][0]["resources"]["memoryGb"] == 0.25


def test_a_command_is_started_and_polled(v2: V2, vps: str) -> None:
    assert v2.get(f"{vps}/agent/exec") == {"available": True, "reason": None, "vmRunning": True}
    result = v2.run(vps, command="cat; echo $X >&2; exit 7", stdin="in", env={"X": "err"})
    assert (result["exitCode"], result["stdout"], result["stderr"], result["state"]) == (7, "in", "err\n", "exited")
    waited = v2.ask("POST", f"{vps}/agent/exec", json={"command": "uname -s", "wait": 20})
    assert (waited["exited"], waited["exitCode"], waited["stdout"]) == (True, 0, "Linux\n")


def test_one_command_is_seen_and_ended_through_both_faces(v2: V2, vps: str, client: Client, vmid: int) -> None:
    pid = client.start(vmid, "echo begun; sleep 7541")
    assert v2.get(f"{vps}/agent/exec?pid={pid}")["state"] == "running"
    killed = v2.ask("DELETE", f"{vps}/agent/exec?pid={pid}")
    assert (killed["exited"], killed["exitCode"], killed["state"]) == (True, -1, "cancelled")
    assert client.result(vmid, pid)["state"] == "cancelled"
    started = v2.ask("POST", f"{vps}/agent/exec", json={"command": "sleep 7542"})
    assert client.kill(vmid, started["pid"])["state"] == "cancelled"
    assert v2.get(started["pollUrl"])["state"] == "cancelled"


def test_the_guests_own_hostname_is_told(v2: V2, vps: str) -> None:
    name = v2.run(vps, command="hostname")["stdout"].strip()
    assert v2.get(f"{vps}/hostname")["hostname"] == name
    assert v2.get(f"{vps}/details")["hostname"] == name


def test_disks_are_told_with_their_size(v2: V2, vps: str) -> None:
    disks = until(20, "the disks are known", lambda: v2.get(f"{vps}/storage")["disks"])
    assert disks[0]["capacity"]["totalGb"] > 0
    assert disks[0]["capacity"]["usedGb"] is not None
    assert disks[0]["id"].startswith("vpsdisk_")
    total_gb = sum(disk["capacity"]["totalGb"] for disk in disks if not disk["isCdrom"])
    until(20, "and their sum", lambda: v2.get(f"{vps}/status")["storage"]["totalGb"] == total_gb)


def test_metrics_show_that_a_guest_is_busy(v2: V2, vps: str) -> None:
    def latest() -> Any:
        samples = v2.get(f"{vps}/metrics?timeframe=1h")["samples"]
        return samples[-1] if samples and samples[-1]["cpuUsagePercent"] is not None else None

    def idle() -> Any:
        now = latest()
        return now if now and now["cpuUsagePercent"] < 40 else None

    before = until(70, "the guest is measured, in a minute that isn't that of its boot", idle, pause_s=0.5)
    assert 0 < before["memoryUsagePercent"] <= 100
    busy = v2.ask("POST", f"{vps}/agent/exec", json={"command": "while :; do :; done", "timeout": BUSY_S})
    try:

        def risen() -> Any:
            now = latest()
            return now if now["cpuUsagePercent"] > before["cpuUsagePercent"] + 20 else None

        after = until(BUSY_S, "the figures show that it is busy", risen, pause_s=0.5)
    finally:
        v2.ask("DELETE", f"{vps}/agent/exec?pid={busy['pid']}")
    assert after["recordedAt"] >= before["recordedAt"]
    for timeframe in ("day", "week", "month", "year"):
        assert v2.get(f"{vps}/metrics?timeframe={timeframe}")["samples"]


def test_power_actions_are_operations_and_their_gates_are_true(v2: V2, vps: str, client: Client, vmid: int) -> None:
    refused = v2.ask("POST", f"{vps}/actions/start", 409)
    assert (refused["code"], refused["actions"]["canStart"]["code"]) == ("vps_not_ready", "vps_running")

    assert v2.act(vps, "shutdown")["isCompleted"] is True
    until(10, "it is stopped", lambda: v2.get(f"{vps}/status")["powerState"] == "stopped")
    assert v2.get(vps)["resources"]["cpuCores"] == 1
    gates = v2.get(f"{vps}/status")["actions"]
    assert [name for name, gate in gates.items() if gate["allowed"]] == ["canStart"]
    refused = v2.ask("POST", f"{vps}/agent/exec", 409, json={"command": "true"})
    assert refused["code"] == "vps_not_ready"

    assert v2.act(vps, "start")["isCompleted"] is True
    client.wait_available(vmid)
    marker = v2.run(vps, command="echo here >/tmp/marker; cat /tmp/marker")
    assert marker["stdout"] == "here\n"
    assert v2.act(vps, "reset")["isCompleted"] is True
    client.wait_available(vmid)
    assert v2.run(vps, command="cat /tmp/marker")["exitCode"] != 0  # another boot
