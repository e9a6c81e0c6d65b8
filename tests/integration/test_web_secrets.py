"""What a guest says is told to who asked and to no log; a key that stands where none belongs is repeated nowhere."""

import secrets

import pytest

from app.core.records import CommandState, GuestCallState
from app.core.store import Store, audit, guest_calls
from tests.canaries import Canary, Finder
from tests.openstack import SERVERS
from tests.redis_contents import everything_in
from tests.web import EXEC, PlayedWorker, Web, ends_with, never_answers


@pytest.fixture
def finder() -> Finder:
    return Finder()


@pytest.fixture
def key(finder: Finder) -> str:
    """An API key that nobody has."""
    return finder.watch(Canary.of("key", f"ownup_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"))


def logged(caplog: pytest.LogCaptureFixture) -> bytes:
    """Write down all that is in the log's records."""
    return repr([vars(record) for record in caplog.records]).encode()


def test_a_refused_command_is_logged_without_the_agents_words(
    web: Web, redis_url: str, finder: Finder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = finder.plant("words")
    with PlayedWorker(redis_url, ends_with(CommandState.FAILED, words)):
        response = web.post(EXEC, json={"command": "true"})
    assert response.status_code == 500
    assert words in response.text
    assert "StartRefusedError" in logged(caplog).decode()
    assert finder.search("log", logged(caplog)) == []


def test_a_refused_setting_is_logged_without_the_agents_words(
    web: Web, redis_url: str, finder: Finder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = finder.plant("words")

    def reply(store: Store, claim: guest_calls.Claim) -> None:
        store.run(guest_calls.end(claim.call.id, GuestCallState.FAILED, claim.call.created_at, message=words))

    with PlayedWorker(redis_url, never_answers, reply=reply):
        response = web.post("/api/vm/10000/reset-password", json={"password": finder.plant("password")})
    assert response.status_code == 500
    assert words in response.text
    assert "GuestCallRefusedError" in logged(caplog).decode()
    assert finder.search("log", logged(caplog)) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/keys/{}"),
        ("POST", "/api/vm/{}/agent/exec"),
        ("GET", "/api/jobs/{}"),
        ("GET", "/api/v2/vps/{}"),
        ("POST", "/api/v2/vps/{}/actions/start"),
        ("POST", "/{}"),
        ("POST", EXEC),
        ("GET", f"{SERVERS}?marker={{}}"),
    ],
)
def test_a_key_that_stands_where_none_belongs_is_repeated_nowhere(
    web: Web, finder: Finder, key: str, method: str, path: str
) -> None:
    headers = {"X-API-Key": web.key, "X-Auth-Token": web.key}
    body = {"command": "true", key: 1}
    response = web.app.test_client().open(path.format(key), method=method, headers=headers, json=body)
    assert response.status_code in {400, 404}, response.text
    assert finder.search("answer", response.data + repr(response.headers).encode()) == []
    assert finder.search("Redis", everything_in(web.client)) == []


def test_such_a_request_is_in_the_audit_trail_all_the_same(web: Web, key: str) -> None:
    web.delete(f"/api/keys/{key}")
    (entry,) = web.store.run(audit.read_latest(1)).links
    assert f"{key.rpartition('_')[0][:22]}_(hidden)" in entry.text
