"""Secrets stay in their place: a whole run is searched for every key, stdin, env value, password and output of it.

The tests are one story, told in order: what goes well, what is refused, what fails and what is killed. Each plants
secrets of its own; after each all that the run has left so far is searched for all of them.
"""

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from app.core import ids
from tests.canaries import Canary, Finder
from tests.e2e.conftest import until
from tests.e2e.secrets_scene import VMID, Client, Scene
from tests.net import NET
from tests.redis_contents import parts_in
from tests.redis_table import complaints, row_of

pytestmark = pytest.mark.timeout(240)

VPS, SERVER = f"/api/v2/vps/{ids.vps_id(VMID)}", f"/v2.1/servers/{ids.openstack_id(VMID)}"
VM = f"/api/vm/{VMID}"
FILES = f"{SERVER}/guest-agent"
TOKENS = "/identity/v3/auth/tokens"
FACES = ("v1", "v2", "virtuozzo")
DECORATION = ' "ü\\%'
END_TIMEOUT_S = 30
ERRORS = tuple(range(400, 600))


@dataclass(frozen=True)
class Planted:
    """A command that is full of secrets, as each face takes it.

    Attributes:
        name: Of the command: its secrets are called ``<kind> <name>``.
        line: What is run.
        stdin: Its standard input.
        token: A variable of its environment.
        out: What it writes to standard output; nothing of it stands in the line as a whole.
        err: What it writes to standard error.
    """

    name: str
    line: str
    stdin: str
    token: str
    out: str
    err: str

    @classmethod
    def make(cls, finder: Finder, name: str, then: str = "") -> "Planted":
        """Make one that reads all of its standard input, writes its output and goes on with ``then``."""
        out, err = (finder.plant(f"output {stream} {name}") for stream in ("out", "err"))
        line = f"wc -c; printf '%s\\n' ${{#TOKEN}} {_halved(out)}; printf %s {_halved(err)} >&2; {then}"
        return cls(
            name,
            f"{line} # {finder.plant(f'line {name}')}",
            finder.plant(f"stdin {name}", f"{DECORATION}\nline 2"),
            finder.plant(f"env {name}", DECORATION),
            out,
            err,
        )

    def body(self, face: str, **more: object) -> dict[str, Any]:
        options = {"stdin": self.stdin, "env": {"TOKEN": self.token}} | more
        if face == "virtuozzo":
            arguments = {"command": ["/bin/sh", "-c", self.line]} | options
            return {"command": {"type": "exec", "arguments": arguments}}
        return {"command": self.line} | options

    def insist_on(self, stdout: str) -> None:
        """Insist that everything was really there: the secrets have arrived, and the output has come back."""
        sizes = f"{len(self.stdin.encode())}\n{len(self.token)}\n"
        assert stdout.replace(" ", "") in {f"{sizes}{self.out}", f"{sizes}{self.out}\n"}, stdout


def _halved(text: str) -> str:
    return f'{text[:13]}"{text[13:]}"'


def path_of(face: str) -> str:
    return {"v1": f"{VM}/agent/exec", "v2": f"{VPS}/agent/exec", "virtuozzo": f"{FILES}/commands"}[face]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(tmp_path_factory.mktemp("secrets"), Finder())
    try:
        scene.start()
        yield scene
    finally:
        scene.stop()
    scene.search_files()
    NET.take(scene.finder)


@pytest.fixture(scope="module")
def client(scene: Scene) -> Iterator[Client]:
    key = scene.make_key("of the client")
    client = Client(scene, key)
    until(60, "web and worker are ready", lambda: _is_ready(scene))
    client.power("start")
    client.wait_available()
    yield client
    client.close()


def _is_ready(scene: Scene) -> bool:
    try:
        return requests.get(f"{scene.url}/readyz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.fixture
def finder(scene: Scene) -> Iterator[Finder]:
    """The finder; afterwards everything is searched, and the test must have put nothing where it doesn't belong."""
    before = len(scene.finder.findings)
    yield scene.finder
    scene.search_redis()
    scene.search_processes()
    scene.search_files()
    assert [str(finding) for finding in scene.finder.findings[before:]] == []


def result(client: Client, pid: int, shows: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a command's result through v1 when it has ended."""

    def ended() -> dict[str, Any] | None:
        response = client.ask("GET", f"{VM}/agent/exec?pid={pid}", 200, 503, shows=shows)
        data: dict[str, Any] = response.json().get("data") or {}
        return data if data.get("exited") else None

    return until(END_TIMEOUT_S, f"command {pid} ends", ended, pause_s=0.1)


def pid_in(answer: requests.Response) -> int:
    body = answer.json()
    pid: int = (body.get("data") or body.get("command", {}).get("result") or body)["pid"]
    return pid


# --- what goes well ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_commands(client: Client, finder: Finder, face: str) -> None:
    planted = Planted.make(finder, face)
    named = {"Idempotency-Key": finder.plant(f"idempotency key {face}")}
    for _ in range(2):
        response = client.ask(
            "POST", path_of(face), 200, json=planted.body(face), headers=client.key_headers(face) | named
        )
    data = result(client, pid_in(response), shows=("output",))
    planted.insist_on(data["stdout"])
    assert data["stderr"] == planted.err
    for path in (f"{path_of('v2')}?pid={pid_in(response)}", f"{path_of('v1')}?pid={pid_in(response)}&encoding=base64"):
        assert client.ask("GET", path, 200, shows=("output",))
    client.ask("GET", path_of("virtuozzo"), 200)


@pytest.mark.parametrize("face", ["v1", "v2"])
def test_commands_whose_output_comes_with_the_answer(client: Client, finder: Finder, face: str) -> None:
    planted = Planted.make(finder, f"waiting {face}")
    body = planted.body(face, wait=20)
    answer = client.ask("POST", path_of(face), 200, json=body, shows=("output",)).json()
    planted.insist_on(answer.get("data", answer)["stdout"])


def test_large_output(scene: Scene, client: Client, finder: Finder) -> None:
    half = finder.plant("output large")
    line = f"dd if=/dev/urandom bs=1024 count=600 2>/dev/null | base64; echo {_halved(half)}"
    started = client.ask("POST", f"{VM}/agent/exec", 200, json={"command": line})
    assert half in result(client, pid_in(started), shows=("output",))["stdout"]
    assert scene.spooled() == []


def test_passwords(client: Client, finder: Finder) -> None:
    password = finder.plant("password", DECORATION)
    client.ask("POST", f"{VM}/reset-password", 200, json={"password": password})


def test_files(client: Client, finder: Finder) -> None:
    content = finder.plant("file", DECORATION).encode() + b"\0" * 300_000
    headers = client.key_headers("virtuozzo") | {"Content-Type": "application/octet-stream"}
    client.ask("POST", f"{FILES}/file-write?path=/root/planted", 204, data=content, headers=headers)
    answer = client.ask("GET", f"{FILES}/file-read?path=/root/planted", 200, shows=("file",))
    assert answer.content == content


def test_keys_and_tokens(scene: Scene, client: Client, finder: Finder) -> None:
    made = client.ask("POST", "/api/keys", 200, json={"name": "planted", "scopes": ["read:vm", "write:account"]})
    secret = made.json()["data"]["key"]
    finder.watch(Canary.of("key made over HTTP", secret))
    key_id = made.json()["data"]["key_id"]
    rolled = client.ask("POST", f"/api/keys/{key_id}/roll", 200).json()["data"]["key"]
    finder.watch(Canary.of("key rolled over HTTP", rolled))
    client.ask("GET", "/api/keys", 200)
    for number, identity in enumerate((
        {
            "methods": ["password"],
            "password": {"user": {"name": "ci", "domain": {"id": "default"}, "password": rolled}},
        },
        {"methods": ["application_credential"], "application_credential": {"id": "x", "secret": rolled}},
        {"methods": ["token"], "token": {"id": rolled}},
    )):
        login = requests.post(f"{scene.url}{TOKENS}", json={"auth": {"identity": identity}}, timeout=20)
        assert login.status_code == 201, login.text
        token = finder.watch(Canary.of(f"token {number}", login.headers["X-Subject-Token"]))
        both = {"X-Auth-Token": token, "X-Subject-Token": token}
        client.ask("GET", "/v2.1/servers", 200, headers={"X-Auth-Token": token})
        client.ask("GET", TOKENS, 200, headers=both, shows=(f"token {number}",))
        client.ask("DELETE", TOKENS, 204, headers=both)
        client.ask("GET", "/v2.1/servers", 401, headers={"X-Auth-Token": token})
    for header in ({"X-API-Key": rolled}, {"Authorization": f"Bearer {rolled}"}):
        client.ask("GET", "/api/vm", 200, headers=header)
    client.ask("DELETE", f"/api/keys/{key_id}", 200)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_wrong_keys(client: Client, finder: Finder) -> None:
    wrong = finder.watch(Canary.of("key wrong", f"ownup_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"))
    other = finder.plant("key of no shape")
    for key in (wrong, other):
        basic = base64.b64encode(f"user:{key}".encode()).decode()
        for headers in (
            {"X-API-Key": key},
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"Basic {basic}"},
            {"Authorization": key},
            {"X-API-Key": key, "Authorization": "Bearer another"},
            {"X-Auth-Token": key},
            {"Cookie": f"key={key}"},
        ):
            for path in ("/api/vm", "/api/v2/vps", "/v2.1/servers"):
                client.ask("GET", path, 401, headers=headers)
        client.ask("POST", f"{VM}/agent/exec", 401, json={"command": "true"}, headers={"X-API-Key": key})
        for identity in (
            {"methods": ["password"], "password": {"user": {"name": "ci", "password": key}}},
            {"methods": ["application_credential"], "application_credential": {"secret": key}},
            {"methods": ["token"], "token": {"id": key}},
            {"methods": ["token"], "token": {"id": [key]}},
            {"methods": ["oath"], "password": {"user": {"password": key}}},
            {"methods": ["password"], "password": {"user": {"password": {"is": key}}}},
            {"methods": "password", "password": key},
        ):
            client.ask("POST", TOKENS, 400, 401, json={"auth": {"identity": identity}}, headers={})


def test_keys_where_none_belongs(client: Client, finder: Finder) -> None:
    key = finder.watch(Canary.of("key in a path", f"ownup_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"))
    for method, path in (
        ("DELETE", f"/api/keys/{key}"),
        ("PUT", f"/api/keys/{key}"),
        ("GET", f"/api/vm/{key}/status"),
        ("GET", f"/api/jobs/{key}"),
        ("GET", f"/api/v2/vps/{key}"),
        ("GET", f"/v2.1/servers/{key}"),
        ("GET", f"/v2.1/servers/{ids.openstack_id(VMID)}/guest-agent/commands/{key}"),
        ("GET", f"/identity/v3/auth/tokens/{key}"),
        ("GET", f"/{key}"),
        ("DELETE", f"/api/vm?api_key={key}"),
        ("GET", f"/api/vm/{VMID}/agent/exec?pid={key}"),
        ("GET", f"/v2.1/servers?marker={key}"),
    ):
        client.ask(method, path, *ERRORS, json={})
    client.ask("GET", f"/api/vm?api_key={key}", 200, 400)


def test_what_is_no_request(client: Client, finder: Finder) -> None:
    key = finder.plant("key in garbage").encode()
    for garbage in (
        b"GET /api/vm HTTP/1.1\r\nHost: x\r\nX-API-Key " + key + b"\r\n\r\n",
        b"X-API-Key: " + key + b"\r\n\r\n",
        b"GET /" + key * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/vm HTTP/1.1\r\nHost: x\r\nX-API-Key: " + key * 1000 + b"\r\n\r\n",
        b"GET /api/vm HTTP/1.1\r\nHost: x\r\nX-API-Key: \x00" + key + b"\r\n\r\n",
        b"POST /api/vm HTTP/1.1\r\nHost: x\r\nContent-Length: " + key + b"\r\n\r\n",
    ):
        client.garbage(garbage)


@pytest.mark.parametrize("face", FACES)
def test_bodies_that_are_refused(client: Client, finder: Finder, face: str) -> None:
    planted = Planted.make(finder, f"refused {face}")
    good = planted.body(face)
    value = planted.token
    for options in (
        {"stdin": {"a": value}},
        {"stdin": [value]},
        {"stdin": f"{value}\ud800"},
        {"stdin": value * 40_000},
        {"env": value},
        {"env": [value]},
        {"env": {"TOKEN": [value]}},
        {"env": {"TOKEN": {"a": value}}},
        {"env": {"TOKEN": f"{value}\0"}},
        {"env": {"A-B": value}},
        {"env": {"TOKEN": value * 3000}},
        {"env": {f"T{number}": value for number in range(300)}},
        {"timeout": value},
        {"cwd": value},
        {"password": value},
    ):
        refused = planted.body(face, **options)
        client.ask("POST", path_of(face), 400, 413, data=json.dumps(refused), headers=client.json_headers(face))
    text = json.dumps(good)
    for body in (
        text[:-2],
        f"{text}{text}",
        f"[{text}]",
        text.replace('"env"', '"stdin"'),
        f'"{value}"',
        "x" * 2_000_000 + value,
    ):
        client.ask("POST", path_of(face), 400, 413, data=body.encode(), headers=client.json_headers(face))
    client.ask("POST", path_of(face), 400, 415, data=text.encode(), headers=client.key_headers(face))
    client.ask("PUT", path_of(face), 405, json=good)
    blocked = Planted(
        planted.name, f"rm -rf / # {planted.line}", planted.stdin, planted.token, planted.out, planted.err
    )
    client.ask("POST", path_of(face), 400, json=blocked.body(face))


def test_passwords_that_are_refused(client: Client, finder: Finder) -> None:
    password = finder.plant("password refused")
    for body in (
        {"password": f"{password}\n"},
        {"password": password * 20},
        {"password": [password]},
        {"password": {"a": password}},
        {"Password": password},
        {"password": password, "vmid": password},
        {"password": f"{password}\ud800"},
        [password],
    ):
        client.ask("POST", f"{VM}/reset-password", 400, data=json.dumps(body), headers=client.json_headers("v1"))
    client.ask(
        "POST", f"{VM}/reset-password", 400, data=f'{{"password": "{password}', headers=client.json_headers("v1")
    )
    for name in ("public_key", "name"):
        client.ask("POST", "/api/ssh-keys", 400, json={"name": "k", "public_key": "x", name: f"{password}\n{password}"})


# --- what fails -------------------------------------------------------------------------------------------------------


def test_an_agent_that_does_not_answer(client: Client, finder: Finder) -> None:
    freezes = "(sleep 0.3; kill -STOP $(pidof qemu-ga); sleep 9; kill -CONT $(pidof qemu-ga)) >/dev/null 2>&1 &"
    client.ask("POST", f"{VM}/agent/exec", 200, json={"command": freezes, "wait": 5})
    time.sleep(0.5)
    headers, file = client.key_headers("virtuozzo"), finder.plant("file unheard").encode()
    asked: list[tuple[str, dict[str, Any]]] = [
        *((path_of(face), {"json": Planted.make(finder, f"unheard {face}").body(face)}) for face in FACES),
        (f"{VM}/reset-password", {"json": {"password": finder.plant("password unheard", DECORATION)}}),
        (f"{FILES}/file-write?path=/root/unheard", {"data": file, "headers": headers}),
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda each: client.ask("POST", each[0], *ERRORS, **each[1]), asked))
    until(20, "the agent answers again", lambda: _runs(client), pause_s=0.5)


def _runs(client: Client) -> bool:
    return client.ask("POST", f"{VM}/agent/exec", 200, *ERRORS, json={"command": "true"}).status_code == 200


def test_a_guest_that_says_no(client: Client, finder: Finder) -> None:
    """What a guest writes is told to who asked for it, and to no log: its words may be anything."""
    out, program = finder.plant("output of a refusal"), "/usr/local/sbin/hostnamectl"
    plant = f"hostname {_halved(out)}; mkdir -p /usr/local/sbin; cat >{program}; chmod 755 {program}"
    body = {"command": plant, "stdin": "#!/bin/sh\n", "wait": 10}  # says that it has done it, and does nothing
    client.ask("POST", f"{VM}/agent/exec", 200, json=body)
    told = client.ask("POST", f"{VM}/hostname", 500, json={"hostname": "other"}, shows=("output",))
    assert f"still calls itself {out}" in told.text
    client.ask("POST", f"{VM}/agent/exec", 200, json={"command": f"rm {program}; hostname demo-1", "wait": 10})


def test_commands_that_are_killed_and_that_time_out(scene: Scene, client: Client, finder: Finder) -> None:
    killed = Planted.make(finder, "killed", "sleep 1000")
    timed_out = Planted.make(finder, "timed out", "sleep 1000")
    pid = pid_in(client.ask("POST", path_of("v1"), 200, json=killed.body("v1")))
    other = pid_in(client.ask("POST", path_of("v2"), 200, json=timed_out.body("v2", timeout=1)))
    with scene.store() as store:
        assert list(store.scan_iter("ownup:cmd:*:request")) == [], "what is to be run is kept no longer than needed"
    scene.search_processes()
    client.ask("DELETE", f"{VM}/agent/exec?pid={pid}", 200, shows=("output",))
    assert result(client, pid, shows=("output",))["state"] == "cancelled"
    assert result(client, other, shows=("output",))["state"] == "timed_out"


def test_a_worker_that_dies(scene: Scene, client: Client, finder: Finder) -> None:
    planted = Planted.make(finder, "while the worker dies", "sleep 3")
    pid = pid_in(client.ask("POST", path_of("v1"), 200, json=planted.body("v1")))
    scene.kill("worker")
    waiting = Planted.make(finder, "without a worker")
    password = finder.plant("password without a worker")
    for face in FACES:
        client.ask("POST", path_of(face), *ERRORS, json=waiting.body(face))
    client.ask("POST", f"{VM}/reset-password", *ERRORS, json={"password": password})
    scene.start_half("worker")
    planted.insist_on(result(client, pid, shows=("output",))["stdout"])
    until(60, "web and worker are ready", lambda: _is_ready(scene))


def test_a_web_half_that_dies_and_leaves_a_start_behind(scene: Scene, client: Client, finder: Finder) -> None:
    """Nobody is left who could end the command: what is to be run goes by itself."""
    scene.kill("worker")
    waiting = Planted.make(finder, "left behind")
    asking = threading.Thread(target=_ask_in_vain, args=(scene, client, waiting))
    asking.start()
    with scene.store() as store:
        until(10, "it is recorded", lambda: list(store.scan_iter("ownup:cmd:*:request")))
        scene.kill("web")
        asking.join()
        parts = [part for key, part in parts_in(store) if key.endswith(":request")]
        assert any(finder.holds("env left behind", part) for part in parts), "it was really there"
        scene.search_redis()
        until(10, "it is gone", lambda: not list(store.scan_iter("ownup:cmd:*:request")))
    for half in ("web", "worker"):
        scene.start_half(half)
    until(60, "web and worker are ready", lambda: _is_ready(scene))


def _ask_in_vain(scene: Scene, client: Client, waiting: Planted) -> None:
    with pytest.raises(requests.ConnectionError):
        requests.post(
            f"{scene.url}{path_of('v1')}", json=waiting.body("v1"), headers=client.key_headers("v1"), timeout=30
        )


def test_a_redis_that_dies(scene: Scene, client: Client, finder: Finder) -> None:
    client.wait_available()
    planted = Planted.make(finder, "while Redis dies", "sleep 1")
    pid = pid_in(client.ask("POST", path_of("v1"), 200, json=planted.body("v1")))
    scene.kill("redis")
    until(20, "the result is on disk", lambda: [name for name in scene.spooled() if name.endswith(".result")])
    assert {path.stat().st_mode & 0o777 for path in scene.spool_files()} == {0o600}
    scene.search_files(may_hold={"spool": ("output",)})
    for face in FACES:
        client.ask("POST", path_of(face), *ERRORS, json=planted.body(face))
    client.ask("POST", f"{VM}/reset-password", *ERRORS, json={"password": finder.plant("password without Redis")})
    scene.start_redis()
    planted.insist_on(result(client, pid, shows=("output",))["stdout"])
    until(10, "nothing is left on disk", lambda: not any(path.stat().st_size for path in scene.spool_files()))
    until(60, "web and worker are ready", lambda: _is_ready(scene))


def test_a_vm_that_is_off(client: Client, finder: Finder) -> None:
    client.wait_available()
    planted = Planted.make(finder, "off")
    client.power("stop")
    for face in FACES:
        client.ask("POST", path_of(face), *ERRORS, json=planted.body(face))
    client.ask("POST", f"{VM}/reset-password", *ERRORS, json={"password": finder.plant("password off")})
    client.ask("POST", f"{FILES}/file-write?path=/root/off", *ERRORS, data=finder.plant("file off").encode())


# --- at the end -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("client")
def test_every_key_in_redis_has_an_end_or_a_reason_to_stay(scene: Scene) -> None:
    with scene.store() as store:
        assert list(complaints(store)) == []


@pytest.mark.usefixtures("client")
def test_redis_still_holds_output_and_nothing_else(scene: Scene, finder: Finder) -> None:
    with scene.store() as store:
        kept = [part for key, part in parts_in(store) if key.endswith((":out", ":err", ":parts"))]
        assert any(finder.holds("output out v1", part) for part in kept), "it was really there"
        for key, part in parts_in(store):
            row = row_of(key)
            may_hold = {"output", "file"} & set(row.may_hold if row else ())
            finder.search(f"Redis key {key} at the end", part, may_hold=may_hold)


def test_output_goes_with_its_vm(scene: Scene, client: Client, finder: Finder) -> None:
    (scene.folder / "vms" / f"{VMID}.toml").unlink()
    until(20, "the VM is gone", lambda: client.ask("GET", f"{VM}/status", 200, 404).status_code == 404)
    with scene.store() as store:
        until(
            10,
            "its output is gone",
            lambda: not [*store.scan_iter("ownup:cmd:*:out"), *store.scan_iter("*:err"), *store.scan_iter("*:parts")],
        )
        for key, part in parts_in(store):
            finder.search(f"Redis key {key} without the VM", part)


@pytest.mark.usefixtures("client")
def test_processes_leave_no_core_files(scene: Scene) -> None:
    assert scene.core_file_limits() == {"0"}


@pytest.mark.usefixtures("client")
def test_the_logs_are_talkative_and_the_search_has_seen_them(scene: Scene, finder: Finder) -> None:
    """The search can be believed: each program has written lines, and what is planted in one would be found."""
    logs = scene.logs()
    assert all(event in logs for event in (b"event=request", b"event=command_ended", b'"event":"audit"'))
    canary = Canary.make("planted in the log")
    own = Finder()
    own.watch(canary)
    assert own.search("log", logs + canary.text.encode())
    assert len(finder) > 60
