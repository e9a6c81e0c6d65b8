"""Power actions over HTTP on real VMs: what the job says, what the guest saw, and what became of its commands."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from app.core.store import Store, nodes
from tests.e2e.conftest import SHUTDOWN_TIMEOUT_S, Client, Stack, until

pytestmark = pytest.mark.timeout(240)  # one of the tests also waits for the stack to start, one for its end

LOST_TIMEOUT_S = 5
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
STATES = ["queued", "running", "completed"]


def definition(vmid: int, *, extra_args: list[str]) -> str:
    """Write one more VM of the same account, whose sockets nobody has."""
    return f"""
    vmid = {vmid}
    name = "extra-{vmid}"
    account = "demo"
    [sockets]
    qga = "{vmid}.qga"
    qmp = "{vmid}.qmp"
    [machine]
    cpus = 1
    memory_mb = 32
    extra_args = {json.dumps(extra_args)}
    """


@pytest.fixture
def vm_dir(stack: Stack) -> Iterator[Path]:
    """The node's folder of definitions; the demo's own are alone in it again afterwards."""
    folder = stack.var_dir / "vms"
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        path.unlink()
    until(10, "only the demo VMs are left", lambda: listed(stack.client) == list(stack.vmids))


def listed(client: Client) -> list[int]:
    return [vm["vmid"] for vm in client.read("/api/vm")]


def broken_definitions(stack: Stack) -> int:
    with redis.Redis.from_url(stack.redis_url) as operators:
        [node] = Store(operators).run(nodes.list_alive())
    return node.broken_definitions


def is_in_order(seen: list[dict[str, Any]]) -> bool:
    """Tell whether the states a client saw come one after the other; a short one may have been missed."""
    found = [job["state"] for job in seen]
    return found == [state for state in STATES if state in found]


def without_qemu(status: dict[str, Any]) -> dict[str, Any] | None:
    return status if status["qemuPid"] is None else None


def refuses_commands(client: Client, vmid: int) -> bool:
    response = client.post(f"/api/vm/{vmid}/agent/exec", command="true")
    return (response.status_code, response.json()["message"]) == (400, "VM must be running to execute commands")


def test_a_guest_shuts_down_and_starts_again_with_its_agent(client: Client, vmid: int) -> None:
    boot_id, qemu_pid = client.output(vmid, BOOT_ID), client.status(vmid)["qemuPid"]
    seen = client.follow(client.ask_power(vmid, "shutdown"))
    assert is_in_order(seen)
    assert (seen[-1]["state"], seen[-1]["message"]) == ("completed", "The guest shut down")
    status = until(LOST_TIMEOUT_S, "QEMU has ended", lambda: without_qemu(client.status(vmid)))
    assert (status["status"], status["vmRunning"]) == ("stopped", False)
    assert (status["uptime"], status["cpu"], status["mem"]) == (None, None, None)
    assert client.probe(vmid)["available"] is False
    assert refuses_commands(client, vmid)

    seen = client.follow(client.ask_power(vmid, "start"))
    assert is_in_order(seen)
    assert (seen[-1]["state"], seen[-1]["message"]) == ("completed", "The VM was started")
    status = client.status(vmid)
    assert (status["status"], status["vmRunning"]) == ("running", True)
    assert status["qemuPid"] != qemu_pid
    client.wait_available(vmid)
    assert client.output(vmid, BOOT_ID) != boot_id


def test_a_job_waits_for_the_one_before_it_on_the_same_vm(client: Client, vmid: int) -> None:
    shutdown, start = client.ask_power(vmid, "shutdown"), client.ask_power(vmid, "start")
    seen = client.follow(start)
    assert is_in_order(seen)
    done = seen[-1]
    assert (done["state"], done["isCompleted"], done["progress"]) == ("completed", True, 100)
    first = client.follow(shutdown)[-1]
    assert first["state"] == "completed"
    assert done["createdAt"] <= first["finishedAt"] <= done["finishedAt"]
    assert done["result"]["result"] == {"message": "The VM was started"}


def test_a_running_vm_is_not_started_twice(client: Client, vmid: int) -> None:
    qemu_pid = client.status(vmid)["qemuPid"]
    assert client.power(vmid, "start")["message"] == "The VM was already running"
    assert client.status(vmid)["qemuPid"] == qemu_pid


@pytest.mark.parametrize(("force", "message"), [(False, "The guest rebooted"), (True, "The VM was reset")])
def test_a_restart_gives_a_fresh_system_in_the_same_qemu(
    client: Client, vmid: int, *, force: bool, message: str
) -> None:
    boot_id, qemu_pid = client.output(vmid, BOOT_ID), client.status(vmid)["qemuPid"]
    job = client.power(vmid, "restart", force=force)
    assert (job["state"], job["message"]) == ("completed", message)
    client.wait_available(vmid)
    assert client.output(vmid, BOOT_ID) != boot_id
    assert client.status(vmid)["qemuPid"] == qemu_pid


@pytest.mark.parametrize(
    ("action", "force", "reason"),
    [("restart", True, "the VM was reset"), ("restart", False, "the VM was reset"), ("stop", False, "the VM was ")],
)
def test_what_ran_in_a_vm_that_went_away_is_lost_and_says_why(
    client: Client, vmid: int, *, action: str, force: bool, reason: str
) -> None:
    pid = client.start(vmid, "echo unheard; sleep 600")
    assert client.result(vmid, pid)["state"] == "running"
    assert client.power(vmid, action, force=force)["state"] == "completed"
    result = client.wait(vmid, pid, LOST_TIMEOUT_S)
    assert (result["state"], result["exited"], result["exitcode"]) == ("lost", True, -1)
    assert result["message"].startswith(f"The result can't be known: {reason}")


def test_a_stop_pulls_the_plug(client: Client, vmid: int) -> None:
    qemu_pid = client.status(vmid)["qemuPid"]
    job = client.power(vmid, "stop")
    assert (job["state"], job["message"]) == ("completed", "The VM was switched off")
    assert client.status(vmid)["status"] == "stopped"
    assert not Path(f"/proc/{qemu_pid}").exists()
    assert client.power(vmid, "stop")["message"] == "The VM was already stopped"
    assert refuses_commands(client, vmid)


def test_a_qemu_that_dies_by_itself_is_seen_as_stopped_and_its_commands_as_lost(client: Client, vmid: int) -> None:
    pid = client.start(vmid, "sleep 600")
    os.kill(client.status(vmid)["qemuPid"], 9)
    assert client.wait(vmid, pid, LOST_TIMEOUT_S)["state"] == "lost"
    until(LOST_TIMEOUT_S, "the VM is stopped", lambda: client.status(vmid)["status"] == "stopped")


def test_a_start_that_fails_says_so_in_qemus_own_words(client: Client, vm_dir: Path) -> None:
    (vm_dir / "10900.toml").write_text(definition(10900, extra_args=["-device", "no-such-device"]))
    until(10, "the new VM is known", lambda: 10900 in listed(client))
    until(10, "its state is known", lambda: client.status(10900)["status"] == "stopped")
    job = client.power(10900, "start")
    assert (job["state"], job["isFailed"], job["isCompleted"]) == ("failed", True, False)
    words = "-device no-such-device: 'no-such-device' is not a valid device model name"
    assert job["message"] == f"QEMU did not start: {words}"
    assert (job["result"]["success"], job["result"]["result"]) == (False, {"message": job["message"]})
    assert client.status(10900)["status"] == "stopped"


def test_a_broken_definition_is_skipped_and_the_others_go_on(
    stack: Stack, client: Client, vmid: int, vm_dir: Path
) -> None:
    pid = client.start(vmid, "while [ ! -e /tmp/go ]; do sleep 0.05; done; rm /tmp/go; echo went on")
    (vm_dir / "broken.toml").write_text("vmid = 10901\nname = ")
    (vm_dir / "twice.toml").write_text(definition(vmid, extra_args=[]))
    until(10, "both are reported", lambda: broken_definitions(stack) == 2)
    (vm_dir / "fine.toml").write_text(definition(10902, extra_args=[]))
    until(10, "a good one is still found", lambda: 10902 in listed(client))
    client.output(vmid, "touch /tmp/go")
    assert client.wait(vmid, pid)["stdout"] == "went on\n"
    (vm_dir / "broken.toml").write_text(definition(10901, extra_args=[]))
    until(10, "the mended one is followed", lambda: 10901 in listed(client))
    assert client.get("/api/vm/10901/status").status_code == 200
    (vm_dir / "fine.toml").unlink()
    until(10, "the removed one is gone", lambda: client.get("/api/vm/10902/status").status_code == 404)


def test_a_killed_agent_comes_back_and_what_it_ran_is_lost(client: Client, vmid: int) -> None:
    boot_id = client.output(vmid, BOOT_ID)
    pid = client.start(vmid, "sleep 600")
    client.run(vmid, "(sleep 0.3; kill -9 $(pidof qemu-ga)) >/dev/null 2>&1 &")
    result = client.wait(vmid, pid)
    assert (result["state"], result["exitcode"]) == ("lost", -1)
    assert "agent" in result["message"]
    client.wait_available(vmid)
    assert client.output(vmid, BOOT_ID) == boot_id


def test_a_guest_that_ignores_a_shutdown_keeps_its_power_until_it_is_forced(
    stack: Stack, client: Client, vmid: int
) -> None:
    qemu_pid = client.status(vmid)["qemuPid"]
    stack.freeze(vmid, "qemu-ga acpid")
    job = client.power(vmid, "shutdown")
    ignored = f"guest ignored both the guest agent and the ACPI power button within {SHUTDOWN_TIMEOUT_S} s"
    assert (job["state"], job["message"]) == ("failed", f"The {ignored}; force switches the VM off")
    status = client.status(vmid)
    assert (status["status"], status["vmRunning"], status["qemuPid"]) == ("running", True, qemu_pid)

    job = client.power(vmid, "shutdown", force=True)
    assert (job["state"], job["message"]) == ("completed", f"The VM was switched off, because the {ignored}")
    assert client.status(vmid)["status"] == "stopped"
