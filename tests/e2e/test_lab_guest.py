"""The lab guest does what a customer's VM does: its agent answers, it powers off, it reboots, it heals."""

import asyncio
import json
import os
import random
import socket
import subprocess
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lab import accel
from lab import guest as lab_guest
from lab.accel import Accelerator
from lab.fake_agent import FakeAgent
from lab.guest import LabGuest

BOOT_TIMEOUT_S = 60
POWER_OFF_TIMEOUT_S = 30
RPC_TIMEOUT_S = 10
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"

T = TypeVar("T")


def until(timeout_s: float, what: str, probe: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (found := probe()) is not None:
            return found
        time.sleep(0.05)
    pytest.fail(f"not within {timeout_s} s: {what}")


class Agent:
    """Calls over one connection to the guest agent."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""

    def sync(self) -> None:
        sync_id = random.getrandbits(62)  # tells a stale reply from ours
        self.send("guest-sync-delimited", {"id": sync_id}, start=b"\xff")
        while not self.read_line().endswith(b'\xff{"return": %d}' % sync_id):
            pass

    def send(self, name: str, arguments: dict[str, Any], start: bytes = b"") -> None:
        self.connection.sendall(start + json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")

    def read_line(self) -> bytes:
        parts = [self.received]
        while b"\n" not in parts[-1]:
            parts.append(self.connection.recv(1 << 20))
            if not parts[-1]:
                raise ConnectionResetError
        line, _, self.received = b"".join(parts).partition(b"\n")
        return line

    def call(self, name: str, **arguments: Any) -> Any:
        self.send(name, arguments)
        return json.loads(self.read_line())["return"]


class Vm:
    """A lab VM that this test started itself."""

    def __init__(self, guest: LabGuest, accelerator: Accelerator, folder: Path, *words: str) -> None:
        self.agent_path, self.monitor_path = folder / "1.qga", folder / "1.qmp"
        argv = ["qemu-system-x86_64", "-accel", accelerator, "-m", "256", "-smp", "1", "-nodefaults", "-no-user-config"]
        argv += ["-display", "none", "-serial", f"file:{folder}/1.console", "-device", "virtio-serial"]
        argv += ["-chardev", f"socket,id=qga,path={self.agent_path},server=on,wait=off"]
        argv += ["-device", "virtserialport,chardev=qga,id=qga,name=org.qemu.guest_agent.0"]
        argv += ["-qmp", f"unix:{self.monitor_path},server=on,wait=off", *guest.qemu_args(*words)]
        self.process = subprocess.Popen(argv)

    @contextmanager
    def agent(self, timeout_s: float = RPC_TIMEOUT_S) -> Iterator[Agent]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(self.agent_path))
            agent = Agent(connection)
            agent.sync()
            yield agent

    def probe_agent(self) -> Any | None:
        try:
            with self.agent(timeout_s=0.5) as agent:
                return agent.call("guest-info")
        except OSError:
            return None

    def wait_for_agent(self) -> Any:
        return until(BOOT_TIMEOUT_S, "agent answers", self.probe_agent)

    def run(self, script: str, timeout_s: float = RPC_TIMEOUT_S) -> dict[str, Any]:
        with self.agent(timeout_s) as agent:
            argv = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
            pid = agent.call("guest-exec", **argv)["pid"]

            def ended() -> dict[str, Any] | None:
                status: dict[str, Any] = agent.call("guest-exec-status", pid=pid)
                return status if status["exited"] else None

            return until(RPC_TIMEOUT_S, f"end of {script!r}", ended)

    def output(self, script: str, timeout_s: float = RPC_TIMEOUT_S) -> str:
        return b64decode(self.run(script, timeout_s)["out-data"]).decode()

    def wait_for_change(self, script: str, before: str) -> str:
        """Wait until the agent answers and the script no longer writes what it wrote before."""

        def changed() -> str | None:
            try:
                now = self.output(script, timeout_s=1)
            except OSError:  # between two agents: nobody answers, or not to the end
                return None
            return None if now == before else now

        return until(BOOT_TIMEOUT_S, f"a change of {script!r}", changed)

    def monitor(self, command: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(RPC_TIMEOUT_S)
            connection.connect(str(self.monitor_path))
            with connection.makefile("rwb") as lines:
                assert "QMP" in json.loads(lines.readline())
                for name in ("qmp_capabilities", command):
                    lines.write(json.dumps({"execute": name}).encode() + b"\n")
                    lines.flush()
                    while "event" in (reply := json.loads(lines.readline())):
                        pass
                    assert reply == {"return": {}}

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def plain(password: str) -> dict[str, Any]:
    return {"password": b64encode(password.encode()).decode(), "crypted": False}


@pytest.fixture(scope="session")
def guest() -> LabGuest:
    return lab_guest.build(Path(os.environ.get("VAR_DIR", "var")))


@pytest.fixture(scope="session")
def accelerator(guest: LabGuest) -> Accelerator:
    return accel.choose(Path(os.environ.get("VAR_DIR", "var")), guest)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vm")


@pytest.fixture(scope="module")
def vm(guest: LabGuest, accelerator: Accelerator, folder: Path) -> Iterator[Vm]:
    """A running VM that the tests share; each leaves it running."""
    vm = Vm(guest, accelerator, folder, "hostname=lab-test")
    vm.wait_for_agent()
    yield vm
    vm.stop()


@pytest.fixture
def short_lived_vm(guest: LabGuest, accelerator: Accelerator, tmp_path: Path) -> Iterator[Vm]:
    vm = Vm(guest, accelerator, tmp_path)
    vm.wait_for_agent()
    yield vm
    vm.stop()


def test_the_real_agent_answers_and_can_run_commands(vm: Vm) -> None:
    info = vm.wait_for_agent()
    enabled = {rpc["name"] for rpc in info["supported_commands"] if rpc["enabled"]}
    assert info["version"].startswith("7.2")
    assert {"guest-exec", "guest-exec-status", "guest-shutdown", "guest-file-open"} <= enabled


def test_commands_run_in_the_guest_and_not_on_this_host(vm: Vm) -> None:
    system, name, release = vm.output("uname -snr").split()
    assert (system, name) == ("Linux", "lab-test")
    assert release != os.uname().release
    assert release.endswith("-cloud-amd64")


def test_root_can_write_and_has_a_home(vm: Vm) -> None:
    assert vm.output("cd && echo ok > file && cat file && pwd && id -un").split() == ["ok", "/root", "root"]
    assert vm.output("cd $(mktemp -d) && touch a && mv a b && ls && printenv HOME").split() == ["b", "/root"]


def test_what_a_shell_line_needs_is_there(vm: Vm) -> None:
    names = """
        awk base64 cat chmod cp cut date dd df echo env false find free grep head hostname id kill ls md5sum mkdir
        mktemp mount mv nproc od poweroff printenv ps reboot rm sed seq setsid sh sha256sum sleep sort stat sync tail
        test touch tr true umount uname wc yes
    """
    assert vm.run(f"for name in {' '.join(names.split())}; do which $name >/dev/null || exit 1; done")["exitcode"] == 0
    mounted = vm.output("cut -d' ' -f2 /proc/mounts").split()
    assert {"/proc", "/sys", "/dev", "/dev/pts"} <= set(mounted)


def test_five_megabytes_of_output_arrive_whole(vm: Vm) -> None:
    made = vm.output("seq 750000 > /tmp/lines; sha256sum </tmp/lines").split()[0]
    body = b64decode(vm.run("cat /tmp/lines; rm /tmp/lines")["out-data"])
    assert sha256(body).hexdigest() == made
    assert len(body) > 5_000_000


def test_the_agent_survives_more_output_than_it_can_keep(vm: Vm) -> None:
    status = vm.run("yes | head -c 20000000")
    assert len(b64decode(status["out-data"])) == 16 * 1024 * 1024
    assert status["exitcode"] == 0


def test_a_killed_agent_comes_back(vm: Vm) -> None:
    old_pid = vm.output("pidof qemu-ga")
    boot_id = vm.output(BOOT_ID)
    with vm.agent() as agent:
        agent.call("guest-exec", path="/bin/kill", arg=["-9", old_pid.strip()])
    assert vm.wait_for_change("pidof qemu-ga", old_pid).strip().isdecimal()
    assert vm.output(BOOT_ID) == boot_id


def test_a_reboot_asked_of_the_agent_comes_back_as_a_fresh_system(vm: Vm) -> None:
    boot_id = vm.output(BOOT_ID)
    with vm.agent() as agent:
        agent.send("guest-shutdown", {"mode": "reboot"})
    vm.wait_for_change(BOOT_ID, boot_id)
    assert vm.process.poll() is None


def test_a_reset_of_the_machine_comes_back_as_a_fresh_system(vm: Vm) -> None:
    boot_id = vm.output(BOOT_ID)
    vm.monitor("system_reset")
    vm.wait_for_change(BOOT_ID, boot_id)


def test_a_shutdown_asked_of_the_agent_powers_the_vm_off(short_lived_vm: Vm) -> None:
    with short_lived_vm.agent() as agent:
        agent.send("guest-shutdown", {"mode": "powerdown"})
        assert short_lived_vm.process.wait(POWER_OFF_TIMEOUT_S) == 0


def test_the_power_button_powers_the_vm_off(short_lived_vm: Vm) -> None:
    short_lived_vm.monitor("system_powerdown")
    assert short_lived_vm.process.wait(POWER_OFF_TIMEOUT_S) == 0


def test_a_password_that_is_set_is_the_one_in_shadow(vm: Vm) -> None:
    secret = "s3cret: with a colon, and spaces "
    with vm.agent() as agent:
        assert agent.call("guest-set-user-password", username="root", **plain(secret)) == {}
    user, hashed, *rest = vm.output("cat /etc/shadow").strip().split(":")
    assert (user, hashed[:3], len(rest)) == ("root", "$6$", 7)
    salt = hashed.split("$")[2]
    assert vm.output(f"printf '%s\\n' '{secret}' | mkpasswd -m sha512 -P 0 -S {salt}").strip() == hashed
    assert vm.output("stat -c %a:%U /etc/shadow") == "600:root\n"


SETTING_RPCS = [
    ("guest-set-user-password", plain("a") | {"username": "nobody"}),
    ("guest-set-user-password", plain("a\nb") | {"username": "root"}),
    ("guest-set-user-password", plain("a") | {"username": "ro:ot"}),
    ("guest-set-user-password", {"username": "root", "password": "!!!", "crypted": False}),
    ("guest-set-user-password", {"username": "root", "password": "YQ=="}),
    ("guest-set-user-password", {"username": "root", "password": 1, "crypted": False}),
    ("guest-set-user-password", plain("a") | {"username": "root"}),
    ("guest-ssh-get-authorized-keys", {"username": "root"}),
    ("guest-ssh-get-authorized-keys", {"username": "nobody"}),
    ("guest-ssh-add-authorized-keys", {"username": "nobody", "keys": ["a"]}),
    ("guest-ssh-add-authorized-keys", {"username": "root", "keys": ["# a"]}),
    ("guest-ssh-add-authorized-keys", {"username": "root", "keys": ["a\nb"]}),
    ("guest-ssh-add-authorized-keys", {"username": "root", "keys": "a"}),
    ("guest-ssh-add-authorized-keys", {"username": "root", "keys": ["a"], "reset": "yes"}),
    ("guest-ssh-add-authorized-keys", {"username": "root"}),
    ("guest-ssh-add-authorized-keys", {"username": "root", "keys": ["a 1", "b 2", ""]}),
    ("guest-ssh-get-authorized-keys", {"username": "root"}),
    ("guest-ssh-add-authorized-keys", {"username": "root", "keys": ["b 2", "c 3"]}),
    ("guest-ssh-get-authorized-keys", {"username": "root"}),
    ("guest-ssh-add-authorized-keys", {"username": "root", "keys": ["d 4", ""], "reset": True}),
    ("guest-ssh-get-authorized-keys", {"username": "root"}),
    ("guest-ssh-add-authorized-keys", {"username": "root", "keys": [], "reset": True}),
    ("guest-ssh-get-authorized-keys", {"username": "root"}),
    ("guest-ssh-add-authorized-keys", {"username": "root", "keys": ["e 5"]}),
]
"""RPCs that must never be sent to a real agent on the tests' own machine, so that only a VM can say what is right."""


async def test_the_fake_agent_sets_what_the_real_one_sets(vm: Vm, tmp_path: Path) -> None:
    vm.run("rm -rf /root/.ssh")
    async with FakeAgent(tmp_path / "fake.qga") as fake:
        reader, writer = await asyncio.open_unix_connection(fake.path)
        for rpc, arguments in SETTING_RPCS:
            with vm.agent() as agent:
                agent.send(rpc, arguments)
                real = json.loads(agent.read_line())
            writer.write(json.dumps({"execute": rpc, "arguments": arguments}).encode())
            assert json.loads(await reader.readline()) == real, (rpc, arguments)
        writer.close()
        assert fake.accounts.keys_file == vm.output("cat /root/.ssh/authorized_keys") == "e 5"
        assert fake.accounts.passwords == {"root": "a"}
    assert vm.output("stat -c %a:%U /root/.ssh /root/.ssh/authorized_keys") == "700:root\n600:root\n"


def test_the_probe_sees_a_guest_that_boots(guest: LabGuest) -> None:
    assert accel.boots_guest(guest, "tcg")
