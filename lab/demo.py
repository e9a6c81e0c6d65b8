"""The demo, seen from outside: its key, its VMs over the product's own API, and the curl lines that a person can try.

A client like any other: it knows the HTTP routes and the `ownup` command, nothing behind them.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from lab import LabError
from lab.definitions import ACCOUNT, DemoVm
from lab.watch import Watch

_REQUEST_TIMEOUT_S = 30
_KNOWN_TIMEOUT_S = 30
_AGENT_TIMEOUT_S = 120
_COMMAND_TIMEOUT_S = 30


@dataclass(frozen=True)
class Api:
    """The product's API on this host, with the demo's key."""

    port: int
    key: str

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Send one request; answer the HTTP status and `data`, or the whole body where it has no `data`.

        Raises:
            OSError: nothing answers.
            HTTPException: what answers doesn't speak HTTP.
            ValueError: the answer is no JSON.
        """
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_REQUEST_TIMEOUT_S)
        headers = {"Content-Type": "application/json", "X-API-Key": self.key}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        return response.status, answer.get("data", answer)

    def find(self, path: str) -> Any | None:
        """Read `data` of a path; None when it isn't there yet, or nobody answers yet."""
        try:
            status, data = self.call("GET", path)
        except (OSError, HTTPException, ValueError):
            return None
        return data if status == HTTPStatus.OK else None

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a body and read `data`.

        Raises:
            LabError: the answer isn't a success.
        """
        status, data = self.call("POST", path, body)
        if status >= HTTPStatus.BAD_REQUEST:
            raise LabError(f"POST {path}: {status} {json.dumps(data)}")
        return data


def read_key(file: Path, program: Path, environ: Mapping[str, str]) -> str:
    """Get the demo's key: the one in `file` if the product still has it, else a new one, left in `file` for its owner.

    Raises:
        LabError: the `ownup` command failed.
    """
    listed = _ownup(program, environ, "keys", "list", "--json")
    known = {entry["keyId"] for entry in listed if entry["state"] == "active"}
    secret = file.read_text().strip() if file.exists() else ""
    if key_id(secret) in known:
        return secret
    options = ["--account", ACCOUNT, "--name", "demo", "--scopes", "all", "--json"]
    made: str = _ownup(program, environ, "keys", "create", *options)["secret"]
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(f"{made}\n")
    return made


def key_id(secret: str) -> str:
    """Read the id out of a secret, `ownup_<keyId>_<random>`; empty when it has another form."""
    return secret.removeprefix("ownup_").partition("_")[0] if secret.startswith("ownup_") else ""


def _ownup(program: Path, environ: Mapping[str, str], *arguments: str) -> Any:
    done = subprocess.run([program, *arguments], env=dict(environ), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"`ownup {shlex.join(arguments)}` failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def boot(watch: Watch, api: Api, fleet: Sequence[DemoVm], say: Callable[[str], None]) -> int:
    """Bring up the fleet, all at once, and prove it: run a command in the first VM and answer its pid."""
    jobs = {vm: start_vm(watch, api, vm) for vm in fleet}
    for vm, job_id in jobs.items():
        say(f"VM {vm.vmid} ({vm.name}): {'booting' if job_id else 'running already'} ...")
    for vm, job_id in jobs.items():
        wait_for_agent(watch, api, vm, job_id)
        say(f"VM {vm.vmid} ({vm.name}): its guest agent answers")
    pid, output = run_command(watch, api, fleet[0], "uname -a")
    say(f"VM {fleet[0].vmid} ({fleet[0].name}): `uname -a` says {output.strip()}")
    return pid


def start_vm(watch: Watch, api: Api, vm: DemoVm) -> str | None:
    """Start a VM; answer the id of the job, or None when the VM is running already."""
    path = f"/api/vm/{vm.vmid}/status"

    def settled() -> Any | None:
        status = api.find(path)
        return status if status and status["status"] not in {"unknown", "starting"} else None

    if watch.wait_for(f"the state of VM {vm.vmid} is known", _KNOWN_TIMEOUT_S, settled)["vmRunning"]:
        return None
    job_id: str = api.post(path, {"action": "start"})["jobId"]
    return job_id


def wait_for_agent(watch: Watch, api: Api, vm: DemoVm, job_id: str | None) -> None:
    """Wait until commands can be run in a VM.

    Raises:
        LabError: the job that starts it has failed.
    """

    def probe() -> bool | None:
        job = api.find(f"/api/jobs/{job_id}") if job_id else None
        if job and job["isFailed"]:
            raise LabError(f"VM {vm.vmid} did not start: {json.dumps(job)}")
        agent = api.find(f"/api/vm/{vm.vmid}/agent/exec")
        return True if agent and agent["available"] else None

    watch.wait_for(f"the guest agent of VM {vm.vmid} answers", _AGENT_TIMEOUT_S, probe)


def run_command(watch: Watch, api: Api, vm: DemoVm, command: str) -> tuple[int, str]:
    """Run a command in a VM; answer its pid and what it wrote."""
    path = f"/api/vm/{vm.vmid}/agent/exec"
    pid: int = api.post(path, {"command": command})["pid"]

    def ended() -> Any | None:
        result = api.find(f"{path}?pid={pid}")
        return result if result and result["exited"] else None

    output: str = watch.wait_for(f"`{command}` has ended", _COMMAND_TIMEOUT_S, ended)["stdout"]
    return pid, output


def usage(api: Api, fleet: Sequence[DemoVm], pid: int) -> str:
    """Write where OwnUp listens, the key, and what to try; `pid` is of a command that has run in the first VM."""
    url = f"http://127.0.0.1:{api.port}"
    vms = ", ".join(f"{vm.vmid} ({vm.name})" for vm in fleet)
    lines = ["", "OwnUp is running", f"  URL   {url}", f"  docs  {url}/docs", f"  key   {api.key}", f"  VMs   {vms}"]
    lines += ["", "Try from another shell:"]
    for sentence, line in curl_lines(url, api.key, fleet[0].vmid, pid):
        lines += ["", f"# {sentence}", line]
    return "\n".join([*lines, "", "Ctrl-C stops everything."])


def curl_lines(url: str, key: str, vmid: int, pid: int) -> Sequence[tuple[str, str]]:
    """Write what to try: a sentence, and the shell line that does it."""
    curl = f"curl -sS -w '\\n' -H {shlex.quote(f'X-API-Key: {key}')}"
    posted = "-H 'Content-Type: application/json' -d " + shlex.quote(json.dumps({"command": "uname -a"}))
    return [
        ("start a command in the VM: the answer has its pid", f"{curl} {posted} {url}/api/vm/{vmid}/agent/exec"),
        (f"read a result: put your pid in the place of {pid}", f"{curl} '{url}/api/vm/{vmid}/agent/exec?pid={pid}'"),
        ("the VM, live", f"{curl} {url}/api/vm/{vmid}/status"),
        ("all VMs of this key's account", f"{curl} {url}/api/vm"),
    ]
