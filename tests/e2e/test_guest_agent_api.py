"""Virtuozzo's guest-command API on a real VM: programs without a shell, and files of a hundred megabytes."""

import hashlib
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from app.core import ids
from lab import definitions, guest
from tests.e2e.conftest import Client, Stack, until
from tests.openstack_clients import with_password

pytestmark = pytest.mark.timeout(400)  # one of the tests also waits for the stack, one moves 200 MB by an emulated CPU

BIG_BYTES = 100_000_000
BIG_VM = definitions.DemoVm(10900, "files")
BIG_VM_MEMORY_MB = 640
LONGEST_ANSWER_S = 1.0
MOST_GROWTH_BYTES = 48 * 1024 * 1024
TRANSFER_TIMEOUT_S = 180


class GuestAgent:
    """A client of the API, for one server."""

    def __init__(self, stack: Stack, vmid: int) -> None:
        self.vmid = vmid
        self._base = f"{stack.url}/v2.1/servers/{ids.openstack_id(vmid)}/guest-agent"
        self.http = requests.Session()
        self.http.headers["X-Auth-Token"] = stack.key

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        return self.http.request(method, f"{self._base}/{path}", timeout=TRANSFER_TIMEOUT_S, **kwargs)

    def start(self, *argv: str, **arguments: Any) -> dict[str, Any]:
        body = {"command": {"type": "exec", "arguments": {"command": list(argv), **arguments}}}
        return _command(self.call("POST", "commands", json=body))

    def show(self, uuid: str, **query: str) -> dict[str, Any]:
        return _command(self.call("GET", f"commands/{uuid}", params=query))

    def cancel(self, uuid: str) -> dict[str, Any]:
        return _command(self.call("DELETE", f"commands/{uuid}"))

    def list(self) -> dict[str, dict[str, Any]]:
        return {command["uuid"]: command for command in self.call("GET", "commands").json()["commands"]}

    def run(self, *argv: str, **arguments: Any) -> dict[str, Any]:
        started = self.start(*argv, **arguments)
        until(30, "it has ended", lambda: self.show(started["uuid"])["status"] not in {"PENDING", "RUNNING"})
        return self.show(started["uuid"])

    def write(self, path: str, data: Any) -> requests.Response:
        return self.call("POST", "file-write", params={"path": path}, data=data)

    def read(self, path: str, **kwargs: Any) -> requests.Response:
        return self.call("GET", "file-read", params={"path": path}, **kwargs)


def _command(response: requests.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["command"]
    return found


@pytest.fixture
def agent(stack: Stack, vmid: int) -> GuestAgent:
    return GuestAgent(stack, vmid)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_program_gets_its_arguments_as_they_are(agent: GuestAgent) -> None:
    words = ["$HOME", "a b", "", "*", "; id", "'\"\\", "é😀", "--"]
    ended = agent.run("printf", "<%s>", *words)
    assert (ended["status"], ended["error"]) == ("SUCCESS", None)
    assert ended["result"]["stdout"] == "".join(f"<{word}>" for word in words)
    assert ended["result"] | {"stdout": ""} == {
        "pid": ended["result"]["pid"],
        "exitcode": 0,
        "out_truncated": False,
        "err_truncated": False,
        "stdout": "",
        "stderr": "",
    }


def test_options(agent: GuestAgent) -> None:
    assert agent.run("cat", stdin="ä\n")["result"]["stdout"] == "ä\n"
    assert agent.run("pwd", cwd="/tmp")["result"]["stdout"] == "/tmp\n"
    assert agent.run("printenv", "STAGE", "HOME", env={"STAGE": "x y"})["result"]["stdout"] == "x y\n/root\n"
    assert agent.run("cat", "nothing", cwd="/nothing")["result"]["exitcode"] == 125
    timed_out = agent.run("sleep", "60", timeout=0.5)
    assert (timed_out["status"], "timeout of 0.5 s" in timed_out["error"]) == ("ERROR", True)


def test_exit_code_is_no_error_and_neither_is_a_program_that_is_not_there(agent: GuestAgent) -> None:
    assert agent.run("false")["result"]["exitcode"] == 1
    missing = agent.run("no-such-program")
    assert (missing["status"], missing["result"]["exitcode"]) == ("SUCCESS", 127)
    assert "no-such-program" in missing["result"]["stderr"]


def test_command_of_one_api_is_a_command_of_all_and_ends_in_all(
    agent: GuestAgent, client: Client, vmid: int, stack: Stack
) -> None:
    ours = agent.start("sh", "-c", "sleep 600 & sleep 601")
    theirs = client.start(vmid, "sleep 602")
    listed = agent.list()
    uuids = {command["result"]["pid"]: uuid for uuid, command in listed.items() if command["status"] == "RUNNING"}
    assert {ours["result"]["pid"], theirs} <= set(uuids)
    assert client.result(vmid, ours["result"]["pid"])["state"] == "running"

    killed = client.kill(vmid, ours["result"]["pid"])
    assert killed["state"] == "cancelled"
    assert agent.show(ours["uuid"])["status"] == "ERROR"
    assert agent.cancel(uuids[theirs])["status"] == "ERROR"
    assert client.result(vmid, theirs)["state"] == "cancelled"
    v2 = requests.get(
        f"{stack.url}/api/v2/vps/{ids.vps_id(vmid)}/agent/exec?pid={theirs}",
        headers={"X-API-Key": stack.key},
        timeout=10,
    )
    assert v2.json()["state"] == "cancelled"
    assert client.output(vmid, "pidof sleep | wc -w") == "0\n"


def test_the_sdk_reaches_it_through_compute(stack: Stack, vmid: int) -> None:
    seen = with_password(stack.url, stack.key).sdk(
        """
import time
base = f"/servers/{sys.argv[1]}/guest-agent"
body = {"command": {"type": "exec", "arguments": {"command": ["echo", "hi"]}}}
started = conn.compute.post(f"{base}/commands", json=body).json()["command"]
deadline = time.monotonic() + 20
shown = started
while shown["status"] in {"PENDING", "RUNNING"} and time.monotonic() < deadline:
    shown = conn.compute.get(f"{base}/commands/{started['uuid']}").json()["command"]
listed = conn.compute.get(f"{base}/commands").json()["commands"][-1]
wrote = conn.compute.post(f"{base}/file-write", params={"path": "/tmp/sdk"}, data=b"\\x00\\xff\\r\\n")
read = conn.compute.get(f"{base}/file-read", params={"path": "/tmp/sdk"})
print(json.dumps([shown, listed, wrote.status_code, wrote.headers["X-Guest-Agent-Command-UUID"], list(read.content)]))
""",
        ids.openstack_id(vmid),
    )
    shown, listed, status, uuid, content = seen
    assert (shown["status"], shown["result"]["stdout"]) == ("SUCCESS", "hi\n")
    assert {name: value for name, value in shown["result"].items() if name not in {"stdout", "stderr"}} == listed[
        "result"
    ]
    assert (status, len(uuid), content) == (204, 36, [0, 255, 13, 10])


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def big_vm(stack: Stack, client: Client) -> Iterator[GuestAgent]:
    """A VM with room for a big file."""
    sockets = definitions.socket_dir(stack.var_dir, {})
    text = definitions.render(BIG_VM, sockets, guest.build(Path(stack.var_dir)))
    path = stack.var_dir / "vms" / "files.toml"
    path.write_text(text.replace(f"memory_mb = {definitions.MEMORY_MB}", f"memory_mb = {BIG_VM_MEMORY_MB}"))
    vmid = BIG_VM.vmid
    until(10, "the VM is known", lambda: client.get(f"/api/vm/{vmid}/status").status_code == 200)
    assert client.power(vmid, "start")["isCompleted"]
    client.wait_available(vmid)
    yield GuestAgent(stack, vmid)
    client.power(vmid, "stop", force=True)
    path.unlink()
    until(10, "the VM is forgotten", lambda: client.get(f"/api/vm/{vmid}/status").status_code == 404)


def processes_of(stack: Stack, word: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, environ = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if word in line and f"VAR_DIR={stack.var_dir}".encode() in environ:
            found.append(int(folder.name))
    return found


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


class Observer:
    """Watches, while files are moved, how much memory it takes and how long a short command does."""

    def __init__(self, stack: Stack, client: Client, vmid: int) -> None:
        self._client, self._vmid = client, vmid
        names = {"web": b"gunicorn", "worker": b"workers"}
        self._pids = {(name, pid) for name, word in names.items() for pid in processes_of(stack, word)}
        assert {name for name, _ in self._pids} == set(names)
        self._before = self._look()
        self._peak = dict(self._before)
        self.answers_s: list[float] = []

    @contextmanager
    def watching(self, what: str, size: int) -> Iterator[None]:
        over, began_s = threading.Event(), time.perf_counter()
        thread = threading.Thread(target=self._watch, args=(over,))
        thread.start()
        yield
        over.set()
        thread.join()
        took_s = time.perf_counter() - began_s
        slowest_s = max(self.answers_s)
        sys.stdout.write(f"{what}: {took_s:.1f} s, {size / took_s / 1e6:.1f} MB/s; ")
        sys.stdout.write(f"slowest of {len(self.answers_s)} short commands {slowest_s * 1000:.0f} ms\n")

    def growth_bytes(self) -> dict[tuple[str, int], int]:
        grown = {key: self._peak[key] - self._before[key] for key in self._pids}
        for (name, pid), bytes_ in sorted(grown.items()):
            before = self._before[name, pid] / 1e6
            sys.stdout.write(f"{name} {pid}: {before:.0f} MB before, at most {bytes_ / 1e6:+.1f} MB\n")
        return grown

    def _watch(self, over: threading.Event) -> None:
        while not over.is_set():
            began_s = time.perf_counter()
            assert self._client.post(f"/api/vm/{self._vmid}/agent/exec", command="echo hi", wait=10).ok
            self.answers_s.append(time.perf_counter() - began_s)
            for key, now_bytes in self._look().items():
                self._peak[key] = max(self._peak[key], now_bytes)
            over.wait(0.2)

    def _look(self) -> dict[tuple[str, int], int]:
        return {(name, pid): resident_bytes(pid) for name, pid in self._pids}


def test_a_hundred_megabytes_there_and_back(stack: Stack, client: Client, big_vm: GuestAgent) -> None:
    data = secrets.token_bytes(BIG_BYTES)
    wanted = hashlib.sha256(data).hexdigest()
    observer = Observer(stack, client, big_vm.vmid)
    with observer.watching("file-write", BIG_BYTES):
        written = big_vm.write("/root/big", data)
    assert written.status_code == 204, written.text
    assert big_vm.run("sha256sum", "/root/big")["result"]["stdout"].split()[0] == wanted

    found, size = hashlib.sha256(), 0
    with observer.watching("file-read", BIG_BYTES), big_vm.read("/root/big", stream=True) as response:
        for part in response.iter_content(65536):
            found.update(part)
            size += len(part)
    assert (size, found.hexdigest()) == (BIG_BYTES, wanted)
    for answer, kind in ((written, "file-write"), (response, "file-read")):
        record = big_vm.show(answer.headers["X-Guest-Agent-Command-UUID"])
        assert (record["type"], record["status"], record["result"]) == (kind, "SUCCESS", {})
    assert max(observer.answers_s) < LONGEST_ANSWER_S
    assert max(observer.growth_bytes().values()) < MOST_GROWTH_BYTES


def test_disk_full_leaves_the_file_as_it_was(agent: GuestAgent, client: Client, vmid: int) -> None:
    client.output(vmid, "mkdir -p /mnt/small && mount -t tmpfs -o size=1m tmpfs /mnt/small && echo old >/mnt/small/f")
    response = agent.write("/mnt/small/f", b"x" * 3_000_000)
    assert response.status_code == 409, response.text
    assert "No space left on device" in response.json()["conflictingRequest"]["details"]
    assert client.output(vmid, "cat /mnt/small/f; ls -A /mnt/small; umount /mnt/small") == "old\nf\n"


def test_vm_that_goes_off_in_a_download_breaks_it_off(agent: GuestAgent, client: Client, vmid: int) -> None:
    client.output(vmid, "dd if=/dev/zero of=/tmp/zeros bs=1M count=40 2>/dev/null")
    response = agent.read("/tmp/zeros", stream=True)
    stream = response.iter_content(1000)
    next(stream)
    client.power(vmid, "stop", force=True)
    with pytest.raises(requests.RequestException):
        list(stream)
    record = agent.show(response.headers["X-Guest-Agent-Command-UUID"])
    assert record["status"] == "ERROR"
