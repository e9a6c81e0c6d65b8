"""Both halves and a real VM under what their units of systemd forbid: all that is needed is allowed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lab import definitions, guest
from lab.processes import parse_procfile
from tests.conftest import RedisServer
from tests.e2e.conftest import Client, free_port, until
from tests.faults.peers import Worker

ROOT = Path(__file__).parents[2]
UNDER_UNIT = [sys.executable, str(ROOT / "tests" / "under_unit.py")]
VMID = 10000


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ownup") as name:
        yield Path(name)


@pytest.fixture
def address(own_redis: RedisServer, folder: Path) -> Iterator[str]:
    port = free_port()
    line = parse_procfile((ROOT / "Procfile").read_text())["web"]
    environ = os.environ | {"REDIS_URL": own_redis.url, "PORT": str(port), "WEB_PROCESSES": "1"}
    command = [*UNDER_UNIT, ROOT / "deploy/ownup-web.service", Path(sys.executable).with_name("gunicorn")]
    with (folder / "web.log").open("wb") as log:
        server = subprocess.Popen([*command, *line.split()[1:]], cwd=ROOT, env=environ, stderr=log)

    def answers() -> bool:
        assert server.poll() is None, (folder / "web.log").read_text()
        try:
            return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).ok
        except requests.ConnectionError:
            return False

    until(30, "gunicorn answers", answers)
    yield f"http://127.0.0.1:{port}"
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0
    log = (folder / "web.log").read_text()
    assert "Traceback" not in log
    assert "goes on with any CPU" not in log


def test_a_vm_boots_is_used_and_outlives_its_worker(own_redis: RedisServer, folder: Path, address: str) -> None:
    shared = Path(os.environ.get("VAR_DIR") or "var").resolve()
    argv = [Path(sys.executable).with_name("ownup"), "keys", "create", "--account", definitions.ACCOUNT]
    environ = os.environ | {"REDIS_URL": own_redis.url}
    made = subprocess.check_output([*argv, "--name", "x", "--scopes", "all", "--json"], env=environ)
    client = Client(address, json.loads(made)["secret"])
    prefix = [*UNDER_UNIT, str(ROOT / "deploy/ownup-worker.service")]
    accel = (shared / "accel").read_text().split()[0]
    worker = Worker(folder, own_redis.url, prefix=prefix, QEMU_ACCEL=accel)
    definitions.write(worker.vm_dir, definitions.demo_fleet(1), folder, guest.build(shared), folder / "disks")
    with worker:
        until(20, "the VM is known", lambda: client.get("/api/vm").json().get("data"))
        assert client.power(VMID, "start")["isCompleted"], worker.log
        try:
            client.wait_available(VMID)
            assert client.output(VMID, "echo hello") == "hello\n"
            qemu = client.status(VMID)["qemuPid"]
            status = Path(f"/proc/{qemu}/status").read_text()
            filters = [line.split()[1] for line in status.splitlines() if line.startswith("Seccomp_filters")]
            assert int(filters[0]) >= 2, "the unit's and QEMU's own"
            worker.process.send_signal(signal.SIGTERM)  # as KillMode=process does
            assert worker.process.wait(20) == 0
            worker.start()
            client.wait_available(VMID)
            assert client.status(VMID)["qemuPid"] == qemu
        finally:
            client.power(VMID, "stop")
    client.close()
    assert "Traceback" not in worker.log
