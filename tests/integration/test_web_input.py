"""Every row of bad input gets its 4xx in the five-field error body, with details that name the field."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from werkzeug.exceptions import ServiceUnavailable

from app.access import TENANT_SCOPES, Scope
from app.api.v1.errors import FACE
from app.core import clock, ids
from app.core.records import ApiKey, CommandState
from app.core.store import keys
from tests.web import EXEC, STATUS, STOPPED_VM, PlayedWorker, Web, assert_refused, ends_with, tells_pid

BAD_INTEGERS = ["0", "-1", "abc", str(2**63), "+1", "%201", "1.0", "1e3", "0x10", "\u0661", "1" * 400]


ROUTES = [
    ("GET", "/api/vm"),
    ("GET", EXEC),
    ("GET", f"{EXEC}?pid=1"),
    ("POST", EXEC),
    ("DELETE", f"{EXEC}?pid=1"),
    ("GET", STATUS),
    ("POST", STATUS),
    ("GET", "/api/jobs/start-10000-1"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
class TestKeys:
    def test_no_key_is_401(self, web: Web, method: str, path: str):
        response = web.http.open(path, method=method)
        assert_refused(response, 401, "UNAUTHORIZED")
        assert response.headers["WWW-Authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "key",
        ["", "nonsense", "ownup_0123456789abcdef_" + "a" * 43, "ownup_0123456789abcdef_", "ownup_ä_b", "k" * 8000],
    )
    def test_unknown_key_is_401(self, web: Web, method: str, path: str, key: str):
        response = web.http.open(path, method=method, headers={"X-API-Key": key})
        assert_refused(response, 401, "UNAUTHORIZED")

    def test_right_id_with_wrong_secret_is_401(self, web: Web, method: str, path: str):
        wrong = web.key[:-1] + ("a" if web.key[-1] != "a" else "b")
        assert_refused(web.http.open(path, method=method, headers={"X-API-Key": wrong}), 401, "UNAUTHORIZED")

    def test_two_different_keys_are_401(self, web: Web, method: str, path: str):
        headers = {"X-API-Key": web.key, "Authorization": f"Bearer {web.make_key()}"}
        assert_refused(web.http.open(path, method=method, headers=headers), 401, "UNAUTHORIZED")

    def test_basic_authentication_is_401(self, web: Web, method: str, path: str):
        headers = {"Authorization": "Basic " + web.key}
        assert_refused(web.http.open(path, method=method, headers=headers), 401, "UNAUTHORIZED")

    def test_expired_key_is_401(self, web: Web, method: str, path: str):
        expired = web.make_key(expires_at=clock.now() - timedelta(seconds=1))
        message = assert_refused(
            web.http.open(path, method=method, headers={"X-API-Key": expired}), 401, "UNAUTHORIZED"
        )
        assert "expired" in message

    def test_revoked_key_is_401(self, web: Web, method: str, path: str):
        key = web.store.run(keys.find(web.key.split("_")[1]))
        assert isinstance(key, ApiKey)
        web.store.run(keys.save(replace(key, revoked_at=clock.now())))
        message = assert_refused(
            web.http.open(path, method=method, headers={"X-API-Key": web.key}), 401, "UNAUTHORIZED"
        )
        assert "revoked" in message

    def test_key_that_is_revoked_after_use_dies_within_two_seconds(self, web: Web, method: str, path: str):
        def ask() -> int:
            return web.http.open(path, method=method, headers={"X-API-Key": web.key}).status_code

        assert ask() != 401
        key = web.store.run(keys.find(web.key.split("_")[1]))
        web.store.run(keys.save(replace(key, revoked_at=clock.now())))
        deadline_s = time.monotonic() + 2
        while ask() != 401:
            assert time.monotonic() < deadline_s

    def test_key_without_scopes_that_count_is_403(self, web: Web, method: str, path: str):
        needed = {
            ("POST", EXEC): Scope.WRITE_VM,
            ("DELETE", f"{EXEC}?pid=1"): Scope.WRITE_VM,
            ("GET", f"{EXEC}?pid=1"): Scope.WRITE_VM,
            ("POST", STATUS): Scope.POWER_VM,
        }.get((method, path), Scope.READ_VM)
        poor = web.make_key(*(scope for scope in TENANT_SCOPES if scope is not needed))
        message = assert_refused(web.http.open(path, method=method, headers={"X-API-Key": poor}), 403, "FORBIDDEN")
        assert needed in message


def test_both_headers_with_the_same_key_are_fine(web: Web):
    headers = {"X-API-Key": web.key, "Authorization": f"Bearer {web.key}"}
    assert web.http.get("/api/vm", headers=headers).status_code == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_bearer_is_as_good_as_x_api_key(web: Web, scheme: str):
    assert web.http.get("/api/vm", headers={"Authorization": f"{scheme} {web.key}"}).status_code == 200


def test_key_that_expires_later_still_counts(web: Web):
    assert web.get("/api/vm", web.make_key(expires_at=datetime(2200, 1, 1, tzinfo=UTC))).status_code == 200


def test_foreign_vm_and_unknown_vm_look_the_same(web: Web):
    stranger = web.make_key(account="other")
    for method, path, body in (
        ("GET", STATUS, None),
        ("POST", STATUS, {"action": "start"}),
        ("GET", EXEC, None),
        ("GET", f"{EXEC}?pid=1", None),
        ("POST", EXEC, {"command": "true"}),
        ("DELETE", f"{EXEC}?pid=1", None),
    ):
        foreign = web.http.open(path, method=method, json=body, headers={"X-API-Key": stranger})
        unknown = web.http.open(
            path.replace("10000", "10001"), method=method, json=body, headers={"X-API-Key": stranger}
        )
        messages = [assert_refused(response, 404, "NOT_FOUND") for response in (foreign, unknown)]
        assert messages == ["VM not found", "VM not found"]


def test_foreign_job_is_404(web: Web):
    job_id = web.post(STATUS, json={"action": "stop"}).json["data"]["jobId"]
    assert web.get(f"/api/jobs/{job_id}").status_code == 200
    assert (
        assert_refused(web.get(f"/api/jobs/{job_id}", web.make_key(account="other")), 404, "NOT_FOUND")
        == "Job not found"
    )
    assert_refused(web.get("/api/jobs/start-10000-1"), 404, "NOT_FOUND")


@pytest.mark.parametrize("vmid", BAD_INTEGERS)
def test_bad_vmid_is_400(web: Web, vmid: str):
    for suffix in ("agent/exec", "status"):
        assert_refused(web.get(f"/api/vm/{vmid}/{suffix}"), 400, "BAD_REQUEST", "vmid")
        assert_refused(web.post(f"/api/vm/{vmid}/{suffix}", json={}), 400, "BAD_REQUEST", "vmid")


def test_greatest_vmid_is_merely_unknown(web: Web):
    assert_refused(web.get(f"/api/vm/{2**63 - 1}/status"), 404, "NOT_FOUND")


@pytest.mark.parametrize("pid", [*BAD_INTEGERS, "", "1&pid=2"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_bad_pid_is_400(web: Web, method: str, pid: str):
    path = f"{EXEC}?pid={pid}".replace("+", "%2B")
    assert_refused(web.http.open(path, method=method, headers={"X-API-Key": web.key}), 400, "BAD_REQUEST", "pid")


def test_kill_needs_a_pid(web: Web):
    assert_refused(web.delete(EXEC), 400, "BAD_REQUEST", "pid")


@pytest.mark.parametrize("pid", [1, 2**63 - 1])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_pid_is_404(web: Web, method: str, pid: int):
    response = web.http.open(f"{EXEC}?pid={pid}", method=method, headers={"X-API-Key": web.key})
    assert assert_refused(response, 404, "NOT_FOUND") == "Command not found"


def test_bad_encoding_is_400(web: Web):
    assert_refused(web.get(f"{EXEC}?pid=1&encoding=utf-16"), 400, "BAD_REQUEST", "encoding")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"command": ""},
        {"command": "  \t\n"},
        {"command": None},
        {"command": 7},
        {"command": True},
        {"command": ["ls"]},
        {"command": {"a": 1}},
        {"command": "a\0b"},
        {"command": "a" * 65_537},
        {"command": "half a \ud83d pair"},
    ],
)
def test_bad_command_is_400(web: Web, body: object):
    assert_refused(web.post(EXEC, json=body), 400, "BAD_REQUEST", "command")


def test_no_body_names_the_missing_field(web: Web):
    assert_refused(web.post(EXEC), 400, "BAD_REQUEST", "command")
    assert_refused(web.post(EXEC, content_type="application/json"), 400, "BAD_REQUEST", "command")
    assert_refused(web.post(STATUS), 400, "BAD_REQUEST", "action")


@pytest.mark.parametrize("name", ["timeout_s", "", "Command", "\ud800", "a\nb"])
def test_unknown_field_is_named(web: Web, name: str):
    response = web.post(EXEC, json={"command": "true", name: 1})
    assert_refused(response, 400, "BAD_REQUEST", name.replace("\ud800", "?"))


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"command=ls",
        b"[]",
        b'["command"]',
        b'"command"',
        b"null",
        b"7",
        b'{"command": NaN}',
        b'{"command": -Infinity}',
        b'{"command": "a", "command": "b"}',
        b'{"command": "a"} {}',
        b"\xef\xbb\xbf{}",
        b'{"command": "\xff"}',
        '{"command": "ls"}'.encode("utf-16"),
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"command": ' + b"9" * 5000 + b"}",
    ],
    ids=range(17),
)
def test_body_that_is_no_json_object_is_400(web: Web, body: bytes):
    assert_refused(web.post(EXEC, data=body, content_type="application/json"), 400, "BAD_REQUEST", "body")


def test_body_of_2_mb_is_413(web: Web):
    response = web.post(EXEC, json={"command": "a" * 2_000_000})
    assert_refused(response, 413, "PAYLOAD_TOO_LARGE", "body")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", "x"]
)
def test_wrong_content_type_is_415(web: Web, content_type: str):
    response = web.post(EXEC, data='{"command": "true"}', content_type=content_type)
    assert_refused(response, 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "reboot"}, "action"),
        ({"action": "START"}, "action"),
        ({"action": None}, "action"),
        ({"action": ["start"]}, "action"),
        ({"action": 1}, "action"),
        ({"force": True}, "action"),
        ({"action": "stop", "force": "yes"}, "force"),
        ({"action": "stop", "force": 1}, "force"),
        ({"action": "stop", "force": None}, "force"),
        ({"action": "stop", "hard": True}, "hard"),
    ],
)
def test_bad_power_request_is_400(web: Web, body: object, field: str):
    assert_refused(web.post(STATUS, json=body), 400, "BAD_REQUEST", field)
    assert web.client.keys("rq:*") == []


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("PUT", EXEC, {"GET", "POST", "DELETE"}),
        ("DELETE", STATUS, {"GET", "POST"}),
        ("POST", "/api/vm", {"GET"}),
        ("PATCH", "/api/jobs/1", {"GET"}),
    ],
)
def test_wrong_method_is_405_and_names_the_right_ones(web: Web, method: str, path: str, right: set[str]):
    response = web.http.open(path, method=method, headers={"X-API-Key": web.key})
    assert_refused(response, 405, "METHOD_NOT_ALLOWED", "method")
    assert set(response.headers["Allow"].split(", ")) == right | {"HEAD", "OPTIONS"}


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/nothing", "/api//vm", "/api/vm/", "/api/vm//status", "/nothing", "/api/v9/vps"]
)
def test_unknown_path_is_404(web: Web, path: str):
    assert_refused(web.get(path), 404, "NOT_FOUND", "path")


def test_any_other_http_error_has_the_face_s_body(web: Web):
    with web.app.test_request_context("/api/vm"):
        response = FACE.render(ServiceUnavailable("slow down", retry_after=7))
    body = json.loads(response.data)
    assert (response.status_code, body["code"], body["message"]) == (503, "SERVICE_UNAVAILABLE", "slow down")
    assert response.headers["Retry-After"] == "7"


def test_stopped_vm_takes_no_commands(web: Web):
    web.publish(STOPPED_VM)
    message = assert_refused(web.post(EXEC, json={"command": "true"}), 400, "BAD_REQUEST")
    assert message == "VM must be running to execute commands"


@pytest.mark.parametrize("line", ["rm -rf /", "mkfs.ext4 /dev/sda", "dd if=/dev/zero of=/dev/vda", ":(){ :|:& };:"])
def test_catastrophic_command_is_blocked(web: Web, line: str):
    message = assert_refused(web.post(EXEC, json={"command": line}), 400, "BAD_REQUEST", "command")
    assert message == "This command has been blocked for safety reasons"


def test_order_of_checks_is_vm_then_guard_then_power_state_then_node(web: Web):
    dangerous, harmless = {"command": "rm -rf /"}, {"command": "true"}
    assert web.post("/api/vm/5/agent/exec", json=dangerous).status_code == 404
    web.publish(STOPPED_VM)
    assert "blocked" in web.post(EXEC, json=dangerous).json["message"]
    assert "must be running" in web.post(EXEC, json=harmless).json["message"]
    web.client.delete("ownup:node:node-1")
    assert web.post(EXEC, json=harmless).status_code == 503


def test_what_a_shell_is_given_as_its_script_is_read_too(web: Web):
    script = {"command": "sh -e", "stdin": "cd /\nrm -rf *\n"}
    assert "blocked" in web.post(EXEC, json=script).json["message"]
    cloud = {"command": {"type": "exec", "arguments": {"command": ["bash"], "stdin": "rm -rf /"}}}
    path = f"/v2.1/servers/{ids.openstack_id(10000)}/guest-agent/commands"
    refused = web.http.post(path, headers={"X-Auth-Token": web.key}, json=cloud)
    assert (refused.status_code, "blocked" in refused.text) == (400, True)


@pytest.mark.parametrize("path", [EXEC, STATUS])
def test_node_without_worker_is_503(web: Web, path: str):
    web.client.delete("ownup:node:node-1")
    body = {"command": "true"} if path == EXEC else {"action": "start"}
    message = assert_refused(web.post(path, json=body), 503, "SERVICE_UNAVAILABLE")
    assert "node-1" in message
    assert web.client.keys("rq:*") == []


def test_silent_agent_is_500_with_the_reason(web: Web, redis_url: str):
    with PlayedWorker(redis_url, ends_with(CommandState.UNKNOWN, "no reply within 5 s")):
        response = web.post(EXEC, json={"command": "true"})
    message = assert_refused(response, 500, "INTERNAL_ERROR", "command")
    assert message == "Failed to execute command - no PID returned"
    assert response.json["details"][0]["message"] == "no reply within 5 s"


def test_refusing_agent_is_500_with_the_reason(web: Web, redis_url: str):
    with PlayedWorker(redis_url, ends_with(CommandState.FAILED, "guest-exec is disabled")):
        response = web.post(EXEC, json={"command": "true"})
    assert assert_refused(response, 500, "INTERNAL_ERROR", "command") == "Failed to execute command - no PID returned"
    assert response.json["details"][0]["message"] == "guest-exec is disabled"


def test_line_of_65536_characters_is_taken_whole(web: Web, redis_url: str):
    line = "ä€😀x" * (65_536 // 4)
    with PlayedWorker(redis_url, tells_pid(7)):
        response = web.post(EXEC, json={"command": line})
    assert response.status_code == 200
    assert response.json["data"]["command"] == line


def test_other_json_content_types_are_taken(web: Web, redis_url: str):
    with PlayedWorker(redis_url, tells_pid(7)):
        response = web.post(EXEC, data='{"command":"true"}', content_type="application/json; charset=utf-8")
    assert response.status_code == 200
