"""What tests of the OpenStack face share: a client that has logged in, and a check of error bodies."""

from typing import Any

from werkzeug.test import TestResponse

from app.core import ids
from tests.web import ACCOUNT, Web

TOKENS = "/identity/v3/auth/tokens"
SERVERS = "/v2.1/servers"
SERVER_ID = ids.openstack_id(10000)
SERVER = f"{SERVERS}/{SERVER_ID}"
ACTION = f"{SERVER}/action"


def by_password(secret: str, project: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make the body of a login as keystoneauth sends it."""
    user = {"name": "anyone", "domain": {"name": "Default"}, "password": secret}
    auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
    return {"auth": auth | ({"scope": {"project": project}} if project else {})}


def by_credential(secret: str, **who: Any) -> dict[str, Any]:
    identity = {"methods": ["application_credential"], "application_credential": {"secret": secret} | who}
    return {"auth": {"identity": identity}}


def by_token(secret: str) -> dict[str, Any]:
    project = {"id": ACCOUNT}
    return {"auth": {"identity": {"methods": ["token"], "token": {"id": secret}}, "scope": {"project": project}}}


class Cloud:
    """A client of the face, with a token."""

    def __init__(self, web: Web, key: str | None = None) -> None:
        self._http = web.app.test_client()
        response = self.log_in(by_password(key or web.key))
        assert response.status_code == 201, response.text
        self.token = response.headers["X-Subject-Token"]

    def log_in(self, body: Any) -> TestResponse:
        return self._http.post(TOKENS, json=body)

    def get(self, path: str, token: str | None = None, **headers: str) -> TestResponse:
        return self._http.get(path, headers={"X-Auth-Token": token or self.token, **headers})

    def post(self, path: str, body: Any) -> TestResponse:
        return self._http.post(path, json=body, headers={"X-Auth-Token": self.token})

    def delete(self, path: str) -> TestResponse:
        return self._http.delete(path, headers={"X-Auth-Token": self.token})

    def look_up(self, subject: str) -> TestResponse:
        return self._http.get(TOKENS, headers={"X-Auth-Token": self.token, "X-Subject-Token": subject})

    def revoke(self, subject: str) -> TestResponse:
        return self._http.delete(TOKENS, headers={"X-Auth-Token": self.token, "X-Subject-Token": subject})


def assert_fault(response: TestResponse, status: int, name: str) -> str:
    """Check that a request was refused with this fault, and all else that clients look at; tell its message."""
    assert (response.status_code, list(response.json)) == (status, [name]), response.text
    fault = response.json[name]
    extra = {"title"} if name == "error" else set(fault) & {"details"}
    assert set(fault) == {"code", "message"} | extra
    assert fault["code"] == status
    request_id = response.headers["X-Openstack-Request-Id"]
    assert request_id == f"req-{response.headers['X-Request-Id']}"
    if response.request.path.startswith("/v2.1"):
        assert response.headers["X-Compute-Request-ID"] == request_id
    message: str = fault["message"]
    assert message
    return message
