"""Rate limits as clients meet them: what counts, and how each face says that it is too much."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.access import Scope
from app.core import clock, ids
from app.core.store import keys
from tests.openapi import check
from tests.web import EXEC, STATUS, Web

VPS = f"/api/v2/vps/{ids.vps_id(10000)}"
SERVERS = "/v2.1/servers"
TOKENS = "/identity/v3/auth/tokens"
MESSAGE = "Rate limit exceeded. Please try again later."
WRONG = f"ownup_{'0' * 16}_{'x' * 43}"

MakeWeb = Callable[..., Web]


@pytest.fixture
def make_web(redis_url: str) -> Iterator[MakeWeb]:
    """Makes applications that share a Redis, as web processes do, each with a key that may do all."""
    made: list[Web] = []

    def make(**environ: str) -> Web:
        web = Web(redis_url, **environ)
        made.append(web)
        web.key = web.make_key()
        web.publish()
        return web

    yield make
    for web in made:
        web.close()


def nova(web: Web, path: str, secret: str | None = None, method: str = "GET", **kwargs: Any) -> TestResponse:
    return web.app.test_client().open(path, method=method, headers={"X-Auth-Token": secret or web.key}, **kwargs)


def log_in(web: Web, secret: str) -> TestResponse:
    user = {"name": "any", "domain": {"id": "default"}, "password": secret}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
    return web.http.post(TOKENS, data=json.dumps(body), content_type="application/json")


def statuses(answers: Iterable[TestResponse]) -> list[int]:
    return [answer.status_code for answer in answers]


class TestBodies:
    """One request is allowed; the second one is refused in the words of each face."""

    @pytest.fixture
    def web(self, make_web: MakeWeb) -> Web:
        return make_web(RATE_LIMIT_READS="1/minute", RATE_LIMIT_EXEC="1/minute")

    def assert_headers(self, response: TestResponse) -> str:
        """Check what HostUp's v2 has, and every face here; tell how long to wait."""
        assert response.status_code == 429
        retry_after = response.headers["Retry-After"]
        assert 1 <= int(retry_after) <= 60
        assert response.headers["X-RateLimit-Limit"] == "1"
        assert response.headers["X-RateLimit-Remaining"] == "0"
        reset = datetime.fromisoformat(response.headers["X-RateLimit-Reset"])
        assert (reset - clock.now()).total_seconds() <= int(retry_after)
        assert response.headers["X-Request-Id"]
        return retry_after

    def test_v1_has_a_body_of_its_own(self, web: Web):
        web.get(STATUS)
        response = web.get(STATUS)
        body = json.loads(response.data)
        assert body == {
            "error": "Too Many Requests",
            "message": MESSAGE,
            "retryAfter": self.assert_headers(response),
            "requestId": response.headers["X-Request-Id"],
        }
        document = web.http.get("/openapi/v1.json").json
        check(document, document["components"]["schemas"]["RateLimited"], body)

    def test_v2_has_a_problem_document(self, web: Web):
        web.get(VPS)
        response = web.get(VPS)
        self.assert_headers(response)
        assert response.content_type == "application/problem+json"
        assert (response.json["code"], response.json["title"]) == ("rate_limited", "Rate limit exceeded")
        assert (response.json["detail"], response.json["type"]) == (MESSAGE, "/docs/errors#rate_limited")
        assert 'id="rate_limited"' in web.http.get("/docs/errors").text

    def test_nova_has_over_limit(self, web: Web):
        nova(web, SERVERS)
        response = nova(web, SERVERS)
        retry_after = self.assert_headers(response)
        assert response.json == {"overLimit": {"code": 429, "message": MESSAGE, "retryAfter": retry_after}}
        document = web.http.get("/openapi/openstack.json").json
        check(
            document,
            document["components"]["responses"]["TOO_MANY_REQUESTS"]["content"]["application/json"]["schema"],
            response.json,
        )

    def test_keystone_has_its_own(self, web: Web):
        login = log_in(web, web.key)
        assert login.status_code == 201
        response = log_in(web, web.key)
        self.assert_headers(response)
        assert response.json == {"error": {"code": 429, "title": "Too Many Requests", "message": MESSAGE}}
        shown = {"X-Auth-Token": web.key, "X-Subject-Token": login.headers["X-Subject-Token"]}
        found = [web.http.get(TOKENS, headers=shown).status_code for _ in range(2)]
        assert found == [200, 429]
        assert web.http.delete(TOKENS, headers=shown).status_code == 429


class TestClasses:
    @pytest.fixture
    def web(self, make_web: MakeWeb) -> Web:
        return make_web(RATE_LIMIT_READS="4/minute", RATE_LIMIT_EXEC="2/minute", RATE_LIMIT_POWER="1/minute")

    def test_reads_count_together_on_every_face(self, web: Web):
        found = [
            web.get(STATUS),
            web.get(VPS),
            web.http.head(STATUS, headers={"X-API-Key": web.key}),
            nova(web, SERVERS),
        ]
        assert statuses(found) == [200] * 4
        assert statuses([web.get(STATUS), web.get(VPS), nova(web, SERVERS)]) == [429] * 3
        assert web.post("/api/ssh-keys", json={}).status_code == 400

    def test_power_actions_and_snapshots_count_together(self, web: Web):
        assert web.post(STATUS, json={"action": "start"}).status_code == 200
        assert web.post("/api/vm/10000/snapshots", json={"snapname": "a"}).status_code == 429
        assert web.post(f"{VPS}/actions/stop").status_code == 429
        action = {"json": {"os-stop": None}, "method": "POST"}
        assert nova(web, f"{SERVERS}/{ids.openstack_id(10000)}/action", **action).status_code == 429
        assert web.post("/api/ssh-keys", json={}).status_code == 400

    def test_all_other_writes_count_together(self, web: Web):
        found = [
            web.post("/api/ssh-keys", json={}),
            web.delete(f"{EXEC}?pid=1"),
            web.post(EXEC, json={"command": "true"}),
        ]
        assert statuses(found) == [400, 404, 429]

    def test_what_is_refused_for_another_reason_counts_too(self, web: Web):
        reader = web.make_key(Scope.READ_VM)
        found = [web.post(EXEC, reader, json={"command": "true"}) for _ in range(3)]
        assert statuses(found) == [403, 403, 429]

    def test_each_key_has_its_own(self, web: Web):
        assert statuses(web.get(STATUS) for _ in range(5)) == [200] * 4 + [429]
        assert web.get(STATUS, web.make_key()).status_code == 200

    def test_a_token_counts_for_its_key(self, web: Web):
        token = log_in(web, web.key).headers["X-Subject-Token"]
        found = [nova(web, SERVERS, token if turn % 2 else web.key) for turn in range(6)]
        assert statuses(found) == [200] * 4 + [429] * 2

    def test_what_needs_no_key_is_not_limited(self, web: Web):
        assert statuses(web.get("/healthz") for _ in range(10)) == [200] * 10
        assert statuses(nova(web, "/v2.1") for _ in range(10)) == [200] * 10


def test_a_limit_holds_for_all_processes_together(make_web: MakeWeb):
    first, second = (make_web(RATE_LIMIT_READS="5/minute") for _ in range(2))
    found = [web.get(STATUS, first.key) for _ in range(4) for web in (first, second)]
    assert statuses(found) == [200] * 5 + [429] * 3


def test_unlimited_costs_redis_nothing(make_web: MakeWeb):
    web = make_web(RATE_LIMIT_READS="unlimited", RATE_LIMIT_FAILED_AUTH="unlimited")
    assert statuses(web.get(STATUS) for _ in range(20)) == [200] * 20
    assert web.client.keys("ownup:limit:*") == []


def test_an_allowance_at_hand_is_as_good_as_one_that_is_counted_now(make_web: MakeWeb):
    """A read that finds its allowance taken already asks Redis no more than one without limits does."""
    web, free = make_web(), make_web(RATE_LIMIT_READS="unlimited")
    spent = []
    for application in (web, free):
        for _ in range(2000):
            application.get("/api/vm/1/status")
        before = web.client.info("stats")["total_commands_processed"]
        for _ in range(100):
            application.get("/api/vm/1/status")
        spent.append(web.client.info("stats")["total_commands_processed"] - before)
    one_share = 10  # what its script does counts too
    assert spent[0] <= spent[1] + one_share, spent


class TestWrongKeys:
    @pytest.fixture
    def web(self, make_web: MakeWeb) -> Web:
        return make_web(RATE_LIMIT_FAILED_AUTH="3/minute")

    @pytest.mark.parametrize("wrong", [WRONG, "short", "ownup_", f"ownup_{'0' * 16}_{'ä' * 43}", "x" * 43, "x" * 4000])
    @pytest.mark.parametrize("header", ["X-API-Key", "Authorization", "X-Auth-Token"])
    def test_are_turned_away(self, web: Web, header: str, wrong: str):
        path = SERVERS if header == "X-Auth-Token" else STATUS
        value = (f"Bearer {wrong}" if header == "Authorization" else wrong).encode().decode("latin-1")
        found = statuses(web.http.get(path, headers={header: value}) for _ in range(6))
        assert found == [401] * 4 + [429] * 2

    def test_the_right_id_with_a_wrong_secret_is_a_wrong_key(self, web: Web):
        wrong = f"{web.key[:-43]}{'x' * 43}"
        assert statuses(web.get(STATUS, wrong) for _ in range(6)) == [401] * 4 + [429] * 2

    def test_logins_count(self, web: Web):
        assert statuses(log_in(web, WRONG) for _ in range(3)) == [401] * 3
        assert statuses(log_in(web, "x\ud800") for _ in range(2)) == [401, 429]
        assert log_in(web, web.key).status_code == 429

    def test_all_ways_count_together(self, web: Web):
        assert statuses([web.get(STATUS, WRONG), nova(web, SERVERS, "x" * 43), log_in(web, WRONG)]) == [401] * 3
        assert statuses([web.get(VPS, WRONG), web.get(VPS, WRONG), nova(web, SERVERS, "y" * 43)]) == [401, 429, 429]

    def test_no_key_at_all_is_no_try(self, web: Web):
        assert statuses(web.http.get(STATUS) for _ in range(20)) == [401] * 20
        assert statuses(web.http.get(SERVERS) for _ in range(20)) == [401] * 20
        assert web.client.keys("ownup:limit:*") == []

    def test_a_key_that_was_seen_before_goes_on_being_served(self, web: Web):
        assert web.get(STATUS).status_code == 200
        self.block(web)
        assert statuses(web.get(STATUS) for _ in range(20)) == [200] * 20

    def test_so_does_a_token(self, web: Web):
        token = log_in(web, web.key).headers["X-Subject-Token"]
        other = log_in(web, web.key).headers["X-Subject-Token"]
        assert nova(web, SERVERS, token).status_code == 200
        self.block(web)
        assert statuses([nova(web, SERVERS, token), nova(web, SERVERS, other)]) == [200, 429]

    def test_a_key_that_this_process_has_not_seen_waits(self, web: Web):
        self.block(web)
        assert web.get(STATUS).status_code == 429
        assert (
            web.http.get(STATUS, headers={"X-API-Key": web.key}, environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code
            == 200
        )

    @pytest.mark.parametrize("change", [{"revoked_at": clock.now()}, {"expires_at": clock.now()}, {"is_active": False}])
    def test_a_key_that_counts_no_more_is_a_wrong_one(self, web: Web, change: dict[str, Any]):
        record = web.store.run(keys.find(web.key.split("_")[1]))
        web.store.run(keys.save(replace(record, **change)))
        assert statuses(web.get(STATUS) for _ in range(6)) == [401] * 4 + [429] * 2

    def block(self, web: Web) -> None:
        assert statuses(web.get(STATUS, WRONG) for _ in range(5)) == [401] * 4 + [429]
