"""Deadlines, kills and options of a command, in a real VM over HTTP."""

from typing import Any

from tests.e2e.conftest import Client


def started(client: Client, vmid: int, **body: Any) -> int:
    response = client.post(f"/api/vm/{vmid}/agent/exec", **body)
    assert response.status_code == 200, response.text
    pid: int = response.json()["data"]["pid"]
    return pid


def processes_with(client: Client, vmid: int, marker: str) -> list[str]:
    return [
        line for line in client.output(vmid, "ps -o pid,args").splitlines() if marker in line and "ps -o" not in line
    ]


def test_a_command_past_its_timeout_is_killed_with_all_it_started(client: Client, vmid: int) -> None:
    pid = started(client, vmid, command="echo before; sleep 7531 & sleep 7531", timeout=1)
    result = client.wait(vmid, pid)
    assert (result["state"], result["exitcode"], result["stdout"]) == ("timed_out", -1, "before\n")
    assert processes_with(client, vmid, "sleep 7531") == []


def test_a_kill_ends_the_process_group(client: Client, vmid: int) -> None:
    pid = started(client, vmid, command="echo begun; sleep 7532 & sleep 7532")
    killed = client.kill(vmid, pid)
    assert (killed["exited"], killed["state"]) == (True, "cancelled")
    assert processes_with(client, vmid, "sleep 7532") == []


def test_a_kill_reaches_a_grandchild_that_alone_holds_the_output(client: Client, vmid: int) -> None:
    pid = started(client, vmid, command="sleep 7533 & echo left; exit 0")
    assert client.result(vmid, pid)["exited"] is False
    assert client.kill(vmid, pid)["state"] == "cancelled"
    assert client.result(vmid, pid)["stdout"] == "left\n"
    assert processes_with(client, vmid, "sleep 7533") == []


def test_a_command_that_ignores_term_gets_kill(client: Client, vmid: int) -> None:
    pid = started(client, vmid, command="trap '' TERM; echo deaf; while :; do sleep 1; done", timeout=1)
    result = client.wait(vmid, pid)
    assert (result["state"], result["signal"], result["stdout"]) == ("timed_out", 9, "deaf\n")


def test_stdin_env_and_cwd_reach_the_guest(client: Client, vmid: int) -> None:
    options = {"stdin": "häppy\n", "env": {"WHO": "a b"}, "cwd": "/tmp"}
    result = client.wait(vmid, started(client, vmid, command='cat; echo "$WHO"; pwd', **options))
    assert result["stdout"] == "häppy\na b\n/tmp\n"


def test_a_megabyte_of_stdin_arrives_whole(client: Client, vmid: int) -> None:
    result = client.wait(vmid, started(client, vmid, command="wc -c", stdin="x" * 1_048_576))
    assert result["stdout"].strip() == "1048576"


def test_a_start_waits_for_the_agent_of_a_booting_vm(client: Client, vmid: int) -> None:
    client.power(vmid, "restart", force=True)
    pid = started(client, vmid, command="echo up", wait_for_agent=60)
    assert client.wait(vmid, pid)["stdout"] == "up\n"


def test_one_call_runs_a_short_command_and_has_its_output(client: Client, vmid: int) -> None:
    response = client.post(f"/api/vm/{vmid}/agent/exec", command="echo short; exit 3", wait=20)
    result = response.json()["data"]
    assert (result["exited"], result["exitcode"], result["stdout"]) == (True, 3, "short\n")
