"""One run of the product, full of planted secrets: a Redis with a password, web, worker and a VM, all to be killed.

Each program's output is a file, everything is told to write below one folder, and all of it is as talkative as can be.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
import requests

from lab import accel, definitions, guest, processes
from lab.limits import HIGH_LIMITS
from tests.canaries import Canary, Finder
from tests.e2e.conftest import BOOT_TIMEOUT_S, REQUEST_TIMEOUT_S, free_port, until
from tests.redis_contents import parts_in
from tests.redis_table import row_of
from tests.spooled import spooled

ROOT = Path(__file__).resolve().parents[2]
VMID = definitions.FIRST_VMID
QUICK = {
    "EXEC_START_TIMEOUT_S": "3",
    "EXEC_KILL_WAIT_S": "6",
    "KILL_GRACE_S": "1",
    "AGENT_RPC_TIMEOUT_S": "2",
    "AGENT_SYNC_TIMEOUT_S": "2",
    "AGENT_PROBE_S": "1",
    "VM_SCAN_S": "0.3",
    "SHUTDOWN_TIMEOUT_S": "8",
}


class Scene:
    """Everything that runs, and the search through all that it leaves behind."""

    def __init__(self, folder: Path, finder: Finder) -> None:
        self.folder = folder
        self.finder = finder
        self.redis_password = finder.plant("redis password")
        self.audit_secret = finder.plant("audit secret")
        self._sockets = definitions.socket_dir(folder, os.environ)
        self._procfile = processes.parse_procfile((ROOT / "Procfile").read_text(encoding="utf-8"))
        self._children: dict[str, processes.Child] = {}
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        for name in ("redis", "tmp", "log"):
            (folder / name).mkdir(mode=0o700)

    # --- what runs ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all of it but the VM."""
        shared = Path(os.environ.get("VAR_DIR") or "var").resolve()
        lab_guest = guest.build(shared)
        self._accelerator = accel.choose(shared, lab_guest)
        vms = definitions.demo_fleet(1)
        definitions.write(self.folder / "vms", vms, self._sockets, lab_guest, self.folder / "disks")
        self.start_redis()
        for name in self._procfile:
            self.start_half(name)

    def start_redis(self) -> None:
        config = self.folder / "redis" / "redis.conf"
        lines = [f"requirepass {self.redis_password}", f"unixsocket {self._socket}", "port 0", "loglevel debug"]
        lines += [f"dir {config.parent}", "appendonly yes", "appendfsync always", 'save ""', "slowlog-max-len 0"]
        config.write_text("\n".join(lines), encoding="utf-8")
        config.chmod(0o600)
        self._start("redis", shlex.join(["redis-server", str(config)]))
        until(20, "Redis answers", self._ping)

    def start_half(self, name: str) -> None:
        """Start the web half or the worker, as the Procfile says."""
        self._start(name, self._procfile[name])

    def kill(self, name: str) -> None:
        """SIGKILL a program, and all of its group."""
        process = self._children.pop(name).process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End all of it, the VM before its Redis."""
        processes.stop(child for name, child in self._children.items() if name != "redis")
        processes.stop_vms(self._sockets)
        processes.stop(child for name, child in self._children.items() if name == "redis")

    def make_key(self, name: str, *options: str) -> str:
        """Make an API key as the node's owner does, and watch it."""
        argv = [str(Path(sys.executable).parent / "ownup"), "keys", "create", "--account", definitions.ACCOUNT]
        argv += ["--name", name, "--scopes", "all", "--json", *options]
        made = subprocess.run(argv, env=self.environ(), capture_output=True, check=True, timeout=REQUEST_TIMEOUT_S)
        self.finder.search("what ownup writes to standard error", made.stderr)
        secret: str = json.loads(made.stdout)["secret"]
        return self.finder.watch(Canary.of(f"key {name}", secret))

    def environ(self) -> dict[str, str]:
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
            "REDIS_URL": f"unix://:{self.redis_password}@{self._socket}?db=0",
            "VM_DIR": str(self.folder / "vms"),
            "SPOOL_DIR": str(self.folder / "spool"),
            "NODE_NAME": "node-1",
            "QEMU_ACCEL": self._accelerator,
            "LOG_LEVEL": "DEBUG",
            "WEB_PROCESSES": "2",
            "AUDIT_SECRET": self.audit_secret,
            "AUDIT_READS": "on",
            "TMPDIR": str(self.folder / "tmp"),
        }
        return {**os.environ, **HIGH_LIMITS, **QUICK, **own}

    def store(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self._socket), password=self.redis_password)

    def spooled(self) -> list[str]:
        """Name what waits in the worker's spool."""
        return spooled(self.folder / "spool")

    def spool_files(self) -> list[Path]:
        """List the files that hold it, or have held it."""
        return [path for path in (self.folder / "spool").iterdir() if path.name != "worker.lock"]

    def core_file_limits(self) -> set[str]:
        """Tell the soft limits of core files of every process of ours."""
        lines = [(folder / "limits").read_text() for folder in self._our_processes() if (folder / "limits").exists()]
        return {
            line.split()[4] for text in lines for line in text.splitlines() if line.startswith("Max core file size")
        }

    # --- the search ---------------------------------------------------------------------------------------------------

    def search_redis(self) -> None:
        """Search every key and value, each with what its row allows it, and what Redis says of itself."""
        with self.store() as client:
            for key, part in parts_in(client):
                row = row_of(key)
                assert row is not None, f"{key} has no row in the table of keys"
                self.finder.search(f"Redis key {key}", part, may_hold=row.may_hold)
            for command in ("CLIENT LIST", "INFO everything", "SLOWLOG GET 100"):
                self.finder.search(f"Redis, {command}", repr(client.execute_command(*command.split())).encode())

    def search_processes(self) -> None:
        """Search the arguments of every process of this host, and the environment of those that run a guest."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                name, arguments = (folder / "comm").read_text(), (folder / "cmdline").read_bytes()
                environ = (folder / "environ").read_bytes() if name.startswith("qemu-") else b""
            except OSError:  # it has ended meanwhile
                continue
            if folder.name != str(os.getpid()):
                self.finder.search(f"arguments of {name.strip()}", arguments)
                self.finder.search(f"environment of {name.strip()}", environ)

    def search_files(self, *, may_hold: Mapping[str, Collection[str]] | None = None) -> None:
        """Search all files but those in which Redis keeps what it holds, and the guest's disk."""
        places = may_hold or {}
        for path in self.folder.rglob("*"):
            within = path.relative_to(self.folder).parts[0]
            if path.is_file() and not path.is_symlink() and within not in {"redis", "disks"}:
                self.finder.search_file(path, may_hold=places.get(within, ()))

    def logs(self) -> bytes:
        return b"".join(path.read_bytes() for path in (self.folder / "log").iterdir())

    # --- below --------------------------------------------------------------------------------------------------------

    @property
    def _socket(self) -> Path:
        return self._sockets / "redis.sock"

    def _start(self, name: str, shell_line: str) -> None:
        log = shlex.quote(str(self.folder / "log" / name))
        self._children[name] = processes.start(name, f"{shell_line} >>{log} 2>&1", self.environ())

    def _ping(self) -> bool:
        try:
            with self.store() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _our_processes(self) -> Iterator[Path]:
        mark = os.fsencode(f"SPOOL_DIR={self.folder / 'spool'}")
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes() and not (folder / "comm").read_text().startswith("redis"):
                    yield folder
            except OSError:
                continue


class Client:
    """A client with a key that searches every answer it gets."""

    def __init__(self, scene: Scene, key: str) -> None:
        self._scene = scene
        self._key = key
        self._http = requests.Session()

    def close(self) -> None:
        self._http.close()

    def key_headers(self, face: str) -> dict[str, str]:
        """Make the header field that carries the key in a face."""
        name = "X-Auth-Token" if face == "virtuozzo" else "X-API-Key"
        return {name: self._key}

    def json_headers(self, face: str) -> dict[str, str]:
        return self.key_headers(face) | {"Content-Type": "application/json"}

    def ask(
        self,
        method: str,
        path: str,
        *statuses: int,
        shows: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> requests.Response:
        """Send a request, and search all of the answer.

        Args:
            method: HTTP method.
            path: Path and query.
            statuses: What the answer may be.
            shows: How the names of those secrets begin that the answer may hold, besides the line that was to be run.
            headers: Header fields instead of those with the key.
            kwargs: For ``requests``.
        """
        own = {"X-API-Key": self._key, "X-Auth-Token": self._key} if headers is None else headers
        response = self._http.request(
            method, f"{self._scene.url}{path}", headers=own, timeout=REQUEST_TIMEOUT_S, allow_redirects=False, **kwargs
        )
        assert response.status_code in statuses, (method, path, response.status_code, response.text)
        shown = ("line", *shows)
        place = f"answer {response.status_code} to {method} {path.partition('?')[0]}"
        self._scene.finder.search(f"{place}, body", response.content, may_hold=shown)
        self._scene.finder.search(f"{place}, headers", repr(dict(response.headers)).encode(), may_hold=shown)
        return response

    def garbage(self, data: bytes) -> None:
        """Send bytes that are no request, and search what comes back."""
        host, port = self._scene.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=REQUEST_TIMEOUT_S) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 4"), answer
        self._scene.finder.search("answer to garbage", answer)

    def wait_available(self) -> None:
        """Wait until commands can be run in the VM."""

        def answers() -> bool:
            probe = self.ask("GET", f"/api/vm/{VMID}/agent/exec", 200, 404, 503)
            return probe.status_code == 200 and probe.json()["data"]["available"]

        until(BOOT_TIMEOUT_S, "the agent is available", answers, pause_s=0.2)

    def power(self, action: str) -> None:
        """Carry out a power action."""
        body = {"action": action, "force": action == "stop"}
        job = self.ask("POST", f"/api/vm/{VMID}/status", 200, json=body).json()["data"]["jobId"]
        deadline_s = time.monotonic() + BOOT_TIMEOUT_S
        while not (data := self.ask("GET", f"/api/jobs/{job}", 200).json()["data"])["isCompleted"]:
            assert not data["isFailed"], data
            assert time.monotonic() < deadline_s, data
            time.sleep(0.1)
