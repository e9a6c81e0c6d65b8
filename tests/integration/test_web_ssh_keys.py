"""The SSH keys an account keeps: checked, numbered, its own."""

import threading
from datetime import UTC, datetime

import pytest

from app.access import Principal, Scope
from app.core.errors import NotFoundError
from app.ssh_keys import LIMIT
from app.ssh_public_key import PublicKey
from tests.unit.test_ssh_public_key import line
from tests.web import Web, assert_refused

PATH = "/api/ssh-keys"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann@laptop"
MD5 = "0f:a2:0a:d7:38:3e:65:45:08:6b:63:84:1c:ff:dc:ba"
ACME = Principal("k", "acme", frozenset())


def some_key(number: int) -> str:
    return line("ssh-ed25519", number.to_bytes(32))


def names(web: Web, key: str | None = None) -> list[str]:
    return [entry["name"] for entry in web.get(PATH, key).json["data"]["ssh_keys"]]


def test_key_that_is_added_is_listed_in_hostups_shape(web: Web):
    assert web.get(PATH).json["data"] == {"ssh_keys": []}
    added = web.post(PATH, json={"name": "laptop", "public_key": f"  {KEY}\n"})
    assert added.status_code == 200
    told = added.json["data"]["ssh_key"]
    kept = {"id": 1, "client_id": "acme", "name": "laptop", "key": KEY, "fingerprint": MD5}
    assert told.pop("server_time") == pytest.approx(datetime.now(UTC).timestamp(), abs=5)
    assert told == {"success": True, "call": "addClientSsh", "info": ["SSH Key added successfully"], "ssh_key": kept}
    assert web.get(PATH).json["data"] == {"ssh_keys": [kept]}


def test_keys_are_listed_by_number_and_numbers_are_not_used_again(web: Web):
    for number in range(12):
        web.post(PATH, json={"name": f"k{number}", "public_key": some_key(number)})
    assert names(web) == [f"k{number}" for number in range(12)]
    assert web.delete(f"{PATH}/12").json["data"] == {"success": True, "message": "SSH key removed"}
    again = web.post(PATH, json={"name": "new", "public_key": some_key(99)})
    assert again.json["data"]["ssh_key"]["ssh_key"]["id"] == 13


def test_name_may_be_any_text(web: Web):
    name = 'Grüße / "quoted" \\ 世界 🐧'
    web.post(PATH, json={"name": name, "public_key": KEY})
    assert names(web) == [name]


def test_equal_key_is_refused_whatever_its_comment(web: Web):
    web.post(PATH, json={"name": "a", "public_key": KEY})
    refused = web.post(PATH, json={"name": "b", "public_key": f"{KEY} and more"})
    assert assert_refused(refused, 400, "BAD_REQUEST", "key") == "Failed to add SSH key"
    assert refused.json["details"][0]["message"] == "Your account has this SSH key already"
    assert names(web) == ["a"]


def test_equal_keys_at_the_same_time_are_kept_once(web: Web):
    def add() -> None:
        statuses.append(web.post(PATH, json={"name": "a", "public_key": KEY}).status_code)

    statuses: list[int] = []
    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [400] * 7


def test_account_keeps_so_many_and_no_more(web: Web):
    keys = web.services().ssh_keys
    for number in range(LIMIT):
        keys.add(ACME, "k", some_key(number))
    refused = web.post(PATH, json={"name": "b", "public_key": KEY})
    assert_refused(refused, 400, "BAD_REQUEST", "key")
    assert str(LIMIT) in refused.json["details"][0]["message"]


def test_keys_of_another_account_are_not_there(web: Web):
    other = web.make_key(account="other")
    web.post(PATH, json={"name": "a", "public_key": KEY})
    assert names(web, other) == []
    assert_refused(web.delete(f"{PATH}/1", other), 404, "NOT_FOUND")
    assert web.post(PATH, other, json={"name": "b", "public_key": KEY}).status_code == 200
    assert (names(web), names(web, other)) == (["a"], ["b"])


def test_key_can_be_renamed(web: Web):
    keys = web.services().ssh_keys
    keys.add(ACME, "a", KEY)
    assert keys.rename(ACME, 1, "b").name == "b"
    assert names(web) == ["b"]
    for nobody, key_id in ((ACME, 2), (Principal("k", "other", frozenset()), 1)):
        with pytest.raises(NotFoundError):
            keys.rename(nobody, key_id, "c")


def test_key_is_kept_as_it_was_checked(web: Web):
    key = web.services().ssh_keys.add(ACME, "a", f"{KEY.replace(' ', '   ', 2)}  ")
    assert key.public_key == KEY == PublicKey.read(KEY).line


@pytest.mark.parametrize("number", ["0", "-1", "a", "1.0", "99999999999999999999"])
def test_number_must_be_one(web: Web, number: str):
    assert_refused(web.delete(f"{PATH}/{number}"), 400, "BAD_REQUEST", "key_id")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x00", "x" * 101, "\udcff", None, 1])
def test_name_is_a_line_of_text(web: Web, name: object):
    assert_refused(web.post(PATH, json={"name": name, "public_key": KEY}), 400, "BAD_REQUEST", "name")


@pytest.mark.parametrize(
    "key", ["", "ssh-rsa AAAA", "-----BEGIN RSA PRIVATE KEY-----\nplanted", KEY + "\n" + KEY, None]
)
def test_what_is_no_public_key_is_refused_without_being_repeated(web: Web, key: object):
    response = web.post(PATH, json={"name": "a", "public_key": key})
    assert_refused(response, 400, "BAD_REQUEST", "public_key")
    assert b"planted" not in response.data


def test_reading_and_writing_need_their_scopes(web: Web):
    reader, writer = web.make_key(Scope.READ_VM), web.make_key(Scope.WRITE_ACCOUNT)
    assert_refused(web.post(PATH, reader, json={"name": "a", "public_key": KEY}), 403, "FORBIDDEN")
    assert web.post(PATH, writer, json={"name": "a", "public_key": KEY}).status_code == 200
    assert_refused(web.get(PATH, writer), 403, "FORBIDDEN")
    assert_refused(web.delete(f"{PATH}/1", reader), 403, "FORBIDDEN")
    assert names(web, reader) == ["a"]
    assert web.delete(f"{PATH}/1", writer).status_code == 200
    assert names(web, reader) == []
