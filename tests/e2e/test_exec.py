"""A command runs in a real VM over HTTP, and all that comes back is what happened there."""

import base64
import hashlib
import platform
from pathlib import Path

import pytest

from tests.e2e.conftest import Client, until

pytestmark = pytest.mark.timeout(240)  # one of the tests also waits for the stack to start, one for its end

MEGABYTE = 1_000_000
KEPT_BYTES = 16 * 1024 * 1024


def test_it_is_the_guests_kernel_that_answers(client: Client, vmid: int) -> None:
    release = client.output(vmid, "uname -r").strip()
    assert release.endswith("-cloud-amd64")
    assert release != platform.release()
    assert client.output(vmid, "uname -a").startswith(f"Linux demo-1 {release} ")


def test_each_vm_is_asked_itself(client: Client, vmids: tuple[int, ...]) -> None:
    assert [client.output(vmid, "hostname") for vmid in vmids] == ["demo-1\n", "demo-2\n", "demo-3\n"]


def test_the_answer_to_a_start_is_the_guests_pid(client: Client, vmid: int) -> None:
    pid = client.start(vmid, "echo $$")
    result = client.wait(vmid, pid)
    assert result == {
        "success": True,
        "pid": pid,
        "exited": True,
        "exitcode": 0,
        "stdout": f"{pid}\n",
        "stderr": "",
        "available": True,
        "vmRunning": True,
        "state": "exited",
        "message": "Command exited with code 0",
    }


def test_an_exit_code_arrives(client: Client, vmid: int) -> None:
    result = client.run(vmid, "exit 7")
    assert (result["exitcode"], result["state"]) == (7, "exited")
    assert "signal" not in result


def test_a_signal_reads_as_a_shell_would_say_it(client: Client, vmid: int) -> None:
    result = client.run(vmid, "kill -9 $$")
    assert (result["exitcode"], result["signal"], result["state"]) == (137, 9, "exited")
    assert result["message"] == "Command was killed by signal 9"


def test_a_running_command_says_so_and_has_no_exit_code(client: Client, vmid: int) -> None:
    pid = client.start(vmid, "while [ ! -e /tmp/go ]; do sleep 0.05; done; rm /tmp/go; echo gone")
    result = client.result(vmid, pid)
    assert (result["exited"], result["state"], result["stdout"]) == (False, "running", "")
    assert "exitcode" not in result
    client.output(vmid, "touch /tmp/go")
    assert client.wait(vmid, pid)["stdout"] == "gone\n"


def test_stdout_and_stderr_come_apart(client: Client, vmid: int) -> None:
    result = client.run(vmid, "echo to out; echo to err >&2; echo more out")
    assert (result["stdout"], result["stderr"]) == ("to out\nmore out\n", "to err\n")


def test_utf8_stays_intact_both_ways(client: Client, vmid: int) -> None:
    text = "Grüße, 世界 → 🐧 é\u0301"
    result = client.run(vmid, f"printf %s '{text}' | wc -c; printf %s '{text}' >&2")
    assert (int(result["stdout"]), result["stderr"]) == (len(text.encode()), text)


def test_bytes_that_are_no_text_arrive_as_base64_and_replaced_without(client: Client, vmid: int) -> None:
    pid = client.start(vmid, r"printf '\377\000\200ok'; printf '\376' >&2")
    plain = client.wait(vmid, pid)
    assert (plain["stdout"], plain["stderr"]) == ("\ufffd\0\ufffdok", "\ufffd")
    coded = client.result(vmid, pid, encoding="base64")
    assert coded["encoding"] == "base64"
    assert base64.b64decode(coded["stdout"]) == b"\xff\0\x80ok"
    assert base64.b64decode(coded["stderr"]) == b"\xfe"


def test_five_megabytes_arrive_whole_and_can_be_read_again(client: Client, vmid: int) -> None:
    made, size = client.output(vmid, "seq 720000 >/tmp/five; sha256sum </tmp/five; wc -c </tmp/five").split("  -\n")
    pid = client.start(vmid, "cat /tmp/five; rm /tmp/five")
    for _ in range(2):
        result = client.wait(vmid, pid)
        body = result["stdout"].encode()
        assert hashlib.sha256(body).hexdigest() == made
        assert len(body) == int(size) > 4.9 * MEGABYTE
        assert "outTruncated" not in result


def test_twenty_megabytes_arrive_cut_and_flagged(client: Client, vmid: int) -> None:
    result = client.run(vmid, "yes 0123456 | head -c 20000000; echo short >&2", timeout_s=60)
    assert result["outTruncated"] is True
    assert "errTruncated" not in result
    assert (result["exitcode"], result["stderr"]) == (0, "short\n")
    assert result["stdout"] == "0123456\n" * (KEPT_BYTES // 8)


def test_both_streams_full_arrive_whole_and_unflagged(client: Client, vmid: int) -> None:
    line = "yes 0123456 | head -c 16777216; yes abcdefg | head -c 16777216 >&2"
    result = client.run(vmid, line, timeout_s=90)
    assert (result["state"], result["exitcode"]) == ("exited", 0)
    assert result["stdout"] == "0123456\n" * (KEPT_BYTES // 8)
    assert result["stderr"] == "abcdefg\n" * (KEPT_BYTES // 8)
    assert "outTruncated" not in result
    assert "errTruncated" not in result


def test_the_longest_line_of_the_widest_characters_arrives_whole(client: Client, vmid: int) -> None:
    head, tail = "printf %s '", "' | sha256sum"
    text = "🐧" * (65_536 - len(head) - len(tail))
    result = client.run(vmid, head + text + tail)
    assert result["stdout"].split() == [hashlib.sha256(text.encode()).hexdigest(), "-"]


def test_a_command_leads_a_session_of_its_own(client: Client, vmid: int) -> None:
    pid = client.start(vmid, "cut -d' ' -f1,5,6 /proc/$$/stat")
    assert client.wait(vmid, pid)["stdout"] == f"{pid} {pid} {pid}\n"


def test_a_command_finds_the_environment_that_shells_expect(client: Client, vmid: int) -> None:
    line = 'cd; pwd; echo "$HOME" "$USER" "$LOGNAME" "$LANG"; which insmod >&2 || echo no sbin in "$PATH"'
    assert client.run(vmid, line)["stdout"] == "/root\n/root root root C.UTF-8\n"


def test_a_command_that_leaves_a_daemon_behind_has_ended(client: Client, vmid: int) -> None:
    result = client.run(vmid, "sleep 60 >/dev/null 2>&1 & echo left $!")
    assert result["stdout"].startswith("left ")
    client.output(vmid, f"kill {result['stdout'].split()[1]}")


def test_without_a_pid_it_is_told_whether_commands_can_run(client: Client, vmid: int) -> None:
    assert client.probe(vmid) == {
        "success": True,
        "available": True,
        "message": "QEMU Guest Agent is available",
        "vmRunning": True,
    }


def test_the_pid_in_the_status_is_that_of_the_latest_command(client: Client, vmid: int) -> None:
    for line in ("true", "false"):
        pid = client.start(vmid, line)
        assert client.status(vmid)["pid"] == pid


def test_figures_of_a_running_vm_are_real(client: Client, vmid: int) -> None:
    status = client.status(vmid)
    assert (status["status"], status["vmRunning"], status["name"], status["node"]) == (
        "running",
        True,
        "demo-1",
        "node-1",
    )
    assert Path(f"/proc/{status['qemuPid']}/comm").read_text() == f"qemu-{vmid}\n"
    assert (status["cpus"], status["maxmem"]) == (1, 256 * 1024 * 1024)
    assert 20 * MEGABYTE < status["mem"] < 1000 * MEGABYTE
    assert status["diskread"] > MEGABYTE  # it has mounted its disk
    assert status["diskwrite"] > 0
    assert (status["netin"], status["netout"]) == (None, None)  # nor a network card that could be measured
    assert status["agent"]["available"] is True
    assert status["agent"]["version"][0].isdecimal()


def test_uptime_grows_with_time(client: Client, vmid: int) -> None:
    first = client.status(vmid)["uptime"]
    until(5, "uptime has grown", lambda: first < client.status(vmid)["uptime"] < first + 10)


def test_cpu_rises_under_load_and_falls_again(client: Client, vmid: int) -> None:
    until(20, "the VM idles", lambda: client.status(vmid)["cpu"] < 0.3)
    pid = client.start(vmid, "while :; do :; done")
    until(20, "the load is seen", lambda: client.status(vmid)["cpu"] > 0.5)
    client.output(vmid, f"kill {pid}")
    assert client.wait(vmid, pid)["signal"] == 15
    until(20, "the VM idles again", lambda: client.status(vmid)["cpu"] < 0.3)
