"""What lies around the faces: OpenAPI document, documentation page, health; and facts that hold for every route."""

import re

import pytest

from app import docs
from app.access import Scope
from tests.openapi import check
from tests.web import EXEC, Web

PUBLIC = {
    "/": "leads to the documentation",
    "/docs": "documentation",
    "/docs/assets/<name>": "documentation",
    "/docs/errors": "documentation",
    "/openapi/v1.json": "documentation",
    "/openapi/v2.json": "documentation",
    "/openapi/openstack.json": "documentation",
    "/identity": "discovery",
    "/identity/": "discovery",
    "/identity/v3": "discovery",
    "/identity/v3/": "discovery",
    "/identity/v3/auth/tokens": "logs in; looks at the tokens it is given by itself",
    "/v2.1": "discovery",
    "/v2.1/": "discovery",
    "/healthz": "health",
    "/readyz": "health",
}


def test_every_route_declares_a_scope_or_is_public(web: Web):
    unguarded = {
        rule.rule
        for rule in web.app.url_map.iter_rules()
        if not getattr(web.app.view_functions[rule.endpoint], "required_scopes", None)
    }
    assert unguarded == set(PUBLIC)


def test_routes_are_those_of_the_contract_with_their_scopes(web: Web):
    routes = {
        (method, rule.rule): web.app.view_functions[rule.endpoint].required_scopes
        for rule in web.app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.rule not in PUBLIC
    }
    assert routes == {
        ("GET", "/api/vm"): {Scope.READ_VM},
        ("GET", "/api/vm/<vmid>/status"): {Scope.READ_VM},
        ("POST", "/api/vm/<vmid>/status"): {Scope.POWER_VM},
        ("GET", "/api/vm/<vmid>/agent/exec"): {Scope.READ_VM, Scope.WRITE_VM},
        ("POST", "/api/vm/<vmid>/agent/exec"): {Scope.WRITE_VM},
        ("DELETE", "/api/vm/<vmid>/agent/exec"): {Scope.WRITE_VM},
        ("GET", "/api/jobs/<job_id>"): {Scope.READ_VM},
        ("GET", "/api/vm/<vmid>/details"): {Scope.READ_VM},
        ("POST", "/api/vm/<vmid>/hostname"): {Scope.WRITE_VM},
        ("POST", "/api/vm/<vmid>/reset-password"): {Scope.WRITE_VM},
        ("POST", "/api/vm/<vmid>/reset-ssh-keys"): {Scope.WRITE_VM},
        ("GET", "/api/vm/<vmid>/snapshots"): {Scope.READ_VM},
        ("POST", "/api/vm/<vmid>/snapshots"): {Scope.BACKUP_VM},
        ("DELETE", "/api/vm/<vmid>/snapshots"): {Scope.BACKUP_VM},
        ("GET", "/api/ssh-keys"): {Scope.READ_VM},
        ("POST", "/api/ssh-keys"): {Scope.WRITE_ACCOUNT},
        ("DELETE", "/api/ssh-keys/<key_id>"): {Scope.WRITE_ACCOUNT},
        ("GET", "/api/keys/scopes"): {Scope.WRITE_ACCOUNT},
        ("GET", "/api/keys"): {Scope.WRITE_ACCOUNT},
        ("POST", "/api/keys"): {Scope.WRITE_ACCOUNT},
        ("PUT", "/api/keys/<key_id>"): {Scope.WRITE_ACCOUNT},
        ("POST", "/api/keys/<key_id>/roll"): {Scope.WRITE_ACCOUNT},
        ("DELETE", "/api/keys/<key_id>"): {Scope.WRITE_ACCOUNT},
        ("GET", "/api/v2/vps"): {Scope.READ_VM},
        ("GET", "/api/v2/vps/<vps_id>"): {Scope.READ_VM},
        ("GET", "/api/v2/vps/<vps_id>/details"): {Scope.READ_VM},
        ("GET", "/api/v2/vps/<vps_id>/status"): {Scope.READ_VM},
        ("GET", "/api/v2/vps/<vps_id>/metrics"): {Scope.READ_VM},
        ("GET", "/api/v2/vps/<vps_id>/disks"): {Scope.READ_VM},
        ("GET", "/api/v2/vps/<vps_id>/storage"): {Scope.READ_VM},
        ("GET", "/api/v2/vps/<vps_id>/hostname"): {Scope.READ_VM},
        ("POST", "/api/v2/vps/<vps_id>/actions/start"): {Scope.POWER_VM},
        ("POST", "/api/v2/vps/<vps_id>/actions/stop"): {Scope.POWER_VM},
        ("POST", "/api/v2/vps/<vps_id>/actions/shutdown"): {Scope.POWER_VM},
        ("POST", "/api/v2/vps/<vps_id>/actions/restart"): {Scope.POWER_VM},
        ("POST", "/api/v2/vps/<vps_id>/actions/reset"): {Scope.POWER_VM},
        ("GET", "/api/v2/vps/<vps_id>/agent/exec"): {Scope.READ_VM, Scope.WRITE_VM},
        ("POST", "/api/v2/vps/<vps_id>/agent/exec"): {Scope.WRITE_VM},
        ("DELETE", "/api/v2/vps/<vps_id>/agent/exec"): {Scope.WRITE_VM},
        ("PUT", "/api/v2/vps/<vps_id>/hostname"): {Scope.WRITE_VM},
        ("GET", "/api/v2/vps/<vps_id>/ssh-keys"): {Scope.READ_VM},
        ("POST", "/api/v2/vps/<vps_id>/actions/reset-ssh-keys"): {Scope.WRITE_VM},
        ("GET", "/api/v2/ssh-keys"): {Scope.READ_VM},
        ("POST", "/api/v2/ssh-keys"): {Scope.WRITE_ACCOUNT},
        ("PATCH", "/api/v2/ssh-keys/<key_id>"): {Scope.WRITE_ACCOUNT},
        ("DELETE", "/api/v2/ssh-keys/<key_id>"): {Scope.WRITE_ACCOUNT},
        ("GET", "/api/v2/vps/<vps_id>/snapshots"): {Scope.READ_VM},
        ("POST", "/api/v2/vps/<vps_id>/snapshots"): {Scope.BACKUP_VM},
        ("DELETE", "/api/v2/vps/<vps_id>/snapshots/<snapshot_id>"): {Scope.BACKUP_VM},
        ("POST", "/api/v2/vps/<vps_id>/snapshots/<snapshot_id>/actions/restore"): {Scope.BACKUP_VM},
        ("GET", "/v2.1/flavors"): {Scope.READ_VM},
        ("GET", "/v2.1/flavors/detail"): {Scope.READ_VM},
        ("GET", "/v2.1/flavors/<flavor_id>"): {Scope.READ_VM},
        ("GET", "/v2.1/flavors/<flavor_id>/os-extra_specs"): {Scope.READ_VM},
        ("GET", "/v2.1/servers"): {Scope.READ_VM},
        ("GET", "/v2.1/servers/detail"): {Scope.READ_VM},
        ("GET", "/v2.1/servers/<server_id>"): {Scope.READ_VM},
        ("POST", "/v2.1/servers/<server_id>/action"): {Scope.POWER_VM},
        ("GET", "/v2.1/servers/<server_id>/guest-agent/commands"): {Scope.READ_VM},
        ("POST", "/v2.1/servers/<server_id>/guest-agent/commands"): {Scope.WRITE_VM},
        ("GET", "/v2.1/servers/<server_id>/guest-agent/commands/<command_uuid>"): {Scope.WRITE_VM},
        ("DELETE", "/v2.1/servers/<server_id>/guest-agent/commands/<command_uuid>"): {Scope.WRITE_VM},
        ("GET", "/v2.1/servers/<server_id>/guest-agent/file-read"): {Scope.WRITE_VM},
        ("POST", "/v2.1/servers/<server_id>/guest-agent/file-write"): {Scope.WRITE_VM},
    }


class TestOpenApi:
    def test_both_ways_to_send_a_key_are_named(self, web: Web):
        document = web.http.get("/openapi/v1.json").json
        schemes = document["components"]["securitySchemes"]
        assert schemes == {
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        assert document["security"] == [{"apiKey": []}, {"bearer": []}]

    def test_errors_are_documented_with_the_five_field_body(self, web: Web):
        document = web.http.get("/openapi/v1.json").json
        schemas = document["components"]["schemas"]
        required = {"error", "message", "code", "timestamp", "requestId"}
        assert set(schemas["Error"]["required"]) == required
        assert set(schemas["Error"]["properties"]) == required | {"details"}
        for name, response in document["components"]["responses"].items():
            schema = "RateLimited" if name == "TOO_MANY_REQUESTS" else "Error"
            assert response["content"]["application/json"]["schema"]["$ref"].endswith(f"/{schema}")

    def test_everything_about_starting_a_command_is_there(self, web: Web):
        document = web.http.get("/openapi/v1.json").json
        start = document["paths"]["/api/vm/{vmid}/agent/exec"]["post"]
        body = document["components"]["schemas"]["ExecBody"]
        assert set(body["properties"]) == {"command", "timeout", "stdin", "env", "cwd", "wait_for_agent", "wait"}
        assert body["required"] == ["command"]
        assert body["properties"]["env"]["additionalProperties"] == {"type": "string"}
        assert body["properties"]["wait_for_agent"]["maximum"] == 300
        assert body["properties"]["wait"]["maximum"] == 60
        (header,) = [entry for entry in start["parameters"] if entry["in"] == "header"]
        assert (header["name"], header["required"]) == ("Idempotency-Key", False)
        assert set(start["responses"]["200"]["headers"]) == {"Idempotency-Replayed"}
        assert "409" in start["responses"]

    def test_answers_have_no_undocumented_fields(self, web: Web):
        document = web.http.get("/openapi/v1.json").json
        for path in ("/api/vm", "/api/vm/{vmid}/status", "/api/vm/{vmid}/agent/exec", "/api/ssh-keys"):
            schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            check(document, schema, web.get(path.replace("{vmid}", "10000")).json)


class TestDocs:
    def test_page_needs_nothing_from_elsewhere(self, web: Web):
        page = web.http.get("/docs").text
        addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(addresses) == 4
        for address in addresses:
            asset = web.http.get(address, buffered=True)
            assert asset.status_code == 200
            assert len(asset.data) > 500
        assert "http://" not in page
        assert "https://" not in page

    def test_documents_on_the_page_exist(self, web: Web):
        for document in docs.DOCUMENTS:
            assert document["url"] in web.http.get("/docs").text
            assert web.http.get(document["url"]).status_code == 200

    @pytest.mark.parametrize("name", ["nothing.js", "..%2f..%2f__init__.py", "%2e%2e"])
    def test_nothing_else_is_served(self, web: Web, name: str):
        response = web.http.get(f"/docs/assets/{name}")
        assert response.status_code == 404
        assert response.json["code"] == "NOT_FOUND"

    def test_front_page_leads_to_the_docs(self, web: Web):
        assert web.http.get("/").location == "/docs"


class TestHealth:
    def test_ready(self, web: Web):
        assert web.http.get("/healthz").json == {"status": "ok"}
        response = web.http.get("/readyz")
        assert response.status_code == 200
        assert response.json == {"status": "ready", "redis": True, "missing": []}

    def test_nodes_are_named_to_operators_only(self, web: Web):
        told = web.get("/readyz", web.make_key(Scope.ADMIN))
        assert told.json["nodes"] == [{"name": "node-1", "vms": 1, "brokenDefinitions": 0}]
        assert "nodes" not in web.get("/readyz").json
        refused = web.get("/readyz", f"ownup_0123456789abcdef_{'x' * 43}")
        assert (refused.status_code, refused.json["code"]) == (401, "UNAUTHORIZED")

    def test_no_node_listens(self, web: Web):
        web.client.delete("ownup:node:node-1")
        response = web.http.get("/readyz")
        assert response.status_code == 503
        assert response.json == {"status": "unavailable", "redis": True, "missing": ["node"]}
        assert web.get("/readyz", web.make_key(Scope.ADMIN)).json["nodes"] == []

    def test_redis_is_away(self):
        web = Web("unix:///nowhere/redis.sock")
        response = web.http.get("/readyz")
        assert response.status_code == 503
        assert response.json == {"status": "unavailable", "redis": False, "missing": ["redis"]}
        assert web.http.get("/healthz").status_code == 200
        web.close()


def test_every_answer_carries_its_own_request_id(web: Web):
    answers = [web.get(path) for path in ("/api/vm", "/api/vm", "/api/nothing", "/healthz", "/docs", EXEC)]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == len(answers)
