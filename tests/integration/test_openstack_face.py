"""What holds for the whole OpenStack face: versions, headers, error bodies, scopes, its OpenAPI document."""

import json
from http import HTTPStatus

import pytest

from app.access import Scope
from app.api.failures import status_of
from app.api.openstack import bodies
from app.api.openstack.errors import STATUSES
from app.core import errors
from app.core.records import VmStatus
from tests.openapi import check
from tests.openstack import SERVER, SERVERS, TOKENS, Cloud, assert_fault
from tests.web import Web

DOCUMENT = "/openapi/openstack.json"
PUBLIC = {
    ("GET", "/v2.1"),
    ("GET", "/v2.1/"),
    ("GET", "/identity"),
    ("GET", "/identity/"),
    ("GET", "/identity/v3"),
    ("GET", "/identity/v3/"),
    ("POST", TOKENS),
}
OF_ANY_SCOPE = {("GET", TOKENS), ("DELETE", TOKENS)}
SCOPES = {
    ("GET", "/v2.1/servers"): {Scope.READ_VM},
    ("GET", "/v2.1/servers/detail"): {Scope.READ_VM},
    ("GET", "/v2.1/servers/<server_id>"): {Scope.READ_VM},
    ("POST", "/v2.1/servers/<server_id>/action"): {Scope.POWER_VM},
    ("GET", "/v2.1/flavors"): {Scope.READ_VM},
    ("GET", "/v2.1/flavors/detail"): {Scope.READ_VM},
    ("GET", "/v2.1/flavors/<flavor_id>"): {Scope.READ_VM},
    ("GET", "/v2.1/flavors/<flavor_id>/os-extra_specs"): {Scope.READ_VM},
}


@pytest.fixture
def cloud(web: Web) -> Cloud:
    return Cloud(web)


class TestDiscovery:
    @pytest.mark.parametrize("path", ["/v2.1", "/v2.1/"])
    def test_nova_speaks_exactly_one_microversion(self, web: Web, path: str):
        response = web.http.get(path, headers={"X-OpenStack-Nova-API-Version": "2.96"})
        assert response.status_code == 200
        version = response.json["version"]
        assert (version["id"], version["status"]) == ("v2.1", "CURRENT")
        assert (version["min_version"], version["version"]) == ("2.1", "2.1")
        assert version["links"] == [{"rel": "self", "href": "http://localhost/v2.1/"}]

    @pytest.mark.parametrize("path", ["/identity/v3", "/identity/v3/"])
    def test_keystone_is_v3(self, web: Web, path: str):
        response = web.http.get(path)
        assert response.status_code == 200
        version = response.json["version"]
        assert (version["id"], version["status"]) == ("v3.14", "stable")
        assert version["links"] == [{"rel": "self", "href": "http://localhost/identity/v3/"}]

    @pytest.mark.parametrize("path", ["/identity", "/identity/"])
    def test_keystone_lists_it(self, web: Web, path: str):
        response = web.http.get(path)
        assert response.status_code == 300
        assert response.json == {"versions": {"values": [web.http.get("/identity/v3").json["version"]]}}


class TestMicroversions:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"OpenStack-API-Version": "compute 2.1"},
            {"OpenStack-API-Version": "identity 3.5, compute 2.1"},
            {"OpenStack-API-Version": "volume 3.70"},
            {"OpenStack-API-Version": "compute latest"},
            {"X-OpenStack-Nova-API-Version": "2.1"},
            {"OpenStack-API-Version": "compute 2.1", "X-OpenStack-Nova-API-Version": "2.96"},
        ],
    )
    def test_answer_says_which_one_it_is(self, cloud: Cloud, headers: dict[str, str]):
        response = cloud.get(SERVERS, **headers)
        assert response.status_code == 200
        assert response.headers["OpenStack-API-Version"] == "compute 2.1"
        assert response.headers["X-OpenStack-Nova-API-Version"] == "2.1"
        assert {"OpenStack-API-Version", "X-OpenStack-Nova-API-Version", "X-Auth-Token"} <= set(response.vary)

    @pytest.mark.parametrize(
        "headers", [{"OpenStack-API-Version": "compute 2.96"}, {"X-OpenStack-Nova-API-Version": "2.0"}]
    )
    def test_another_one_is_not_acceptable(self, cloud: Cloud, headers: dict[str, str]):
        assert "2.1" in assert_fault(cloud.get(SERVERS, **headers), 406, "computeFault")

    @pytest.mark.parametrize("version", ["compute", "compute x", "compute 2", "compute 2.1.1", "compute 9" * 99])
    def test_what_is_none(self, cloud: Cloud, version: str):
        assert_fault(cloud.get(SERVERS, **{"OpenStack-API-Version": version}), 400, "badRequest")


class TestErrors:
    @pytest.mark.parametrize(("path", "name"), [("/v2.1/nothing", "itemNotFound"), ("/v2.1//servers", "itemNotFound")])
    def test_unknown_path_of_nova(self, cloud: Cloud, path: str, name: str):
        assert_fault(cloud.get(path), 404, name)

    def test_unknown_path_of_keystone(self, cloud: Cloud):
        assert_fault(cloud.get("/identity/v3/users"), 404, "error")

    def test_wrong_method(self, web: Web):
        response = web.http.delete(SERVER)
        assert_fault(response, 405, "badMethod")
        assert "GET" in response.headers["Allow"]

    @pytest.mark.parametrize(
        ("path", "names"), [(TOKENS, ("error", "error")), (f"{SERVER}/action", ("badRequest", "badMediaType"))]
    )
    def test_malformed_body_and_wrong_content_type(self, web: Web, path: str, names: tuple[str, str]):
        headers = {"X-Auth-Token": web.key}
        assert_fault(web.http.post(path, data="{", content_type="application/json", headers=headers), 400, names[0])
        assert_fault(web.http.post(path, data="a=1", content_type="text/plain", headers=headers), 415, names[1])

    def test_too_long_a_body(self, redis_url: str):
        web = Web(redis_url, MAX_BODY_BYTES="10")
        assert_fault(web.http.post(TOKENS, data=b"x" * 11, content_type="application/json"), 413, "error")
        headers = {"X-Auth-Token": web.make_key()}
        assert_fault(web.http.post(f"{SERVER}/action", data=b"x" * 11, headers=headers), 413, "overLimit")
        web.close()

    def test_redis_is_away(self):
        web = Web("unix:///nowhere/redis.sock")
        key = f"ownup_{'0' * 16}_{'A' * 43}"
        for secret in (key, "A" * 43):
            assert_fault(web.http.get(SERVERS, headers={"X-Auth-Token": secret}), 503, "serviceUnavailable")
        web.close()

    def test_something_unforeseen_says_nothing_of_itself(self, web: Web, cloud: Cloud):
        web.client.set("ownup:vm:10000", "no hash")
        message = assert_fault(cloud.get(SERVERS), 500, "computeFault")
        assert message == "An unexpected error occurred"

    def test_table_holds_no_row_without_use(self):
        for kind, status in STATUSES.items():
            parents = [STATUSES[parent] for parent in kind.__mro__[1:] if parent in STATUSES]
            assert not parents or parents[0] is not status

    def test_what_a_vm_forbids_is_a_conflict(self):
        for kind in (errors.VmNotRunningError, errors.GateClosedError):
            error = kind.__new__(kind)
            assert status_of(error, STATUSES) is HTTPStatus.CONFLICT


def test_every_status_of_a_vm_has_novas_words():
    assert set(bodies._STATES) == set(VmStatus)


def test_every_scope_that_a_route_wants_is_a_role():
    assert set(bodies._ROLES) >= {scope for scopes in SCOPES.values() for scope in scopes}


def test_routes_are_those_of_the_contract_with_their_scopes(web: Web):
    routes = {
        (method, rule.rule): getattr(web.app.view_functions[rule.endpoint], "required_scopes", None)
        for rule in web.app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.rule.startswith(("/v2.1", "/identity")) and "/guest-agent/" not in rule.rule
    }
    assert {route for route, scopes in routes.items() if not scopes} == PUBLIC | OF_ANY_SCOPE
    assert {route: scopes for route, scopes in routes.items() if scopes} == SCOPES


class TestOpenApi:
    def test_a_token_is_the_one_way_to_authenticate(self, web: Web):
        document = web.http.get(DOCUMENT).json
        assert document["components"]["securitySchemes"] == {
            "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
        }

    def test_what_is_open_to_all_says_so(self, web: Web):
        paths = web.http.get(DOCUMENT).json["paths"]
        open_to_all = {
            (method.upper(), path)
            for path, item in paths.items()
            for method in ("get", "post", "delete")
            if item.get(method, {}).get("security") == []
        }
        assert open_to_all == PUBLIC

    def test_real_answers_fit_their_schemas(self, web: Web, cloud: Cloud):
        document = web.http.get(DOCUMENT).json
        answers = {
            "/v2.1/servers": cloud.get(SERVERS).json,
            "/v2.1/servers/detail": cloud.get(f"{SERVERS}/detail?limit=1").json,
            "/v2.1/servers/{server_id}": cloud.get(SERVER).json,
            "/v2.1/flavors": cloud.get("/v2.1/flavors").json,
            "/v2.1/flavors/detail": cloud.get("/v2.1/flavors/detail").json,
            "/v2.1/flavors/{flavor_id}": cloud.get("/v2.1/flavors/2cpu-256mb").json,
            "/v2.1/": web.http.get("/v2.1/").json,
            "/identity/v3": web.http.get("/identity/v3").json,
            TOKENS: cloud.look_up(cloud.token).json,
        }
        for path, answer in answers.items():
            content = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
            check(document, content["schema"], answer)

    def test_error_bodies_fit_their_schema(self, web: Web, cloud: Cloud):
        document = web.http.get(DOCUMENT).json
        schema = document["components"]["responses"]["NOT_FOUND"]["content"]["application/json"]["schema"]
        for response in (cloud.get("/v2.1/x"), cloud.get("/identity/x"), web.http.get(SERVERS)):
            check(document, schema, json.loads(response.data))
