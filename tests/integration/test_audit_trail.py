"""Which requests become entries of the audit trail, and what those say, in each face."""

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from app.access import Scope
from app.core import clock, ids
from app.core.env import load
from app.core.errors import SettingsError
from app.core.records import GuestCallState
from app.core.store import Store, guest_calls
from app.settings import WebSettings
from tests.audit_trail import assert_whole, entries
from tests.conftest import RedisServer
from tests.e2e.conftest import until
from tests.openstack import ACTION, SERVER, SERVERS, TOKENS, Cloud, by_password
from tests.web import EXEC, STATUS, PlayedWorker, Web, tells_pid

VPS = f"/api/v2/vps/{ids.vps_id(10000)}"
COMMANDS = f"{SERVER}/guest-agent/commands"
LINE = "echo hello"
LINE_SHA256 = hashlib.sha256(LINE.encode()).hexdigest()


@pytest.fixture
def worker(redis_url: str) -> Iterator[PlayedWorker]:
    def reply(store: Store, claim: guest_calls.Claim) -> None:
        store.run(guest_calls.end(claim.call.id, GuestCallState.DONE, clock.now(), value={}))

    with PlayedWorker(redis_url, tells_pid(4242), reply=reply) as played:
        yield played


def only(web: Web) -> dict[str, Any]:
    """Read the only entry there is, and forget it."""
    (entry,) = entries(web.client)
    web.client.delete("ownup:audit")
    assert not web.client.exists("ownup:audit:open")
    return entry


def what(web: Web) -> dict[str, Any]:
    """Read what the only entry says that was asked for, but for what all say."""
    told: dict[str, Any] = only(web)["what"]
    return {name: value for name, value in told.items() if name not in {"method", "route", "path", "vmid"}}


# --- what an entry says -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_an_entry_says_who_did_what_when_and_what_came_of_it(web: Web):
    before = clock.now().isoformat()
    answer = web.post(EXEC, json={"command": LINE})
    entry = only(web)
    assert before[:23] <= entry["when"] <= clock.now().isoformat()
    assert entry["requestId"] == answer.json["requestId"]
    assert entry["who"] == {"keyId": web.key.split("_")[1], "account": "acme", "address": "127.0.0.1"}
    assert entry["what"] == {
        "method": "POST",
        "route": "/api/vm/<vmid>/agent/exec",
        "path": {"vmid": "10000"},
        "vmid": 10000,
        "commandSha256": LINE_SHA256,
    }
    assert entry["outcome"] == {"status": 200, "error": None}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EXEC, {"command": LINE}),
        (f"{VPS}/agent/exec", {"command": LINE}),
    ],
)
def test_a_line_is_told_by_its_hash_in_both_hostup_faces(web: Web, path: str, body: Any):
    assert web.post(path, json=body).status_code == 200
    entry = only(web)
    assert entry["what"]["commandSha256"] == LINE_SHA256
    assert entry["what"]["vmid"] == 10000


@pytest.mark.usefixtures("worker")
def test_a_program_with_arguments_is_told_in_virtuozzos_face(web: Web):
    cloud = Cloud(web)
    web.client.delete("ownup:audit")
    body = {"command": {"type": "exec", "arguments": {"command": ["echo", "hello"]}}}
    assert cloud.post(COMMANDS, body).status_code == 200
    entry = only(web)
    assert entry["what"]["commandSha256"] == hashlib.sha256(b"echo\0hello").hexdigest()
    assert (entry["what"]["vmid"], entry["who"]["account"]) == (10000, "acme")
    assert entry["what"]["path"] == {"server_id": SERVER.rpartition("/")[2]}


@pytest.mark.usefixtures("worker")
def test_a_command_is_told_in_full_where_that_is_wanted(redis_url: str):
    web = Web(redis_url, AUDIT_COMMANDS="full")
    web.key = web.make_key()
    web.publish()
    web.post(EXEC, json={"command": LINE})
    assert what(web) == {"command": LINE, "commandSha256": LINE_SHA256}
    long = f": {'x' * 10_000}"
    web.post(EXEC, json={"command": long})
    told = what(web)
    assert told["command"] == long[:4096]
    assert told["commandSha256"] == hashlib.sha256(long.encode()).hexdigest()
    body = {"command": {"type": "exec", "arguments": {"command": ["echo", "a b"]}}}
    web.http.post(COMMANDS, json=body, headers={"X-Auth-Token": web.key})
    assert what(web)["command"] == "echo 'a b'"
    web.close()


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (STATUS, {"action": "shutdown"}, {"action": "shutdown", "force": False}),
        (f"{VPS}/actions/restart", {"force": True}, {"action": "restart", "force": True}),
        (ACTION, {"os-stop": None}, {"action": "shutdown", "force": True}),
        ("/api/vm/10000/snapshots", {"snapname": "before"}, {"snapshot": "before"}),
        (f"{VPS}/snapshots", {"name": "before"}, {"snapshot": "before"}),
    ],
)
def test_an_order_is_told(web: Web, path: str, body: Any, told: dict[str, Any]):
    web.http.post(path, json=body, headers={"X-API-Key": web.key, "X-Auth-Token": web.key})
    assert what(web) == told


def test_what_a_query_asks_for_is_told(web: Web):
    web.delete(f"{EXEC}?pid=17")
    assert what(web) == {"pid": 17}
    web.delete("/api/vm/10000/snapshots?action=rollback&snapname=before")
    assert what(web) == {"action": "rollback", "snapshot": "before"}


def test_a_file_is_told_by_its_path_and_reading_one_is_no_plain_read(web: Web):
    headers = {"X-Auth-Token": web.key}
    web.client.delete("ownup:node:node-1")  # nobody takes it
    for method in ("GET", "POST"):
        route = "file-read" if method == "GET" else "file-write"
        web.http.open(f"{SERVER}/guest-agent/{route}?path=/etc/shadow", method=method, headers=headers, data=b"secret")
        entry = only(web)
        assert entry["what"]["file"] == "/etc/shadow"
        assert entry["what"]["method"] == method
        assert entry["outcome"] == {"status": 503, "error": "node_unavailable"}


def test_a_login_is_told_and_who_it_was(web: Web):
    assert web.http.post(TOKENS, json=by_password(web.key)).status_code == 201
    entry = only(web)
    assert entry["who"]["keyId"] == web.key.split("_")[1]
    assert entry["what"]["login"] == "password"
    wrong = f"{web.key[:-1]}!"
    assert web.http.post(TOKENS, json=by_password(wrong)).status_code == 401
    entry = only(web)
    assert entry["outcome"] == {"status": 401, "error": "unauthorized"}
    assert entry["who"] == {
        "keyId": None, "account": None, "address": "127.0.0.1", "claimedKeyId": web.key.split("_")[1],
    }  # fmt: skip


# --- which requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/vm", STATUS, EXEC, f"{EXEC}?pid=1", VPS, SERVERS, "/api/vm/10001/status", "/x"])
def test_a_plain_read_is_no_entry(web: Web, path: str):
    web.http.get(path, headers={"X-API-Key": web.key, "X-Auth-Token": web.key})
    web.http.head(path, headers={"X-API-Key": web.key, "X-Auth-Token": web.key})
    assert entries(web.client) == []


def test_a_plain_read_is_one_where_that_is_wanted(redis_url: str):
    web = Web(redis_url, AUDIT_READS="on")
    web.key = web.make_key()
    web.publish()
    web.get("/api/vm/10001/status")
    assert only(web)["outcome"] == {"status": 404, "error": "not_found"}
    web.get(VPS)
    assert only(web)["what"]["vmid"] == 10000
    for public in ("/healthz", "/docs", "/openapi/v1.json"):
        web.http.get(public)
    assert entries(web.client) == []
    web.close()


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        (EXEC, {"command": "rm -rf /"}, 400, "command_blocked"),
        (EXEC, {"command": ""}, 400, "invalid_request"),
        (EXEC, "no object", 400, "invalid_request"),
        ("/api/vm/10001/agent/exec", {"command": LINE}, 404, "not_found"),
        ("/api/vm/seven/status", {"action": "stop"}, 400, "invalid_request"),
    ],
)
def test_a_request_that_went_wrong_is_an_entry_like_any(web: Web, path: str, body: Any, status: int, error: str):
    web.post(path, json=body)
    assert only(web)["outcome"] == {"status": status, "error": error}


def test_errors_that_flask_finds_are_told_in_a_word(web: Web):
    web.post(EXEC, data=b"command=id", content_type="text/plain")
    assert only(web)["outcome"] == {"status": 415, "error": "unsupported_media_type"}


@pytest.mark.parametrize("path", ["/api/vm", VPS, SERVERS])
def test_a_key_that_does_not_count_is_an_entry_whatever_it_asks_for(web: Web, path: str):
    wrong = f"ownup_0123456789abcdef_{'x' * 43}"
    header = "X-Auth-Token" if path == SERVERS else "X-API-Key"
    assert web.http.get(path, headers={header: wrong}).status_code == 401
    entry = only(web)
    assert entry["outcome"] == {"status": 401, "error": "unauthorized"}
    assert entry["who"] == {
        "keyId": None, "account": None, "address": "127.0.0.1", "claimedKeyId": "0123456789abcdef",
    }  # fmt: skip
    assert "x" * 43 not in json.dumps(entry)


def test_a_scope_that_is_missing_is_an_entry(web: Web):
    key = web.make_key(Scope.READ_VM)
    assert web.get(f"{EXEC}?pid=1", key).status_code == 403
    entry = only(web)
    assert entry["outcome"] == {"status": 403, "error": "forbidden"}
    assert entry["who"]["keyId"] == key.split("_")[1]


def test_without_a_key_there_is_no_entry(web: Web):
    assert web.http.post(EXEC, json={"command": LINE}).status_code == 401
    assert web.http.get("/api/vm").status_code == 401
    assert web.http.options(EXEC).status_code == 200
    assert web.http.post("/api/nothing", json={}, headers={"X-API-Key": web.key}).status_code == 404
    assert entries(web.client) == []


def test_a_request_that_came_too_often_is_no_entry(redis_url: str):
    web = Web(redis_url, RATE_LIMIT_POWER="2/hour")
    web.key = web.make_key()
    web.publish()
    statuses = [web.post(STATUS, json={"action": "stop"}).status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    assert len(entries(web.client)) == 2
    web.close()


# --- no secret --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_no_secret_is_in_the_trail_or_its_log(web: Web, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="ownup.audit")
    secret = "Hunter2IsPlanted"
    body = {"command": f"echo {secret}", "stdin": secret, "env": {"TOKEN": secret}, "timeout": 5}
    assert web.post(EXEC, json=body).status_code == 200
    assert web.post("/api/vm/10000/reset-password", json={"password": f"{secret}!"}).status_code == 200
    web.post("/api/vm/10000/reset-password", json={"password": 7, secret: 1})
    web.get("/api/vm", f"ownup_0123456789abcdef_{secret}")
    assert web.http.post(TOKENS, json=by_password(f"{secret}")).status_code == 401
    trail = json.dumps(entries(web.client))
    logged = "".join(vars(record)["entry"] for record in caplog.records if record.name == "ownup.audit")
    assert len(entries(web.client)) == 5
    for text in (trail, logged):
        assert "reset-password" in text
        assert secret not in text
        assert web.key.split("_", 2)[2] not in text


# --- nothing without an entry -----------------------------------------------------------------------------------------


def test_work_is_handed_over_together_with_what_is_known_of_its_entry(web: Web, redis_url: str):
    asking = threading.Thread(target=lambda: web.post(EXEC, json={"command": LINE}))
    asking.start()
    until(5, "it is handed over", lambda: web.client.llen("rq:queue:node-node-1"))
    (noted,) = (json.loads(text) for text in web.client.hvals("ownup:audit:open"))
    assert entries(web.client) == []
    with PlayedWorker(redis_url, tells_pid(4242)):
        asking.join()
    entry = only(web)
    assert noted == {name: entry[name] for name in ("when", "requestId", "who", "what")}


def test_a_guest_that_is_only_asked_leaves_no_intent(web: Web, worker: PlayedWorker):
    seen: list[int] = []

    def look(store: Store, claim: guest_calls.Claim) -> None:
        seen.append(web.client.hlen("ownup:audit:open"))
        store.run(guest_calls.end(claim.call.id, GuestCallState.DONE, clock.now(), value={"hostname": "web-1"}))

    worker._reply = look
    assert web.get(f"{VPS}/hostname").status_code == 200
    assert seen == [0]


def test_a_request_while_redis_is_away_is_an_entry_when_it_is_back(own_redis: RedisServer):
    web = Web(own_redis.url)
    web.key = web.make_key()
    web.publish()
    process = own_redis._process
    assert process is not None
    process.kill()
    process.wait()
    away = web.post(EXEC, json={"command": LINE})
    assert away.status_code == 503
    assert web.get("/api/vm").status_code == 503
    own_redis.start()
    until(5, "the entry is there", lambda: web.client.exists("ownup:audit"))
    entry = only(web)
    assert entry["requestId"] == away.json["requestId"]
    assert entry["outcome"] == {"status": 503, "error": "store_unavailable"}
    assert entry["who"]["claimedKeyId"] == web.key.split("_")[1]
    web.close()


def test_a_trail_of_all_faces_is_whole(web: Web, redis_url: str):
    cloud = Cloud(web)
    web.post(STATUS, json={"action": "stop"})
    web.post(f"{VPS}/actions/stop")
    cloud.post(ACTION, {"os-stop": None})
    cloud.revoke(cloud.token)
    assert assert_whole(redis_url) == "5 entries, 1 to 5: the chain is whole"


@pytest.mark.parametrize(("name", "words"), [("AUDIT_COMMANDS", "hash or full"), ("AUDIT_READS", "off or on")])
def test_settings_are_one_of_their_words(name: str, words: str):
    with pytest.raises(SettingsError, match=f"{name}='loud': must be {words}"):
        load(WebSettings, {name: "loud"})
