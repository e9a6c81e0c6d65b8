"""Logging in as OpenStack's clients do, and what a token is good for, over a real Redis."""

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from app.access import Scope, roll_key
from app.core import clock
from app.core.store import keys, tokens
from app.tokens import make_secret
from tests.openstack import SERVERS, TOKENS, Cloud, assert_fault, by_credential, by_password, by_token
from tests.web import Web


@pytest.fixture
def cloud(web: Web) -> Cloud:
    return Cloud(web)


def key_of(web: Web, secret: str):
    key = web.store.run(keys.find(secret.split("_")[1]))
    assert key is not None
    return key


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


class TestLogIn:
    def test_password_is_an_api_key_and_the_user_anyone(self, web: Web, cloud: Cloud):
        response = cloud.log_in(by_password(web.key, {"name": "acme", "domain": {"id": "default"}}))
        assert response.status_code == 201
        token, key = response.json["token"], key_of(web, web.key)
        assert token["methods"] == ["password"]
        assert (token["user"]["id"], token["user"]["name"]) == (key.id, key.name)
        assert token["project"] == {"id": "acme", "name": "acme", "domain": {"id": "default", "name": "Default"}}
        assert moment(token["expires_at"]) - moment(token["issued_at"]) == timedelta(hours=1)
        assert abs(moment(token["issued_at"]) - clock.now()) < timedelta(seconds=5)

    @pytest.mark.parametrize("who", [{"id": "anything"}, {"name": "ci", "user": {"name": "x", "domain": {"id": "d"}}}])
    def test_application_credential_has_an_api_key_as_its_secret(self, web: Web, cloud: Cloud, who: dict[str, object]):
        response = cloud.log_in(by_credential(web.key, **who))
        assert response.status_code == 201
        assert response.json["token"]["methods"] == ["application_credential"]
        assert cloud.get(SERVERS, response.headers["X-Subject-Token"]).status_code == 200

    def test_catalog_leads_to_the_host_that_was_asked(self, web: Web):
        response = web.app.test_client().post(
            TOKENS,
            json=by_password(web.key),
            base_url="https://cloud.example:8443",
            headers={"Host": "cloud.example:8443"},
        )
        catalog = {service["type"]: service["endpoints"] for service in response.json["token"]["catalog"]}
        assert {endpoint["interface"] for endpoint in catalog["compute"]} == {"public", "internal", "admin"}
        assert {endpoint["region_id"] for endpoint in catalog["compute"]} == {"RegionOne"}
        assert {endpoint["url"] for endpoint in catalog["compute"]} == {"https://cloud.example:8443/v2.1"}
        assert {endpoint["url"] for endpoint in catalog["identity"]} == {"https://cloud.example:8443/identity"}

    @pytest.mark.parametrize(
        ("scopes", "roles"),
        [
            ((Scope.READ_VM,), ["reader"]),
            ((Scope.WRITE_VM,), ["guest_exec"]),
            ((Scope.POWER_VM, Scope.READ_VM), ["reader", "member"]),
        ],
    )
    def test_roles_are_the_scopes_of_the_key(self, web: Web, cloud: Cloud, scopes: tuple[Scope], roles: list[str]):
        token = cloud.log_in(by_password(web.make_key(*scopes))).json["token"]
        assert [role["name"] for role in token["roles"]] == roles

    @pytest.mark.parametrize("secret", ["", "wrong", f"ownup_{'0' * 16}_{'A' * 43}", "A" * 43])
    def test_wrong_secret(self, cloud: Cloud, secret: str):
        for body in (by_password(secret), by_credential(secret, id="x"), by_token(secret)):
            response = cloud.log_in(body)
            assert_fault(response, 401, "error")
            assert response.headers["WWW-Authenticate"] == 'Keystone uri="http://localhost/identity"'

    @pytest.mark.parametrize("project", [{"id": "other"}, {"name": "other", "domain": {"name": "Default"}}])
    def test_project_is_the_account_of_the_key_and_no_other(self, web: Web, cloud: Cloud, project: dict[str, object]):
        tokens_before = web.client.keys("ownup:token:*")
        assert "other" in assert_fault(cloud.log_in(by_password(web.key, project)), 401, "error")
        assert web.client.keys("ownup:token:*") == tokens_before

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"auth": {}},
            {"auth": {"identity": {"methods": []}}},
            {"auth": {"identity": {"methods": ["password"]}}},
            {"auth": {"identity": {"methods": ["password", "token"], "token": {"id": "x"}}}},
            {"auth": {"identity": {"methods": ["totp"], "totp": {}}}},
            {"auth": {"identity": {"methods": ["token"], "token": {"id": 5}}}},
            {"auth": {"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"system": {"all": True}}}},
        ],
    )
    def test_body_that_is_no_login(self, cloud: Cloud, body: object):
        assert_fault(cloud.log_in(body), 400, "error")

    @pytest.mark.parametrize(
        ("body", "field"), [({"auth": 1}, "auth"), ({"auth": {"identity": [], "scope": "unscoped"}}, "identity")]
    )
    def test_what_should_have_fields_is_named(self, cloud: Cloud, body: object, field: str):
        message = cloud.log_in(body).json["error"]["message"]
        assert field in message
        assert "_schema" not in message


class TestToken:
    def test_it_counts_like_its_key(self, web: Web):
        cloud = Cloud(web, web.make_key(Scope.READ_VM))
        assert [server["name"] for server in cloud.get(SERVERS).json["servers"]] == ["web-1"]

    def test_an_api_key_counts_as_a_token(self, web: Web, cloud: Cloud):
        assert cloud.get(SERVERS, web.key).status_code == 200

    @pytest.mark.parametrize("secret", ["x", "A" * 43, f"ownup_{'0' * 16}_{'A' * 43}", "ä"])
    def test_what_is_neither_is_refused_as_by_the_layer_before_nova(self, cloud: Cloud, secret: str):
        response = cloud.get(SERVERS, secret)
        assert_fault(response, 401, "error")
        assert response.headers["WWW-Authenticate"] == 'Keystone uri="http://localhost/identity"'

    def test_none_at_all(self, web: Web):
        assert_fault(web.http.get(SERVERS), 401, "error")
        assert_fault(web.http.get(SERVERS, headers={"X-API-Key": web.key}), 401, "error")

    def test_revoked_key_ends_its_tokens(self, web: Web):
        secret = web.make_key()
        cloud = Cloud(web, secret)
        assert cloud.get(SERVERS).status_code == 200
        web.store.run(keys.save(replace(key_of(web, secret), revoked_at=clock.now())))
        assert "revoked" in assert_fault(cloud.get(SERVERS), 401, "error")

    def test_rolled_key_ends_its_tokens_and_those_made_of_them(self, web: Web, cloud: Cloud):
        secret = web.make_key()
        first = Cloud(web, secret)
        second = first.log_in(by_token(first.token)).headers["X-Subject-Token"]
        rolled, other_secret = roll_key(key_of(web, secret))
        web.store.run(keys.save(rolled))
        for token in (first.token, second):
            assert "not valid" in assert_fault(cloud.get(SERVERS, token), 401, "error")
            assert_fault(cloud.log_in(by_token(token)), 401, "error")
        renewed = Cloud(web, other_secret)
        assert renewed.get(SERVERS).status_code == 200
        assert_fault(renewed.look_up(first.token), 404, "error")

    def test_a_key_that_is_rolled_at_the_moment_of_a_login_gets_none(self, web: Web, cloud: Cloud):
        """The process has believed the old secret for a moment; the token is made by what Redis has."""
        secret = web.make_key()
        assert cloud.get(SERVERS, secret).status_code == 200
        web.store.run(keys.save(roll_key(key_of(web, secret))[0]))
        assert_fault(cloud.log_in(by_password(secret)), 401, "error")
        assert_fault(cloud.log_in(by_password(f" {secret} ")), 401, "error")

    def test_login_with_spaces_around_the_key(self, web: Web, cloud: Cloud):
        assert cloud.log_in(by_password(f" {web.key} ")).status_code == 201

    def test_it_never_outlives_its_key(self, web: Web, cloud: Cloud):
        ends = clock.now() + timedelta(seconds=100)
        response = cloud.log_in(by_password(web.make_key(expires_at=ends)))
        assert moment(response.json["token"]["expires_at"]) == ends
        name = f"ownup:token:{hashlib.sha256(response.headers['X-Subject-Token'].encode()).hexdigest()}"
        assert 90_000 < web.client.pttl(name) <= 100_000

    def test_key_that_expires_earlier_than_it_did_takes_its_tokens_with_it(self, web: Web):
        secret = web.make_key()
        cloud = Cloud(web, secret)
        web.store.run(keys.save(replace(key_of(web, secret), expires_at=clock.now())))
        assert "expired" in assert_fault(cloud.get(SERVERS), 401, "error")

    def test_it_ends_by_itself_in_redis(self, web: Web, cloud: Cloud):
        name = f"ownup:token:{hashlib.sha256(cloud.token.encode()).hexdigest()}"
        assert 3_590_000 < web.client.pttl(name) <= 3_600_000

    def test_redis_never_sees_it(self, web: Web, cloud: Cloud):
        for name in web.client.keys("*"):
            assert cloud.token.encode() not in name
        for name in web.client.keys("ownup:token:*"):
            assert cloud.token.encode() not in b"".join(web.client.hgetall(name).values())

    def test_each_login_gives_another(self, web: Web):
        assert Cloud(web).token != Cloud(web).token

    def test_there_is_none_for_a_key_that_is_gone_or_over(self, web: Web):
        key = key_of(web, web.key)
        sha256, past = key.secret_sha256, clock.now() - timedelta(seconds=1)
        assert web.store.run(tokens.create("digest", "no-such-key", sha256, "password")) is None
        assert web.store.run(tokens.create("digest", "no-such-key", "", "password")) is None
        assert web.store.run(tokens.create("digest", key.id, "another", "password")) is None
        assert web.store.run(tokens.create("digest", key.id, sha256, "password", not_after=past)) is None
        assert web.store.run(tokens.find("digest")) is None


class TestExchange:
    def test_token_for_a_token_lives_no_longer(self, web: Web, cloud: Cloud):
        ends = clock.now() + timedelta(seconds=100)
        first = cloud.log_in(by_password(web.make_key(expires_at=ends)))
        second = cloud.log_in(by_token(first.headers["X-Subject-Token"]))
        assert second.status_code == 201
        assert second.json["token"]["expires_at"] == first.json["token"]["expires_at"]
        assert second.json["token"]["methods"] == ["token"]
        assert cloud.get(SERVERS, second.headers["X-Subject-Token"]).status_code == 200

    def test_token_for_an_api_key(self, web: Web, cloud: Cloud):
        assert cloud.log_in(by_token(web.key)).status_code == 201

    def test_revoked_key_gets_no_more(self, web: Web):
        secret = web.make_key()
        cloud = Cloud(web, secret)
        web.store.run(keys.save(replace(key_of(web, secret), revoked_at=clock.now())))
        assert_fault(cloud.log_in(by_token(cloud.token)), 401, "error")

    def test_it_is_no_password(self, cloud: Cloud):
        assert_fault(cloud.log_in(by_password(cloud.token)), 401, "error")


class TestSubject:
    def test_own_token_can_be_looked_up(self, web: Web, cloud: Cloud):
        other = Cloud(web).token
        response = cloud.look_up(other)
        assert (response.status_code, response.headers["X-Subject-Token"]) == (200, other)
        assert response.json["token"]["project"]["id"] == "acme"

    def test_own_token_can_be_ended(self, web: Web, cloud: Cloud):
        other = Cloud(web)
        response = cloud.revoke(other.token)
        assert (response.status_code, response.data) == (204, b"")
        assert_fault(other.get(SERVERS), 401, "error")
        assert_fault(cloud.look_up(other.token), 404, "error")
        assert cloud.get(SERVERS).status_code == 200

    def test_that_of_another_key_is_not_there(self, web: Web, cloud: Cloud):
        other = Cloud(web, web.make_key())
        assert_fault(cloud.look_up(other.token), 404, "error")
        assert_fault(cloud.revoke(other.token), 404, "error")
        assert other.get(SERVERS).status_code == 200

    def test_it_must_be_named(self, web: Web, cloud: Cloud):
        assert_fault(cloud.get(TOKENS), 400, "error")
        assert_fault(web.http.get(TOKENS, headers={"X-Subject-Token": cloud.token}), 401, "error")


def test_no_token_looks_like_an_option_of_a_command():
    assert not any(make_secret().startswith("-") for _ in range(2000))
