"""API keys over HTTP: HostUp's shapes, who may do what to which key, and when a key that was changed counts no more."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app import audit_chain
from app.access import TENANT_SCOPES, Scope
from app.core import clock, ids
from app.core.records import ApiKey
from app.core.store import audit, keys
from app.core.store.keys import MOST_OF_AN_ACCOUNT
from app.factory import create_app
from tests.openstack import SERVERS, Cloud
from tests.redis_contents import everything_in
from tests.web import EXEC, RUNNING_VM, STAMP, STATUS, PlayedWorker, Web, assert_refused, tells_pid

KEYS = "/api/keys"
SHOWN = {
    "key_id", "name", "description", "account", "scopes", "prefix", "is_active", "is_test", "created_at", "expires_at",
    "last_used_at", "allowed_ips", "allowed_vmids", "allowed_commands",
}  # fmt: skip
HOSTUP = {"key_id", "key", "name", "description", "scopes", "dns_permissions", "created_at", "message"}
ACCOUNT_ONLY = (Scope.WRITE_ACCOUNT, Scope.READ_VM)
TIMEOUT_S = 2.0


def put(web: Web, key_id: str, secret: str | None = None, **body: Any) -> TestResponse:
    given = {"name": "changed", "scopes": ["read:vm"], "is_active": True} | body
    return web.http.put(f"{KEYS}/{key_id}", json=given, headers={"X-API-Key": secret or web.key})


def make(web: Web, secret: str | None = None, **body: Any) -> dict[str, Any]:
    """Make a key over HTTP; tell the data of the answer."""
    response = web.post(KEYS, secret, json={"name": "made", "scopes": ["read:vm"]} | body)
    assert response.status_code == 200, response.text
    return dict(response.json["data"])


def listed(web: Web, secret: str | None = None) -> dict[str, dict[str, Any]]:
    return {entry["key_id"]: entry for entry in web.get(KEYS, secret).json["data"]["keys"]}


def id_of(secret: str) -> str:
    return secret.split("_")[1]


def record(web: Web, key_id: str) -> ApiKey:
    found = web.store.run(keys.find(key_id))
    assert found is not None
    return found


def wait_until_dead(*asks: Callable[[], int]) -> None:
    """Ask until a key counts no more; it may be believed for a second after it was right."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while any(ask() != 401 for ask in asks):
        assert time.monotonic() < deadline_s, "it still counts"


@pytest.fixture
def second(web: Web) -> Iterator[Web]:
    """Another web process on the same Redis."""
    other = Web(web.settings.redis_url)
    other.key = web.key
    yield other
    other.close()


class TestCreate:
    def test_answer_has_hostups_fields_and_ours(self, web: Web):
        made = make(
            web, name="CI", scopes=["read:vm", "write:vm"], is_test=True, description="GitHub Actions",
            expires_in_days=90, allowed_dns_zones=[], dns_permissions=[],
        )  # fmt: skip
        assert set(made) == HOSTUP | SHOWN
        assert made["key"].startswith(f"{made['prefix']}_")
        assert made["prefix"] == f"ownup_{made['key_id']}"
        assert re.fullmatch("[0-9a-f]{16}", made["key_id"])
        assert STAMP.fullmatch(made["created_at"])
        lived = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
        assert lived == timedelta(days=90)
        told = {
            name: made[name] for name in ("name", "description", "scopes", "dns_permissions", "is_test", "is_active")
        }
        assert told == {
            "name": "CI", "description": "GitHub Actions", "scopes": ["read:vm", "write:vm"], "dns_permissions": [],
            "is_test": True, "is_active": True,
        }  # fmt: skip
        assert (made["account"], made["last_used_at"]) == ("acme", None)

    def test_it_counts_at_once_and_for_what_it_was_made(self, web: Web):
        made = make(web)
        assert web.get(STATUS, made["key"]).status_code == 200
        assert web.post(EXEC, made["key"], json={"command": "true"}).status_code == 403
        assert record(web, made["key_id"]).created_by == id_of(web.key)

    def test_what_is_required_is_all_that_is_needed(self, web: Web):
        made = make(web)
        assert (made["description"], made["expires_at"], made["is_test"]) == (None, None, False)
        assert made["allowed_ips"] == made["allowed_vmids"] == made["allowed_commands"] == []

    def test_limits_are_written_in_one_way(self, web: Web):
        made = make(
            web, allowed_ips=["192.0.2.7", "2001:DB8::/32"], allowed_vmids=[10000, 99999999999],
            allowed_commands=["/opt/deploy.sh web-*", "Grüße 世界"],
        )  # fmt: skip
        assert made["allowed_ips"] == ["192.0.2.7/32", "2001:db8::/32"]
        assert made["allowed_vmids"] == [10000, 99999999999]
        assert made["allowed_commands"] == ["/opt/deploy.sh web-*", "Grüße 世界"]
        assert {name: listed(web)[made["key_id"]][name] for name in SHOWN} == {name: made[name] for name in SHOWN}

    def test_limits_hold(self, web: Web):
        web.publish(replace(RUNNING_VM, vmid=10001))
        made = make(web, allowed_vmids=[10001], allowed_ips=["192.0.2.0/24"])
        headers = {"X-API-Key": made["key"]}
        here, elsewhere = {"REMOTE_ADDR": "192.0.2.7"}, {"REMOTE_ADDR": "198.51.100.7"}
        assert web.http.get("/api/vm", headers=headers, environ_base=elsewhere).status_code == 401
        seen = web.http.get("/api/vm", headers=headers, environ_base=here).json["data"]
        assert [vm["vmid"] for vm in seen] == [10001]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", ""), ("name", " "), ("name", "a\nb"), ("name", "x" * 101), ("name", None), ("name", 1),
            ("scopes", []), ("scopes", None), ("scopes", "read:vm"), ("scopes", ["read:vm", "read:vm"]),
            ("is_test", "yes"), ("is_test", None), ("is_test", 1),
            ("description", 1), ("description", "x" * 501), ("description", "\udc00"),
            ("expires_in_days", 0), ("expires_in_days", -1), ("expires_in_days", 1.0), ("expires_in_days", "30"),
            ("expires_in_days", True), ("expires_in_days", 36501), ("expires_in_days", 2**70),
            ("allowed_ips", "192.0.2.0/24"), ("allowed_ips", None), ("allowed_ips", ["192.0.2.1"] * 101),
            ("allowed_vmids", 1), ("allowed_vmids", None), ("allowed_vmids", [1] * 1001),
            ("allowed_commands", "uptime"), ("allowed_commands", None), ("allowed_commands", ["uptime"] * 51),
            ("allowed_dns_zones", ["example.com"]), ("dns_permissions", ["read"]), ("dns_permissions", None),
            ("account", ""), ("account", " acme"), ("account", "x" * 101), ("account", None), ("account", "a\nb"),
            ("is_active", True), ("created_by", "k"), ("key", "ownup_x"), ("secret_sha256", "ab"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_with_a_field_is_said_of_that_field(self, web: Web, field: str, value: object):
        response = web.post(KEYS, json={"name": "a", "scopes": ["read:vm"]} | {field: value})
        assert_refused(response, 400, "BAD_REQUEST", field)
        assert len(listed(web)) == 1

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("scopes", "read:dns"), ("scopes", "all"), ("scopes", 1), ("scopes", None),
            ("allowed_ips", "192.0.2.7/24"), ("allowed_ips", "localhost"), ("allowed_ips", 1), ("allowed_ips", None),
            ("allowed_vmids", 0), ("allowed_vmids", "10000"), ("allowed_vmids", 1.5), ("allowed_vmids", True),
            ("allowed_vmids", 2**63), ("allowed_commands", ""), ("allowed_commands", " "), ("allowed_commands", "a\nb"),
            ("allowed_commands", "x" * 1001), ("allowed_commands", None), ("allowed_commands", "\udc00"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_in_a_list_is_said_of_that_entry(self, web: Web, field: str, value: object):
        good = {"scopes": "read:vm", "allowed_ips": "::1", "allowed_vmids": 1, "allowed_commands": "uptime"}[field]
        response = web.post(KEYS, json={"name": "a", "scopes": ["read:vm"]} | {field: [good, value]})
        assert_refused(response, 400, "BAD_REQUEST", f"{field}.1")

    @pytest.mark.parametrize("field", ["name", "scopes"])
    def test_what_is_missing_is_said(self, web: Web, field: str):
        body = {"name": "a", "scopes": ["read:vm"]}
        del body[field]
        assert_refused(web.post(KEYS, json=body), 400, "BAD_REQUEST", field)

    def test_an_account_has_so_many_and_no_more(self, web: Web):
        for _ in range(MOST_OF_AN_ACCOUNT - 1):
            web.make_key(Scope.READ_VM)
        refused = web.post(KEYS, json={"name": "a", "scopes": ["read:vm"]})
        assert_refused(refused, 400, "BAD_REQUEST", "account")
        assert str(MOST_OF_AN_ACCOUNT) in refused.json["details"][0]["message"]
        some = next(key_id for key_id in listed(web) if key_id != id_of(web.key))
        assert web.delete(f"{KEYS}/{some}").status_code == 200
        assert make(web)["name"] == "made"
        assert make(web, web.make_key(account="other"))["account"] == "other", "another account has its own"


class TestNeverMoreThanItself:
    """Each attempt to get further by making, changing or rolling a key is refused, and says which limit it met."""

    @pytest.mark.parametrize("scope", [Scope.WRITE_VM, Scope.POWER_VM, Scope.BACKUP_VM, Scope.ADMIN])
    def test_scope(self, web: Web, scope: Scope):
        own = web.make_key(*ACCOUNT_ONLY)
        child = make(web, own)
        for response in (
            web.post(KEYS, own, json={"name": "a", "scopes": ["read:vm", scope]}),
            put(web, child["key_id"], own, scopes=[scope]),
            put(web, id_of(own), own, scopes=[*ACCOUNT_ONLY, scope]),
        ):
            assert str(scope) in assert_refused(response, 403, "FORBIDDEN")
        assert record(web, child["key_id"]).scopes == ("read:vm",)

    @pytest.mark.parametrize(
        ("field", "own_limit", "within", "beyond"),
        [
            ("allowed_vmids", (10000, 10001), [10001], [10001, 10002]),
            ("allowed_ips", ("0.0.0.0/1", "2001:db8::/32"), ["127.0.0.0/8", "2001:db8:1::/48"], ["0.0.0.0/0"]),
            ("allowed_commands", ("uptime", "/opt/deploy.sh *"), ["/opt/deploy.sh *"], ["/opt/deploy.sh web-1"]),
        ],
    )
    def test_limits(self, web: Web, field: str, own_limit: Any, within: list[Any], beyond: list[Any]):
        own = web.make_key(*ACCOUNT_ONLY, **{field: own_limit})
        for not_given in ({}, {field: []}):
            assert make(web, own, **not_given)[field] == list(own_limit), "its own are what it gives by default"
        child = make(web, own, **{field: within})
        assert child[field] == within
        lifted: dict[str, list[Any]] = {field: []}
        for response in (
            web.post(KEYS, own, json={"name": "a", "scopes": ["read:vm"], field: beyond}),
            put(web, child["key_id"], own, **{field: beyond}),
            put(web, child["key_id"], own, **lifted),
            put(web, id_of(own), own, **{field: beyond}),
            put(web, id_of(own), own, **lifted),
        ):
            assert field in assert_refused(response, 403, "FORBIDDEN")
        assert list(getattr(record(web, child["key_id"]), field)) == within
        assert getattr(record(web, id_of(own)), field) == own_limit
        narrowed = put(web, id_of(own), own, scopes=list(ACCOUNT_ONLY), **{field: within})
        assert narrowed.status_code == 200, "it may cut its own"
        assert list(getattr(record(web, id_of(own)), field)) == within

    def test_expiry(self, web: Web):
        ends = clock.now() + timedelta(days=10)
        own = web.make_key(*ACCOUNT_ONLY, expires_at=ends)
        assert record(web, make(web, own)["key_id"]).expires_at == ends
        assert record(web, make(web, own, expires_in_days=None)["key_id"]).expires_at == ends
        assert record(web, make(web, own, expires_in_days=9)["key_id"]).expires_at < ends
        refused = web.post(KEYS, own, json={"name": "a", "scopes": ["read:vm"], "expires_in_days": 11})
        assert "expires_in_days" in assert_refused(refused, 403, "FORBIDDEN")
        longer = id_of(web.make_key(Scope.READ_VM, expires_at=ends + timedelta(seconds=1)))
        assert "expires_in_days" in assert_refused(web.post(f"{KEYS}/{longer}/roll", own), 403, "FORBIDDEN")

    def test_account(self, web: Web):
        own = web.make_key(*ACCOUNT_ONLY)
        assert make(web, own, account="acme")["account"] == "acme"
        for account in ("other", "nobody", "ACME"):
            refused = web.post(KEYS, own, json={"name": "a", "scopes": ["read:vm"], "account": account})
            assert "admin" in assert_refused(refused, 403, "FORBIDDEN")

    def test_a_stronger_key_is_seen_and_not_touched(self, web: Web):
        own, strong = web.make_key(*ACCOUNT_ONLY), id_of(web.make_key(Scope.POWER_VM))
        assert strong in listed(web, own)
        before = record(web, strong)
        for response in (
            web.post(f"{KEYS}/{strong}/roll", own),
            web.delete(f"{KEYS}/{strong}", own),
            put(web, strong, own, scopes=["read:vm"]),
            put(web, strong, own, is_active=False),
        ):
            assert "power:vm" in assert_refused(response, 403, "FORBIDDEN")
        assert record(web, strong) == before

    def test_a_limited_key_sees_only_what_can_do_no_more(self, web: Web):
        own = web.make_key(*ACCOUNT_ONLY, allowed_vmids=(10000,))
        same = make(web, own)["key_id"]
        made_by_others = make(web, scopes=["read:vm"], allowed_vmids=[10000])["key_id"]
        assert set(listed(web, own)) == {id_of(own), same, made_by_others}
        missing = web.post(f"{KEYS}/{'0' * 16}/roll", own)
        for unseen in (id_of(web.key), make(web)["key_id"], make(web, allowed_vmids=[10001])["key_id"]):
            assert_not_there(web, unseen, own, missing)

    def test_a_key_that_is_revoked_a_moment_ago_makes_no_more_keys(self, web: Web):
        """What it may do in the second in which it is still believed ends with that second; a key would not."""
        own = web.make_key(*ACCOUNT_ONLY)
        assert web.get(KEYS, own).status_code == 200
        web.store.run(keys.save(replace(record(web, id_of(own)), revoked_at=clock.now())))
        for response in (
            web.post(KEYS, own, json={"name": "a", "scopes": ["read:vm"]}),
            web.post(f"{KEYS}/{id_of(own)}/roll", own),
            web.delete(f"{KEYS}/{id_of(own)}", own),
            put(web, id_of(own), own),
        ):
            assert_refused(response, 401, "UNAUTHORIZED")

    def test_its_scope_is_needed_for_everything(self, web: Web):
        own = web.make_key(*(scope for scope in Scope if scope is not Scope.WRITE_ACCOUNT))
        key_id = make(web)["key_id"]
        for response in (
            web.get(KEYS, own),
            web.get(f"{KEYS}/scopes", own),
            web.post(KEYS, own, json={"name": "a", "scopes": ["read:vm"]}),
            put(web, key_id, own),
            web.post(f"{KEYS}/{key_id}/roll", own),
            web.delete(f"{KEYS}/{key_id}", own),
        ):
            assert "write:account" in assert_refused(response, 403, "FORBIDDEN")


def assert_not_there(web: Web, key_id: str, secret: str, missing: TestResponse) -> None:
    """Check that a key can't be told from one that doesn't exist."""
    assert assert_refused(missing, 404, "NOT_FOUND") == "API key not found"
    for response in (
        web.post(f"{KEYS}/{key_id}/roll", secret),
        web.delete(f"{KEYS}/{key_id}", secret),
        put(web, key_id, secret),
    ):
        assert told(response) == told(missing)
    assert key_id not in listed(web, secret)


def told(response: TestResponse) -> tuple[int, dict[str, Any], set[str]]:
    body = {name: value for name, value in response.json.items() if name not in {"timestamp", "requestId"}}
    return response.status_code, body, set(response.headers.keys())


class TestAccounts:
    def test_keys_of_another_account_are_not_there(self, web: Web):
        stranger = web.make_key(account="other")
        key_id = make(web)["key_id"]
        assert set(listed(web, stranger)) == {id_of(stranger)}
        missing = web.post(f"{KEYS}/{'0' * 16}/roll", stranger)
        assert_not_there(web, key_id, stranger, missing)
        assert web.get("/api/vm", web.key).status_code == 200

    @pytest.mark.parametrize(
        "key_id", ["0", "key_EXAMPLE0001", "A" * 16, "0" * 17, "0123456789abcdef:open", "%00", "..", "ä"]
    )
    def test_what_is_no_id_is_not_there(self, web: Web, key_id: str):
        web.client.sadd("ownup:key:0123456789abcdef:open", "a command")
        for response in (web.delete(f"{KEYS}/{key_id}"), put(web, key_id), web.post(f"{KEYS}/{key_id}/roll")):
            assert_refused(response, 404, "NOT_FOUND")

    def test_an_operator_sees_and_manages_those_of_all_accounts(self, web: Web):
        operator = web.make_key(*Scope, account="operations")
        theirs = make(web, web.make_key(account="other"))
        assert {"acme", "other", "operations"} == {key["account"] for key in listed(web, operator).values()}
        assert put(web, theirs["key_id"], operator, name="renamed").status_code == 200
        rolled = web.post(f"{KEYS}/{theirs['key_id']}/roll", operator).json["data"]
        assert (rolled["account"], rolled["name"]) == ("other", "renamed")
        assert web.delete(f"{KEYS}/{theirs['key_id']}", operator).status_code == 200
        assert web.get("/api/vm", rolled["key"]).status_code == 401

    def test_an_operator_makes_keys_for_any_account_and_other_operators(self, web: Web):
        operator = web.make_key(*Scope, account="operations")
        tenant = make(web, operator, account="acme", scopes=list(TENANT_SCOPES))
        assert [vm["vmid"] for vm in web.get("/api/vm", tenant["key"]).json["data"]] == [10000]
        assert make(web, tenant["key"])["account"] == "acme"
        another = make(web, operator, scopes=list(Scope))
        assert another["account"] == "operations"
        assert id_of(web.key) in listed(web, another["key"])

    def test_a_limited_operator_gives_its_limits_on(self, web: Web):
        operator = web.make_key(*Scope, account="operations", allowed_vmids=(10000,))
        assert make(web, operator, account="acme")["allowed_vmids"] == [10000]
        assert id_of(web.key) not in listed(web, operator)

    def test_a_tenant_of_the_operators_account_gets_no_further(self, web: Web):
        operator, tenant = web.make_key(*Scope), web.make_key()
        assert id_of(operator) in listed(web, tenant)
        assert "admin" in assert_refused(web.post(f"{KEYS}/{id_of(operator)}/roll", tenant), 403, "FORBIDDEN")


class TestList:
    def test_all_that_is_to_be_known_of_a_key_but_its_secret(self, web: Web):
        made = make(web)
        entry = listed(web)[made["key_id"]]
        assert set(entry) == SHOWN
        assert entry == {name: made[name] for name in SHOWN}

    def test_oldest_first(self, web: Web):
        made = [id_of(web.key), *(make(web)["key_id"] for _ in range(5))]
        assert list(listed(web)) == made

    def test_last_use_appears(self, web: Web):
        made = make(web)
        assert web.get("/api/vm", made["key"]).status_code == 200
        used = listed(web)[made["key_id"]]["last_used_at"]
        assert STAMP.fullmatch(used)
        assert abs(datetime.fromisoformat(used) - clock.now()) < timedelta(seconds=10)

    def test_last_use_outlives_a_change(self, web: Web):
        made = make(web)
        web.get("/api/vm", made["key"])
        used = listed(web)[made["key_id"]]["last_used_at"]
        put(web, made["key_id"])
        assert listed(web)[made["key_id"]]["last_used_at"] == used is not None

    def test_scopes_and_which_of_them_can_be_given(self, web: Web):
        for secret, given in ((web.key, set(TENANT_SCOPES)), (web.make_key(*ACCOUNT_ONLY), set(ACCOUNT_ONLY))):
            catalogue = web.get(f"{KEYS}/scopes", secret).json["data"]["scopes"]
            assert [entry["scope"] for entry in catalogue] == list(Scope)
            assert {entry["scope"] for entry in catalogue if entry["can_give"]} == given
            assert all(entry["description"] for entry in catalogue)


class TestUpdate:
    def test_answer_is_hostups(self, web: Web):
        response = put(web, make(web)["key_id"])
        assert response.json["data"] == {"message": "API key updated"}

    def test_what_is_given_is_changed_and_what_is_not_stays(self, web: Web):
        made = make(
            web, description="before", allowed_ips=["127.0.0.1"], allowed_vmids=[10000], allowed_commands=["uptime"]
        )
        key_id = made["key_id"]
        assert put(web, key_id, name="after", scopes=["read:vm", "power:vm"]).status_code == 200
        now_is = listed(web)[key_id]
        assert now_is == {name: made[name] for name in SHOWN} | {"name": "after", "scopes": ["read:vm", "power:vm"]}
        given = {"allowed_ips": [], "allowed_vmids": [], "allowed_commands": [], "description": None}
        assert put(web, key_id, **given, allowed_dns_zones=[], dns_permissions=[]).status_code == 200
        assert {name: listed(web)[key_id][name] for name in given} == given

    @pytest.mark.parametrize("field", ["name", "scopes", "is_active"])
    def test_hostups_required_fields_are_required(self, web: Web, field: str):
        key_id = make(web)["key_id"]
        body = {"name": "a", "scopes": ["read:vm"], "is_active": True}
        del body[field]
        response = web.http.put(f"{KEYS}/{key_id}", json=body, headers={"X-API-Key": web.key})
        assert_refused(response, 400, "BAD_REQUEST", field)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("is_active", "true"), ("is_active", None), ("is_active", 1), ("allowed_dns_zones", ["example.com"]),
            ("account", "acme"), ("expires_in_days", 5), ("is_test", True), ("revoked_at", None), ("name", ""),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said(self, web: Web, field: str, value: object):
        assert_refused(put(web, make(web)["key_id"], **{field: value}), 400, "BAD_REQUEST", field)

    def test_switched_off_and_on_again(self, web: Web, second: Web):
        made = make(web)
        assert web.get("/api/vm", made["key"]).status_code == second.get("/api/vm", made["key"]).status_code == 200
        put(web, made["key_id"], is_active=False)
        wait_until_dead(*(lambda w=w: w.get("/api/vm", made["key"]).status_code for w in (web, second)))
        assert "switched off" in web.get("/api/vm", made["key"]).json["message"]
        assert listed(web)[made["key_id"]]["is_active"] is False
        put(web, made["key_id"], is_active=True)
        assert web.get("/api/vm", made["key"]).status_code == second.get("/api/vm", made["key"]).status_code == 200

    def test_a_narrower_key_is_narrower_within_two_seconds(self, web: Web):
        made = make(web, scopes=["read:vm"])
        assert web.get(STATUS, made["key"]).status_code == 200
        put(web, made["key_id"], allowed_vmids=[10001])
        deadline_s = time.monotonic() + TIMEOUT_S
        while web.get(STATUS, made["key"]).status_code != 404:
            assert time.monotonic() < deadline_s

    def test_one_that_has_expired_is_not_switched_on_again(self, web: Web):
        key_id = id_of(web.make_key(Scope.READ_VM, expires_at=clock.now() - timedelta(seconds=1), is_active=False))
        assert_refused(put(web, key_id), 400, "BAD_REQUEST", "is_active")
        assert put(web, key_id, is_active=False, name="renamed").status_code == 200
        assert record(web, key_id).name == "renamed"

    def test_one_that_is_deleted_is_not_there(self, web: Web):
        key_id = make(web)["key_id"]
        web.delete(f"{KEYS}/{key_id}")
        assert_refused(put(web, key_id), 404, "NOT_FOUND")


class TestRoll:
    def test_answer_is_that_of_a_new_key(self, web: Web):
        made = make(web, name="CI", description="x", allowed_vmids=[10000], expires_in_days=5)
        rolled = web.post(f"{KEYS}/{made['key_id']}/roll").json["data"]
        assert set(rolled) == set(made)
        changed = {name for name in made if made[name] != rolled[name]}
        assert changed == {"key", "message"}
        assert web.get("/api/vm", rolled["key"]).status_code == 200

    def test_old_secret_is_dead_within_two_seconds_everywhere(self, web: Web, second: Web):
        made = make(web)
        asks = [lambda w=w: w.get("/api/vm", made["key"]).status_code for w in (web, second)]
        assert [ask() for ask in asks] == [200, 200]
        rolled = web.post(f"{KEYS}/{made['key_id']}/roll").json["data"]["key"]
        assert web.get("/api/vm", rolled).status_code == second.get("/api/vm", rolled).status_code == 200
        wait_until_dead(*asks)

    def test_tokens_issued_for_it_are_dead_at_once(self, web: Web):
        made = make(web)
        cloud = Cloud(web, made["key"])
        assert cloud.get(SERVERS).status_code == 200
        rolled = web.post(f"{KEYS}/{made['key_id']}/roll").json["data"]["key"]
        assert cloud.get(SERVERS).status_code == 401
        assert Cloud(web, rolled).get(SERVERS).status_code == 200

    def test_a_key_may_roll_itself_once_with_each_secret(self, web: Web):
        own = web.make_key(*ACCOUNT_ONLY)
        rolled = web.post(f"{KEYS}/{id_of(own)}/roll", own)
        assert rolled.status_code == 200
        assert web.post(f"{KEYS}/{id_of(own)}/roll", own).status_code == 401
        assert web.post(f"{KEYS}/{id_of(own)}/roll", rolled.json["data"]["key"]).status_code == 200


class TestDelete:
    def test_it_is_gone_and_counts_no_more(self, web: Web, second: Web):
        made = make(web)
        asks = [lambda w=w: w.get("/api/vm", made["key"]).status_code for w in (web, second)]
        assert [ask() for ask in asks] == [200, 200]
        assert web.delete(f"{KEYS}/{made['key_id']}").json["data"] == {"message": "API key deleted"}
        assert made["key_id"] not in listed(web)
        assert_refused(web.delete(f"{KEYS}/{made['key_id']}"), 404, "NOT_FOUND")
        wait_until_dead(*asks)

    def test_its_record_stays_for_the_operator_at_the_command_line(self, web: Web):
        made = make(web)
        web.delete(f"{KEYS}/{made['key_id']}")
        assert record(web, made["key_id"]).revoked_at is not None
        assert made["key_id"] in {key.id for key in web.store.run(keys.list_all())}
        operator = web.make_key(*Scope, account="operations")
        assert made["key_id"] not in listed(web, operator)

    def test_a_key_may_delete_itself(self, web: Web):
        own = web.make_key(Scope.WRITE_ACCOUNT)
        assert web.delete(f"{KEYS}/{id_of(own)}", own).status_code == 200
        assert web.delete(f"{KEYS}/{id_of(own)}", own).status_code == 401


class TestTime:
    def test_a_key_counts_for_so_many_days(self, web: Web):
        moments = [datetime(2026, 2, 10, tzinfo=UTC)]
        app = create_app(web.settings, redis_client=web.client, wakeups=web.wakeups, clock=lambda: moments[0])
        headers = {"X-API-Key": web.make_key()}
        body = {"name": "a", "scopes": ["read:vm"], "expires_in_days": 30}
        made = app.test_client().post(KEYS, json=body, headers=headers).json["data"]
        assert made["expires_at"] == "2026-03-12T00:00:00.000Z"

        def ask() -> int:
            return app.test_client().get("/api/vm", headers={"X-API-Key": made["key"]}).status_code

        for days, status in ((0, 200), (29.999, 200), (30, 401), (31, 401)):
            moments[0] = datetime(2026, 2, 10, tzinfo=UTC) + timedelta(days=days)
            assert ask() == status, days
        app.extensions["ownup"].audit.close()


class TestSecrets:
    def test_no_secret_is_anywhere_but_in_the_answer_that_makes_it(self, web: Web, caplog: pytest.LogCaptureFixture):
        caplog.set_level(logging.DEBUG)
        made = make(web)
        rolled = web.post(f"{KEYS}/{made['key_id']}/roll").json["data"]
        Cloud(web, rolled["key"])
        others = [
            web.get(KEYS), web.get(f"{KEYS}/scopes"), put(web, made["key_id"]), web.delete(f"{KEYS}/{made['key_id']}"),
            web.post(f"{KEYS}/{made['key']}/roll"),  # somebody takes the one for the other
        ]  # fmt: skip
        logged = "".join(str(vars(entry)) for entry in caplog.records)
        for data in (made, rolled):
            secret = data["key"].rpartition(f"{data['prefix']}_")[2]
            assert len(secret) == 43
            assert secret not in "".join(response.text for response in others)
            assert secret.encode() not in everything_in(web.client)
            assert secret not in logged

    def test_a_body_that_is_refused_is_not_told_again(self, web: Web):
        response = web.post(KEYS, json={"name": "a", "scopes": ["planted"], "allowed_ips": ["planted"]})
        assert response.status_code == 400
        assert "planted" not in response.text

    def test_the_audit_trail_says_who_made_which_key(self, web: Web):
        made = make(web, scopes=["read:vm", "power:vm"])
        put(web, made["key_id"], is_active=False)
        web.services().audit.close()
        entries = [audit_chain.read(link) for link in web.store.run(audit.read_latest(10)).links]
        create, update = [entry for entry in entries if entry["what"]["route"].startswith(KEYS)]
        assert create["what"]["createdKeyId"] == made["key_id"]
        assert create["what"]["scopes"] == ["read:vm", "power:vm"]
        assert create["who"]["keyId"] == id_of(web.key)
        assert update["what"]["path"] == {"key_id": made["key_id"]}
        assert (update["what"]["isActive"], update["what"]["scopes"]) == (False, ["read:vm"])


class TestACommandKey:
    """A CI key that may run one deploy script and nothing else, from its making to its result."""

    @pytest.fixture
    def deploy(self, web: Web) -> str:
        made = make(web, name="CI", scopes=["read:vm", "write:vm"], allowed_commands=["/opt/deploy.sh web-*"])
        return str(made["key"])

    def test_it_runs_its_command_and_reads_its_result(self, web: Web, deploy: str, redis_url: str):
        with PlayedWorker(redis_url, tells_pid(77)):
            started = web.post(EXEC, deploy, json={"command": "/opt/deploy.sh web-1"})
        assert started.json["data"]["pid"] == 77
        assert web.get(f"{EXEC}?pid=77", deploy).json["data"]["state"] == "running"

    def test_it_does_nothing_else_to_a_guest(self, web: Web, deploy: str, redis_url: str):
        agent = f"{SERVERS}/{ids.openstack_id(10000)}/guest-agent"
        argv = {"command": {"type": "exec", "arguments": {"command": ["id"]}}}
        cloud = {"X-Auth-Token": deploy}
        with PlayedWorker(redis_url, tells_pid(1)) as worker:
            answers = [
                web.post(EXEC, deploy, json={"command": "id"}),
                web.post(EXEC, deploy, json={"command": "/opt/deploy.sh web-1; id"}),
                web.post(EXEC, deploy, json={"command": "/opt/deploy.sh web-1", "env": {"PATH": "/tmp"}}),
                web.post(f"/api/v2/vps/{ids.vps_id(10000)}/agent/exec", deploy, json={"command": "id"}),
                web.post("/api/vm/10000/reset-password", deploy, json={"password": "correct horse"}),
                web.post("/api/vm/10000/hostname", deploy, json={"hostname": "a.example.com"}),
                web.post("/api/vm/10000/reset-ssh-keys", deploy, json={"keyIds": ["1"]}),
                web.http.post(f"{agent}/commands", json=argv, headers=cloud),
                web.http.post(f"{agent}/file-write?path=/tmp/a", data=b"a", headers=cloud),
                web.http.get(f"{agent}/file-read?path=/etc/shadow", headers=cloud),
            ]
        assert [answer.status_code for answer in answers] == [403] * len(answers)
        assert worker.taken == []

    def test_it_sees_no_other_key_s_commands(self, web: Web, deploy: str, redis_url: str):
        with PlayedWorker(redis_url, tells_pid(1)):
            assert web.post(EXEC, json={"command": "id"}).status_code == 200
        with PlayedWorker(redis_url, tells_pid(2)):
            assert web.post(EXEC, deploy, json={"command": "/opt/deploy.sh web-1"}).status_code == 200
        assert [web.get(f"{EXEC}?pid={pid}", deploy).status_code for pid in (1, 2)] == [404, 200]
        assert web.delete(f"{EXEC}?pid=1", deploy).status_code == 404
        path = f"{SERVERS}/{ids.openstack_id(10000)}/guest-agent/commands"
        seen = {
            secret: web.http.get(path, headers={"X-Auth-Token": secret}).json["commands"]
            for secret in (web.key, deploy)
        }
        assert [command["result"]["pid"] for command in seen[deploy]] == [2]
        assert [command["result"]["pid"] for command in seen[web.key]] == [1, 2]
        theirs = seen[web.key][0]["uuid"]
        assert web.http.get(f"{path}/{theirs}", headers={"X-Auth-Token": deploy}).status_code == 404
