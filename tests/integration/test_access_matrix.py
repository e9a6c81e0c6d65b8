"""Every route of every face against everyone who must be kept out: refused in the face's own way, without any effect.

The routes are the application's own: one without a row in ``tests.access_matrix`` fails.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.access import TENANT_SCOPES, Scope, issue_key
from app.core import clock, ids
from app.core.env import load
from app.core.records import (
    Command,
    CommandEnd,
    CommandRequest,
    CommandStart,
    CommandState,
    Job,
    JobKind,
    JobState,
    Snapshot,
)
from app.core.store import commands, disks, jobs, keys, snapshots
from app.core.store.disks import Disk
from app.core.store.snapshots import VmSnapshots
from app.factory import create_app
from app.settings import WebSettings
from tests.access_matrix import (
    COMMAND_ID,
    EXISTING,
    FOREIGN_VMID,
    JOB_ID,
    MISSING,
    OTHER_VMID,
    OWN_VMID,
    PID,
    PUBLIC,
    ROWS,
    SNAPSHOT,
    SSH_KEY,
    Row,
)
from tests.conftest import RedisServer
from tests.web import ACCOUNT, RUNNING_VM, Web

Who = Callable[["Scene", Row], str | None]
NOW = datetime(2026, 2, 10, tzinfo=UTC)
REFUSED = {400, 401, 403, 404, 405, 415, 429}


class Scene:
    """Two accounts with a VM each, one of which has a second VM and one of everything; no worker is alive."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.good = web.make_key()
        self._secrets: dict[str, str] = {}
        for vmid, account, name in (
            (OWN_VMID, ACCOUNT, "canary-vm"),
            (OTHER_VMID, ACCOUNT, "second-vm"),
            (FOREIGN_VMID, "other", "foreign-vm"),
        ):
            web.publish(replace(RUNNING_VM, vmid=vmid, account=account, name=name, cpus=vmid % 7 + 1), alive=False)
        self._fill()
        cloud = web.app.test_client()
        self.flavor_id = cloud.get("/v2.1/flavors", headers={"X-Auth-Token": self.good}).json["flavors"][0]["id"]
        self.ssh_key_id = web.get("/api/ssh-keys", self.good).json["data"]["ssh_keys"][0]["id"]
        self.api_key_id = self.store_key(scopes=("read:vm",), name="canary-key").split("_")[1]

    def _fill(self) -> None:
        store = self.web.store
        command = Command(
            id=COMMAND_ID, vmid=OWN_VMID, account=ACCOUNT, node="node-1", state=CommandState.QUEUED, created_at=NOW,
            deliver_by=NOW, key_id="k1",
        )  # fmt: skip
        store.run(commands.create(command, CommandRequest(line="true"), deliver_within_s=10))
        store.run(commands.start(COMMAND_ID, CommandStart(pid=PID, started_at=NOW)))
        end = CommandEnd(state=CommandState.EXITED, ended_at=NOW, exit_code=0, stdout=b"canary-output")
        store.run(commands.end(COMMAND_ID, end, ttl_s=3600))
        job = Job(
            id=JOB_ID, vmid=OWN_VMID, account=ACCOUNT, node="node-1", kind=JobKind.START, state=JobState.COMPLETED,
            created_at=NOW, start_by=NOW,
        )  # fmt: skip
        store.run(jobs.create(job, start_within_s=3600))
        store.run(
            snapshots.publish(
                VmSnapshots(
                    vmid=OWN_VMID, node="node-1", limit=5,
                    snapshots=(Snapshot(name=SNAPSHOT, taken_at=NOW, includes_memory=True),),
                )
            )
        )  # fmt: skip
        disk = Disk(
            name="canary-disk", removable=False, size_bytes=1, used_bytes=1, read_bytes=1, written_bytes=1, reads=1,
            writes=1,
        )  # fmt: skip
        store.run(disks.write(ACCOUNT, OWN_VMID, (disk,)))
        body = {"name": "canary-ssh-key", "public_key": SSH_KEY}
        assert self.web.post("/api/ssh-keys", self.good, json=body).status_code == 200

    def store_key(self, *, scopes: tuple[str, ...] = TENANT_SCOPES, account: str = ACCOUNT, **facts: Any) -> str:
        """Make an API key, each distinct one once."""
        wanted = repr((scopes, account, facts))
        if wanted not in self._secrets:
            key, self._secrets[wanted] = issue_key(account, "test", scopes, clock.now(), None)
            self.web.store.run(keys.save(replace(key, **facts)))
        return self._secrets[wanted]

    def values(self, row: Row, *, missing: bool = False) -> dict[str, str]:
        """Fill the variables of a path."""
        own = EXISTING | {
            "flavor_id": self.flavor_id,
            "api_key_id": self.api_key_id,
            "ssh_key_id": str(self.ssh_key_id),
            "v2_ssh_key_id": ids.ssh_key_id(self.ssh_key_id),
        }
        values = own | (MISSING if missing else {})
        return values | {name: values[meant] for name, meant in row.named.items()}

    def call(self, method: str, rule: str, row: Row, secret: str | None, *, missing: bool = False) -> TestResponse:
        """Call a route as its face is called."""
        values = self.values(row, missing=missing)
        path = re.sub(r"<(\w+)>", lambda match: values[match[1]], rule)
        in_cloud = rule.startswith(("/v2.1", "/identity"))
        headers = dict(row.headers)
        if secret is not None:
            headers["X-Auth-Token" if in_cloud else "X-API-Key"] = secret
        if headers.get("X-Subject-Token"):
            headers["X-Subject-Token"] = self.token
        body: dict[str, Any] = {"json": row.json} if row.json is not None else {}
        if row.raw is not None:
            body = {"data": row.raw, "content_type": "application/octet-stream"}
        client = self.web.app.test_client()
        return client.open(path + row.query, method=method, headers=headers, environ_base={"REMOTE_ADDR": HERE}, **body)

    @property
    def token(self) -> str:
        """A token of the good key."""
        user = {"name": "a", "domain": {"name": "Default"}, "password": self.good}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
        return str(self.web.app.test_client().post("/identity/v3/auth/tokens", json=body).headers["X-Subject-Token"])

    def contents(self) -> dict[bytes, bytes | None]:
        """Everything in Redis but what only tells of the request itself."""
        found = {name: self.web.client.dump(name) for name in self.web.client.scan_iter()}
        noise = (b"ownup:limit:", b"ownup:audit", b"ownup:token:", b"ownup:key:", b"LIMITS:")
        return {name: value for name, value in found.items() if not name.startswith(noise)}


HERE = "192.0.2.7"


@pytest.fixture(scope="module")
def scene(redis_server: RedisServer) -> Iterator[Scene]:
    with redis_server.client() as client:
        client.flushall()
    web = Web(redis_server.url, EXEC_START_TIMEOUT_S="0.1")
    yield Scene(web)
    web.close()


def routes() -> list[tuple[str, str]]:
    """List every route of the application, with each of its methods."""
    app = create_app(load(WebSettings, {}))
    return sorted(
        (method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods - {"HEAD", "OPTIONS"}
    )


CALLS = [(method, rule, row) for (method, rule), rows in ROWS.items() for row in rows]
NAMES = [f"{method} {rule}{row.query}" for method, rule, row in CALLS]
each_call = pytest.mark.parametrize(("method", "rule", "row"), CALLS, ids=NAMES)


def without_a_key(_scene: Scene, _row: Row) -> None:
    return None


def with_a_wrong_key(_scene: Scene, _row: Row) -> str:
    return f"ownup_{'0' * 16}_{'A' * 43}"


def with_a_wrong_secret(scene: Scene, _row: Row) -> str:
    return scene.good[:-43] + "A" * 43


def with_an_expired_key(scene: Scene, _row: Row) -> str:
    return scene.store_key(expires_at=NOW)


def with_a_revoked_key(scene: Scene, _row: Row) -> str:
    return scene.store_key(revoked_at=NOW)


def with_a_key_that_is_off(scene: Scene, _row: Row) -> str:
    return scene.store_key(is_active=False)


def from_a_wrong_address(scene: Scene, _row: Row) -> str:
    return scene.store_key(allowed_ips=("198.51.100.0/24", "2001:db8::/32"))


UNKNOWN: list[Who] = [
    without_a_key,
    with_a_wrong_key,
    with_a_wrong_secret,
    with_an_expired_key,
    with_a_revoked_key,
    with_a_key_that_is_off,
    from_a_wrong_address,
]


def test_every_route_has_a_row_or_is_public():
    assert set(routes()) == set(ROWS) | PUBLIC


def test_the_matrix_is_counted(capsys: pytest.CaptureFixture[str]):
    columns = len(UNKNOWN) + len(("wrong scope", "other account", "another VM", "limited to commands"))
    with capsys.disabled():
        print(
            f"\naccess matrix: {len(ROWS)} routes, {len(CALLS)} rows, {columns} columns, {len(CALLS) * columns} cells"
        )


@each_call
def test_who_is_let_in_isn_t_refused(scene: Scene, method: str, rule: str, row: Row):
    """So that a refusal below is due to who asks. No worker is alive: what would change a guest ends with 503."""
    if (method in {"DELETE", "PUT", "PATCH"} and row.about == "account") or rule.endswith("/roll"):
        return  # it would change what the other cells are about; tests of its own call it
    response = scene.call(method, rule, row, scene.good)
    assert response.status_code not in REFUSED, response.text


@each_call
@pytest.mark.parametrize("who", UNKNOWN, ids=lambda who: who.__name__)
def test_who_isn_t_known_gets_401(scene: Scene, method: str, rule: str, row: Row, who: Who):
    secret = who(scene, row)
    before = scene.contents()
    response = scene.call(method, rule, row, secret)
    assert response.status_code == 401, response.text
    assert "WWW-Authenticate" in response.headers
    assert_error_of_the_face(rule, response)
    assert_same_as_for_missing(scene, (method, rule, row), response, secret)
    assert scene.contents() == before


@each_call
def test_without_the_scope_it_is_403(scene: Scene, method: str, rule: str, row: Row):
    if row.scope is None:
        return
    poor = scene.store_key(scopes=tuple(scope for scope in TENANT_SCOPES if scope is not row.scope))
    before = scene.contents()
    response = scene.call(method, rule, row, poor)
    assert response.status_code == 403, response.text
    assert row.scope in response.text
    assert_error_of_the_face(rule, response)
    assert_same_as_for_missing(scene, (method, rule, row), response, poor)
    assert scene.contents() == before


def others(scene: Scene) -> dict[str, str]:
    return {
        "other account": scene.store_key(account="other"),
        "restricted to another VM": scene.store_key(allowed_vmids=(OTHER_VMID,)),
    }


@each_call
@pytest.mark.parametrize("who", ["other account", "restricted to another VM"])
def test_what_isn_t_ones_own_isn_t_there(scene: Scene, method: str, rule: str, row: Row, who: str):
    stranger = others(scene)[who]
    if row.about == "self" or (row.about.startswith("account") and who != "other account"):
        return
    before = scene.contents()
    response = scene.call(method, rule, row, stranger)
    if "list" in row.about:
        assert response.status_code == 200
        assert_list_is_of_others(response, who)
        return
    assert response.status_code == 404, response.text
    assert_error_of_the_face(rule, response)
    assert_same_as_for_missing(scene, (method, rule, row), response, stranger)
    assert scene.contents() == before


@each_call
def test_an_operator_gets_everywhere(scene: Scene, method: str, rule: str, row: Row):
    if row.about != "vm":
        return
    operator = scene.store_key(scopes=tuple(Scope), account="operations")
    response = scene.call(method, rule, row, operator)
    if "reset-ssh-keys" in rule:
        assert "SSH key" in response.text, "which are those of the operator's own account"
    else:
        assert response.status_code not in REFUSED, response.text


@each_call
def test_a_key_for_certain_commands_is_for_nothing_else_in_a_guest(scene: Scene, method: str, rule: str, row: Row):
    limited = scene.store_key(allowed_commands=("uptime",))
    before = scene.contents()
    response = scene.call(method, rule, row, limited)
    if row.scope is Scope.WRITE_VM:
        starts = row.json is not None or not row.commands_only
        assert response.status_code in ({403} if starts else {404, 503}), response.text
        assert "canary" not in response.text
        assert_error_of_the_face(rule, response)
        assert scene.contents() == before


@each_call
@pytest.mark.parametrize("limit", [{"allowed_commands": ("uptime",)}, {"allowed_vmids": (OTHER_VMID,)}], ids=str)
def test_a_limited_key_changes_no_ssh_key_of_the_account(
    scene: Scene, method: str, rule: str, row: Row, limit: dict[str, Any]
):
    if row.scope is not Scope.WRITE_ACCOUNT or "ssh" not in rule:
        return
    limited = scene.store_key(**limit)
    before = scene.contents()
    response = scene.call(method, rule, row, limited)
    assert response.status_code == 403, response.text
    assert_error_of_the_face(rule, response)
    assert scene.contents() == before


@pytest.mark.parametrize("who", [*UNKNOWN[1:], "another project"], ids=str)
def test_nobody_logs_in_who_isn_t_known(scene: Scene, who: Who | str):
    secret = scene.good if isinstance(who, str) else who(scene, Row(None))
    user = {"name": "a", "domain": {"name": "Default"}, "password": secret}
    auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
    if isinstance(who, str):
        auth["scope"] = {"project": {"id": "other"}}
    response = scene.web.app.test_client().post(
        "/identity/v3/auth/tokens", json={"auth": auth}, environ_base={"REMOTE_ADDR": HERE}
    )
    assert response.status_code == 401
    assert "X-Subject-Token" not in response.headers
    assert_error_of_the_face("/identity/v3/auth/tokens", response)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_token_of_another_key_isn_t_there(scene: Scene, method: str):
    rule = "/identity/v3/auth/tokens"
    (row,) = ROWS[method, rule]
    response = scene.call(method, rule, row, scene.store_key(name="second key of the account"))
    assert response.status_code == 404


def test_a_key_counts_from_its_addresses(scene: Scene):
    row, rule = Row(Scope.READ_VM), "/api/vm/<vmid>/status"
    for networks in ((f"{HERE}/32",), ("198.51.100.0/24", "192.0.2.0/24"), ("0.0.0.0/0",)):
        assert scene.call("GET", rule, row, scene.store_key(allowed_ips=networks)).status_code == 200
    headers = {"X-API-Key": scene.store_key(allowed_ips=("192.0.2.0/24",))}
    client = scene.web.app.test_client()
    for address, status in ((f"::ffff:{HERE}", 200), ("::1", 401), ("", 401), ("unix", 401)):
        answer = client.get("/api/vm", headers=headers, environ_base={"REMOTE_ADDR": address})
        assert answer.status_code == status, address


def test_a_key_that_lives_on_is_let_in_until_it_ends(scene: Scene):
    secret = scene.store_key(expires_at=clock.now() + timedelta(days=1))
    assert scene.call("GET", "/api/vm", Row(Scope.READ_VM), secret).status_code == 200


def assert_error_of_the_face(rule: str, response: TestResponse) -> None:
    body = json.loads(response.data)
    if rule.startswith("/api/v2"):
        assert response.mimetype == "application/problem+json"
        assert body["status"] == response.status_code
        assert body["requestId"] == response.headers["X-Request-Id"]
    elif rule.startswith("/api"):
        assert body["requestId"] == response.headers["X-Request-Id"]
        assert {"error", "message", "code", "timestamp"} <= set(body)
    else:
        ((_, error),) = body.items()
        assert error["code"] == response.status_code


def assert_same_as_for_missing(
    scene: Scene, call: tuple[str, str, Row], response: TestResponse, secret: str | None
) -> None:
    """Check that the answer is the one that a thing would have that doesn't exist: status, body and headers."""
    missing = scene.call(*call, secret, missing=True)
    assert told(response) == told(missing)


def told(response: TestResponse) -> tuple[int, Any, dict[str, str]]:
    """Tell an answer without what differs between any two."""
    body = json.loads(response.data)
    for name in ("timestamp", "requestId", "instance"):
        body.pop(name, None)
    headers = {
        name: re.sub(r"\d+", "#", value) if name == "Content-Length" else value
        for name, value in response.headers
        if "request-id" not in name.lower()
    }
    return response.status_code, body, headers


def assert_list_is_of_others(response: TestResponse, who: str) -> None:
    assert "canary-vm" not in response.text
    if who == "other account":
        assert "canary" not in response.text
        assert "second-vm" not in response.text
