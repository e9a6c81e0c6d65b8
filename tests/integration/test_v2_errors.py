"""Every error under /api/v2 is a problem document, whoever raises it."""

import json
import re

import pytest
from werkzeug.test import TestResponse

from app.access import Scope
from app.api.v2.errors import STATUSES, THINGS, explain_codes
from app.core import ids
from app.core.errors import NotFoundError
from tests.web import STAMP, Web

VPS = f"/api/v2/vps/{ids.vps_id(10000)}"
EXEC = f"{VPS}/agent/exec"
REQUEST_ID = re.compile(r"req_[0-9a-hjkmnp-tv-z]{26}")


def assert_problem(response: TestResponse, status: int, code: str) -> None:
    body = json.loads(response.data)
    assert response.content_type == "application/problem+json"
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    required = {"type", "title", "status", "detail", "code", "instance", "requestId", "timestamp"}
    assert required <= set(body) <= required | {"errors", "actions"}
    assert ("errors" in body) is (code == "invalid_request")
    assert body["type"] == f"/docs/errors#{code}"
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == response.request.path
    assert STAMP.fullmatch(body["timestamp"])
    assert REQUEST_ID.fullmatch(body["requestId"])
    assert body["requestId"] == response.headers["X-Request-Id"]
    assert b'": ' not in response.data


def test_each_kind(web: Web):
    reader = web.make_key(Scope.READ_VM)
    json_type = {"content_type": "application/json"}
    cases: list[tuple[TestResponse, int, str]] = [
        (web.get("/api/v2"), 404, "not_found"),
        (web.get("/api/v2/"), 404, "not_found"),
        (web.get("/api/v2/nothing"), 404, "not_found"),
        (web.get(f"{VPS}/nothing"), 404, "not_found"),
        (web.get("/api/v2/vps/vps_abc123"), 404, "vps_not_found"),
        (web.get(f"{EXEC}?pid=1"), 404, "command_not_found"),
        (web.get("/api/v2/vps", key="wrong"), 401, "unauthorized"),
        (web.http.get("/api/v2/vps"), 401, "unauthorized"),
        (web.post(EXEC, reader, json={"command": "true"}), 403, "forbidden"),
        (web.post("/api/v2/vps"), 405, "method_not_allowed"),
        (web.post(EXEC, data=b"x" * 1_500_001, **json_type), 413, "payload_too_large"),
        (web.post(EXEC, data=b"{}", content_type="text/plain"), 415, "unsupported_media_type"),
        (web.post(EXEC, data=b"{", **json_type), 400, "invalid_request"),
        (web.post(EXEC, data=b"[]", **json_type), 400, "invalid_request"),
        (web.get("/api/v2/vps?limit=0"), 400, "invalid_request"),
        (web.get("/api/v2/vps?limit=101"), 400, "invalid_request"),
        (web.get("/api/v2/vps?limit=1&limit=2"), 400, "invalid_request"),
        (web.get("/api/v2/vps?cursor=MTA"), 400, "invalid_request"),
        (web.get("/api/v2/vps?cursor=%C3%A4"), 400, "invalid_request"),
        (web.get("/api/v2/vps?cursor=LTE="), 400, "invalid_request"),
    ]
    for response, status, code in cases:
        assert_problem(response, status, code)
        assert json.loads(response.data)["requestId"] != web.get("/api/v2/nothing").json["requestId"]


def test_the_whole_body_is_pointed_to_by_nothing(web: Web):
    (error,) = web.post(EXEC, data=b"{", content_type="application/json").json["errors"]
    assert error["pointer"] == ""


def test_either_way_to_send_a_key_will_do(web: Web):
    assert web.http.get("/api/v2/vps", headers={"Authorization": f"Bearer {web.key}"}).status_code == 200
    assert web.http.get("/api/v2/vps", headers={"X-API-Key": web.key}).status_code == 200
    assert web.http.get("/api/v2/vps").headers["WWW-Authenticate"] == "Bearer"


def test_a_defect_is_a_problem_without_particulars(web: Web, caplog: pytest.LogCaptureFixture):
    def broken(**_kwargs: object) -> None:
        raise ValueError("particulars")

    web.app.view_functions["VPS.get_status"] = broken
    response = web.get(f"{VPS}/status")
    assert_problem(response, 500, "internal_error")
    assert (response.json["title"], response.json["detail"]) == (
        "Internal server error",
        "An unexpected error occurred",
    )
    assert any(record.exc_info for record in caplog.records)


def test_redis_away():
    web = Web("unix:///nowhere/redis.sock")
    response = web.http.get("/api/v2/vps", headers={"X-API-Key": f"ownup_{'0' * 16}_{'x' * 43}"})
    assert_problem(response, 503, "upstream_unavailable")
    web.close()


def test_success_has_hostups_request_id_too(web: Web):
    assert REQUEST_ID.fullmatch(web.get(VPS).headers["X-Request-Id"])
    assert not REQUEST_ID.fullmatch(web.get("/api/v2x").headers["X-Request-Id"])
    assert web.get("/api/v2x").json["code"] == "NOT_FOUND"


class TestDocuments:
    def test_errors_are_documented_as_problems(self, web: Web):
        document = web.http.get("/openapi/v2.json").json
        for response in document["components"]["responses"].values():
            ((content_type, content),) = response["content"].items()
            assert content_type == "application/problem+json"
            assert content["schema"]["$ref"].endswith("/Problem")
        assert document["security"] == [{"bearer": []}, {"apiKey": []}]

    def test_every_problem_is_explained_where_its_type_leads(self, web: Web):
        page = web.http.get("/docs/errors")
        assert page.status_code == 200
        codes = [entry.code for entry in explain_codes()]
        assert len(codes) == len(set(codes))
        for code in codes:
            assert f'id="{code}"' in page.text
        for code in ("vps_not_found", "invalid_request", "vps_not_ready", "upstream_unavailable", "internal_error"):
            assert code in codes
        assert "http://" not in page.text
        assert "https://" not in page.text

    def test_every_row_of_the_table_is_explained(self):
        codes = {entry.code for entry in explain_codes()}
        thrown = {code for kind in STATUSES for code in {kind.code}}
        own_words = {"internal_error", "not_found", "vm_not_running", "gate_closed", "unavailable", "guest_call_failed"}
        assert thrown - codes <= own_words

    @pytest.mark.parametrize("thing", THINGS)
    def test_every_thing_that_may_not_be_there_has_its_code(self, thing: str):
        words = "vps" if thing == "VM" else thing.lower().replace(" ", "_")
        assert f"{words}_not_found" in {entry.code for entry in explain_codes()}
        assert str(NotFoundError(thing))
