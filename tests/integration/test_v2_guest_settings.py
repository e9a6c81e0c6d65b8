"""v2: the hostname is changed, SSH keys are kept, told and put into guests; each failure is a problem document."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.access import Scope
from app.core import clock, ids
from app.core.records import CommandState, GuestAction, GuestCallState
from app.core.store import Store, guest_calls
from tests.integration.test_web_guest_settings import KEY, OTHER_KEY, exits, playing, says, stays_silent
from tests.web import RUNNING_VM, STOPPED_VM, Web, ends_with

VPS = f"/api/v2/vps/{ids.vps_id(10000)}"
KEYS = "/api/v2/ssh-keys"
SHA256 = "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"
ALLOWED = {"allowed": True, "reason": None, "code": None}


def send(web: Web, method: str, path: str, key: str | None = None, **body: object) -> TestResponse:
    return web.app.test_client().open(
        path, method=method, json=body or None, headers={"Authorization": f"Bearer {key or web.key}"}
    )


def keep(web: Web, *lines: str) -> list[str]:
    return [send(web, "POST", KEYS, name=f"k{n}", publicKey=line).json["id"] for n, line in enumerate(lines)]


def assert_problem(response: TestResponse, status: int, code: str) -> str:
    assert (response.status_code, response.json["code"]) == (status, code), response.json
    assert response.content_type == "application/problem+json"
    return str(response.json["detail"])


class TestHostname:
    def test_it_is_set_and_what_is_true_of_it_is_told(self, web: Web, redis_url: str):
        with playing(redis_url, stays_silent, exits(0, b"app-01.example.com\n")):
            response = send(web, "PUT", f"{VPS}/hostname", hostname="APP-01.example.com.")
        assert response.status_code == 200
        body = response.json
        assert (body["hostname"], body["hostnameNormalized"]) == ("app-01.example.com", True)
        assert (body["serviceRecordSynced"], body["reverseDnsProtection"]) == (False, None)
        assert body["actions"] == {"canChange": ALLOWED}
        assert body["validationRules"]["maxLengthChars"] == 253

    @pytest.mark.parametrize(
        ("answer", "status", "code"),
        [
            (exits(1, stderr=b"planted words"), 502, "guest_call_refused"),
            (ends_with(CommandState.UNKNOWN, "planted words"), 502, "guest_call_unknown"),
            (ends_with(CommandState.EXPIRED, "planted words"), 504, "guest_call_expired"),
        ],
    )
    def test_failure_tells_the_guests_words(
        self, web: Web, redis_url: str, answer: Callable[..., None], status: int, code: str
    ):
        with playing(redis_url, stays_silent, answer):
            response = send(web, "PUT", f"{VPS}/hostname", hostname="a")
        detail = assert_problem(response, status, code)
        assert detail.startswith("Failed to change hostname: ")
        assert "planted words" in detail

    @pytest.mark.parametrize("body", [{"hostname": "a b"}, {"hostname": 1}, {"hostname": "a", "more": 1}])
    def test_wrong_body_is_pointed_at(self, web: Web, body: dict[str, object]):
        response = send(web, "PUT", f"{VPS}/hostname", **body)
        assert_problem(response, 400, "invalid_request")
        assert response.json["errors"][0]["pointer"] in {"/hostname", "/more"}

    def test_vps_must_run(self, web: Web):
        web.publish(STOPPED_VM)
        detail = assert_problem(send(web, "PUT", f"{VPS}/hostname", hostname="a"), 409, "vps_not_ready")
        assert detail == "VM must be running to change hostname"


class TestAccountKeys:
    def test_key_that_is_added_is_told_in_hostups_shape(self, web: Web):
        added = send(web, "POST", KEYS, name="laptop", publicKey=f"{KEY}\n")
        assert added.status_code == 201
        assert added.json.pop("createdAt")[:4] == str(clock.now().year)
        key = {
            "id": ids.ssh_key_id(1),
            "displayId": "1",
            "name": "laptop",
            "publicKey": KEY,
            "fingerprint": SHA256,
            "keyType": "ed25519",
            "lastUsedAt": None,
            "actions": {"canRename": ALLOWED, "canDelete": ALLOWED},
        }
        assert {name: added.json[name] for name in key} == key
        page = send(web, "GET", KEYS).json
        assert (page["data"], page["nextCursor"]) == ([added.json], None)

    def test_pages_follow_one_another_and_miss_nothing(self, web: Web):
        wanted = keep(web, KEY, OTHER_KEY)
        seen, cursor = [], ""
        while cursor is not None:
            page = send(web, "GET", f"{KEYS}?limit=1" + (f"&cursor={cursor}" if cursor else "")).json
            seen += [key["id"] for key in page["data"]]
            cursor = page["nextCursor"]
        assert seen == wanted

    def test_key_is_renamed_and_removed_by_its_id(self, web: Web):
        (key_id,) = keep(web, KEY)
        renamed = send(web, "PATCH", f"{KEYS}/{key_id}", name="other")
        assert (renamed.status_code, renamed.json["name"], renamed.json["id"]) == (200, "other", key_id)
        removed = send(web, "DELETE", f"{KEYS}/{key_id}")
        assert (removed.status_code, removed.data) == (204, b"")
        assert_problem(send(web, "DELETE", f"{KEYS}/{key_id}"), 404, "ssh_key_not_found")
        assert_problem(send(web, "PATCH", f"{KEYS}/{key_id}", name="a"), 404, "ssh_key_not_found")

    def test_keys_are_those_of_v1(self, web: Web):
        (key_id,) = keep(web, KEY)
        (key,) = web.get("/api/ssh-keys").json["data"]["ssh_keys"]
        assert (ids.ssh_key_id(key["id"]), key["key"]) == (key_id, KEY)

    def test_number_of_v1_is_no_id_here(self, web: Web):
        keep(web, KEY)
        assert_problem(send(web, "DELETE", f"{KEYS}/1"), 404, "ssh_key_not_found")

    def test_equal_key_is_refused(self, web: Web):
        keep(web, KEY)
        refused = send(web, "POST", KEYS, name="again", publicKey=KEY)
        detail = assert_problem(refused, refused.status_code, "ssh_key_refused")
        assert refused.status_code in {400, 409}
        assert "has this SSH key already" in detail

    def test_keys_of_another_account_are_not_there(self, web: Web):
        (key_id,) = keep(web, KEY)
        other = web.make_key(account="other")
        assert send(web, "GET", KEYS, other).json["data"] == []
        assert_problem(send(web, "DELETE", f"{KEYS}/{key_id}", other), 404, "ssh_key_not_found")

    def test_scopes(self, web: Web):
        (key_id,) = keep(web, KEY)
        reader, writer = web.make_key(Scope.READ_VM), web.make_key(Scope.WRITE_ACCOUNT)
        for method, path, body in (
            ("POST", KEYS, {"name": "a", "publicKey": OTHER_KEY}),
            ("PATCH", f"{KEYS}/{key_id}", {"name": "a"}),
            ("DELETE", f"{KEYS}/{key_id}", {}),
        ):
            assert_problem(send(web, method, path, reader, **body), 403, "forbidden")
            assert send(web, method, path, writer, **body).status_code < 300
        assert_problem(send(web, "GET", KEYS, writer), 403, "forbidden")


class TestGuestKeys:
    def test_keys_in_the_guest_are_told_with_what_is_known_of_them(self, web: Web, redis_url: str):
        (key_id,) = keep(web, KEY)
        lines = [KEY.replace("ann@laptop", "other"), OTHER_KEY, 'command="x" ssh-rsa AAAA']
        with playing(redis_url, says(GuestCallState.DONE, value={"keys": lines})):
            entries = send(web, "GET", f"{VPS}/ssh-keys").json["sshKeys"]
        assert [entry["publicKey"] for entry in entries] == lines
        assert [(entry["id"], entry["name"], entry["keyType"]) for entry in entries] == [
            (key_id, "k0", "ed25519"),
            (None, "bob", "ed25519"),
            (None, None, "unknown"),
        ]
        assert [entry["fingerprint"] is not None for entry in entries] == [True, True, False]
        assert entries[0]["fingerprint"] == SHA256

    def test_keys_are_replaced_by_their_ids(self, web: Web, redis_url: str):
        def reply(store: Store, claim: guest_calls.Claim) -> None:
            told.append(claim)
            says(GuestCallState.DONE, value={})(store, claim)

        told: list[guest_calls.Claim] = []
        first, second = keep(web, KEY, OTHER_KEY)
        with playing(redis_url, reply):
            response = send(web, "POST", f"{VPS}/actions/reset-ssh-keys", keyIds=[second, first])
        assert response.status_code == 200
        assert [entry["id"] for entry in response.json["sshKeys"]] == [second, first]
        assert (told[0].call.action, told[0].call.keys) == (GuestAction.SET_SSH_KEYS, (OTHER_KEY, KEY))

    @pytest.mark.parametrize("key_ids", [[], ["x"] * 101, "x", [1], None])
    def test_ids_are_texts_and_one_at_least(self, web: Web, key_ids: object):
        body: dict[str, Any] = {"keyIds": key_ids}
        assert_problem(send(web, "POST", f"{VPS}/actions/reset-ssh-keys", **body), 400, "invalid_request")

    def test_unknown_id(self, web: Web):
        assert_problem(send(web, "POST", f"{VPS}/actions/reset-ssh-keys", keyIds=["x"]), 404, "ssh_key_not_found")

    def test_refusal_and_silence_are_told_apart(self, web: Web, redis_url: str):
        for state, status, code in (
            (GuestCallState.FAILED, 502, "guest_call_refused"),
            (GuestCallState.UNKNOWN, 502, "guest_call_unknown"),
            (GuestCallState.EXPIRED, 504, "guest_call_expired"),
        ):
            with playing(redis_url, says(state, message="planted words")):
                detail = assert_problem(send(web, "GET", f"{VPS}/ssh-keys"), status, code)
            assert detail == "Failed to read SSH keys: planted words"

    def test_vps_must_run_and_be_ones_own(self, web: Web):
        web.publish(STOPPED_VM)
        assert_problem(send(web, "GET", f"{VPS}/ssh-keys"), 409, "vps_not_ready")
        web.publish(replace(RUNNING_VM, account="other"))
        assert_problem(send(web, "GET", f"{VPS}/ssh-keys"), 404, "vps_not_found")
