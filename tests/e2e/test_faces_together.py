"""One guest through three faces: each sees and ends what another has started, and refuses the same in its own words."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests

from app.core import ids
from tests.e2e.conftest import REQUEST_TIMEOUT_S, Client, Stack, until

END_TIMEOUT_S = 30
FACES = ("v1", "v2", "virtuozzo")
LINE = "echo out; echo err >&2; exit 7"
BLOCKED = "rm -rf /"
UNKNOWN_VMID = 999_999_999


@dataclass(frozen=True)
class Seen:
    """A command as a face shows it."""

    state: str
    exit_code: int | None
    stdout: str
    stderr: str


class Face(Protocol):
    """What all faces can do; a command goes by its pid."""

    def start(self, vmid: int, line: str, status: int = 200) -> Any:
        """Start a shell line; answer its pid, or what it was refused with."""

    def read(self, vmid: int, pid: int) -> Seen:
        """Read a command."""

    def cancel(self, vmid: int, pid: int) -> Seen:
        """Have a command killed; answer how it is then."""


class V1:
    def __init__(self, http: "Http") -> None:
        self._http = http

    def start(self, vmid: int, line: str, status: int = 200) -> Any:
        body = self._http.ask("POST", f"/api/vm/{vmid}/agent/exec", status, json={"command": line})
        return body["data"]["pid"] if status == 200 else body

    def read(self, vmid: int, pid: int) -> Seen:
        return self._seen(self._http.ask("GET", f"/api/vm/{vmid}/agent/exec?pid={pid}")["data"])

    def cancel(self, vmid: int, pid: int) -> Seen:
        return self._seen(self._http.ask("DELETE", f"/api/vm/{vmid}/agent/exec?pid={pid}")["data"])

    def _seen(self, data: dict[str, Any]) -> Seen:
        return Seen(data["state"], data.get("exitcode"), data.get("stdout", ""), data.get("stderr", ""))


class V2:
    def __init__(self, http: "Http") -> None:
        self._http = http

    def start(self, vmid: int, line: str, status: int = 200) -> Any:
        body = self._http.ask("POST", f"/api/v2/vps/{ids.vps_id(vmid)}/agent/exec", status, json={"command": line})
        return body["pid"] if status == 200 else body

    def read(self, vmid: int, pid: int) -> Seen:
        return self._seen(self._http.ask("GET", f"/api/v2/vps/{ids.vps_id(vmid)}/agent/exec?pid={pid}"))

    def cancel(self, vmid: int, pid: int) -> Seen:
        return self._seen(self._http.ask("DELETE", f"/api/v2/vps/{ids.vps_id(vmid)}/agent/exec?pid={pid}"))

    def _seen(self, data: dict[str, Any]) -> Seen:
        return Seen(data["state"], data["exitCode"], data.get("stdout", ""), data.get("stderr", ""))


class Virtuozzo:
    def __init__(self, http: "Http") -> None:
        self._http = http

    def start(self, vmid: int, line: str, status: int = 200) -> Any:
        argv = {"command": {"type": "exec", "arguments": {"command": ["/bin/sh", "-c", line]}}}
        body = self._http.ask("POST", self._path(vmid), status, json=argv)
        return body["command"]["result"]["pid"] if status == 200 else body

    def read(self, vmid: int, pid: int) -> Seen:
        return self._seen(self._http.ask("GET", self._path(vmid, pid)))

    def cancel(self, vmid: int, pid: int) -> Seen:
        return self._seen(self._http.ask("DELETE", self._path(vmid, pid)))

    def _path(self, vmid: int, pid: int | None = None) -> str:
        path = f"/v2.1/servers/{ids.openstack_id(vmid)}/guest-agent/commands"
        if pid is None:
            return path
        listed = [entry for entry in self._http.pages(path, "commands") if (entry["result"] or {}).get("pid") == pid]
        return f"{path}/{listed[-1]['uuid']}"

    def _seen(self, body: dict[str, Any]) -> Seen:
        command = body["command"]
        state = {"RUNNING": "running", "SUCCESS": "exited"}.get(command["status"])
        state = state or ("cancelled" if "cancelled" in command["error"] else command["error"])
        result = command["result"]
        return Seen(state, result.get("exitcode"), result.get("stdout", ""), result.get("stderr", ""))


class Http:
    """A client with one key, which it sends as all faces want it."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.headers.update({"X-API-Key": key, "X-Auth-Token": key})

    def close(self) -> None:
        self._session.close()

    def ask(self, method: str, path: str, status: int = 200, **kwargs: Any) -> Any:
        response = self._session.request(method, f"{self._url}{path}", timeout=REQUEST_TIMEOUT_S, **kwargs)
        assert response.status_code == status, response.text
        return response.json()

    def pages(self, path: str, name: str) -> Iterator[Any]:
        """Read a list of OpenStack to its end."""
        query = ""
        while True:
            page = self.ask("GET", f"{path}{query}")
            yield from page[name]
            if f"{name}_links" not in page:
                return
            query = f"?{page[f'{name}_links'][0]['href'].partition('?')[2]}"


def faces_of(http: Http) -> dict[str, Face]:
    return {"v1": V1(http), "v2": V2(http), "virtuozzo": Virtuozzo(http)}


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[Http]:
    client = Http(stack.url, stack.key)
    yield client
    client.close()


@pytest.fixture
def faces(http: Http) -> dict[str, Face]:
    return faces_of(http)


@pytest.fixture
def stranger(stack: Stack) -> Iterator[Http]:
    """A client with a key of another account, made as the node's owner makes one."""
    ownup = Path(sys.executable).parent / "ownup"
    argv = [str(ownup), "keys", "create", "--account", "other", "--name", "stranger", "--scopes", "all", "--json"]
    environ = os.environ | {"REDIS_URL": stack.redis_url}
    made = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True, timeout=REQUEST_TIMEOUT_S)
    client = Http(stack.url, json.loads(made.stdout)["secret"])
    yield client
    client.close()


@pytest.mark.parametrize("starting", FACES)
def test_a_command_of_one_face_reads_the_same_through_all(faces: dict[str, Face], vmid: int, starting: str) -> None:
    pid = faces[starting].start(vmid, LINE)
    until(END_TIMEOUT_S, "the command ends", lambda: faces[starting].read(vmid, pid).state != "running")
    for face in faces.values():
        assert face.read(vmid, pid) == Seen("exited", 7, "out\n", "err\n")


@pytest.mark.parametrize(("starting", "cancelling"), list(zip(FACES, (*FACES[1:], FACES[0]), strict=True)))
def test_a_command_that_one_face_cancels_is_over_in_all(
    faces: dict[str, Face], client: Client, vmid: int, starting: str, cancelling: str
) -> None:
    pid = faces[starting].start(vmid, "echo begun; exec sleep 7543")
    assert {face.read(vmid, pid).state for face in faces.values()} == {"running"}
    assert client.output(vmid, f"kill -0 {pid} && echo lives") == "lives\n"
    assert faces[cancelling].cancel(vmid, pid).state == "cancelled"
    for face in faces.values():
        seen = face.read(vmid, pid)
        assert (seen.state, seen.stdout) == ("cancelled", "begun\n")
    assert client.run(vmid, f"kill -0 {pid}")["exitcode"] != 0


def test_virtuozzos_list_tells_what_all_faces_have_started(http: Http, faces: dict[str, Face], vmid: int) -> None:
    pids = [face.start(vmid, "true") for face in faces.values()]
    path = f"/v2.1/servers/{ids.openstack_id(vmid)}/guest-agent/commands"
    listed = {entry["result"]["pid"]: entry for entry in http.pages(path, "commands") if entry["result"]}
    assert set(pids) <= set(listed)
    assert {listed[pid]["instance_uuid"] for pid in pids} == {ids.openstack_id(vmid)}


class TestRefusals:
    """The same thing is refused by all, each in its own shape."""

    def test_blocked_command(self, faces: dict[str, Face], vmid: int) -> None:
        first, second, third = (face.start(vmid, BLOCKED, 400) for face in faces.values())
        message = "This command has been blocked for safety reasons"
        (rule,) = [detail["message"] for detail in first["details"]]
        assert (first["code"], first["message"]) == ("BAD_REQUEST", message)
        assert (second["code"], second["detail"]) == ("command_blocked", f"{message}: {rule}")
        assert (third["badRequest"]["message"], rule in third["badRequest"]["details"]) == (message, True)

    @pytest.mark.parametrize("what", ["of another account", "unknown"])
    def test_server_that_is_not_there_for_the_caller(self, http: Http, stranger: Http, vmid: int, what: str) -> None:
        client, asked = (stranger, vmid) if what == "of another account" else (http, UNKNOWN_VMID)
        first, second, third = (face.start(asked, "true", 404) for face in faces_of(client).values())
        assert (first["code"], first["message"]) == ("NOT_FOUND", "VM not found")
        assert (second["code"], second["title"]) == ("vps_not_found", "VPS not found")
        assert third == {"itemNotFound": {"code": 404, "message": "VM not found"}}

    def test_command_of_another_account(self, http: Http, stranger: Http, faces: dict[str, Face], vmid: int) -> None:
        pid = faces["v1"].start(vmid, "true")
        commands = f"/v2.1/servers/{ids.openstack_id(vmid)}/guest-agent/commands"
        uuid = list(http.pages(commands, "commands"))[-1]["uuid"]
        one_vm = (f"/api/vm/{vmid}", f"/api/v2/vps/{ids.vps_id(vmid)}")
        for path in (*(f"{vm}/agent/exec?pid={pid}" for vm in one_vm), commands, f"{commands}/{uuid}"):
            assert http.ask("GET", path)
            assert stranger.ask("GET", path, 404)

    def test_vm_that_is_off(self, faces: dict[str, Face], client: Client, vmid: int) -> None:
        client.power(vmid, "stop")
        first, second, third = (
            face.start(vmid, "true", status) for face, status in zip(faces.values(), (400, 409, 409), strict=True)
        )
        assert first["code"] == "BAD_REQUEST"
        assert second["code"] == "vps_not_ready"
        assert first["message"] == second["detail"] == third["conflictingRequest"]["message"]
