"""``ownup keys``: what it prints, what it stores, how it fails."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.access import Scope
from app.cli import main
from app.core.store import keys
from tests.web import Web

CREATE = ("create", "--account", "acme", "--name", "ci", "--scopes")


def ownup(redis_url: str, *args: str) -> Result:
    return CliRunner().invoke(main, ["keys", *args], env={"REDIS_URL": redis_url})


def create(redis_url: str, *args: str) -> dict[str, Any]:
    result = ownup(redis_url, *CREATE, *args, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_new_key_opens_the_door(web: Web, redis_url: str):
    made = create(redis_url, "read:vm")
    assert web.get("/api/vm", made["secret"]).status_code == 200
    assert web.post("/api/vm/10000/agent/exec", made["secret"], json={"command": "true"}).status_code == 403


def test_json_of_a_new_key(redis_url: str):
    made = create(redis_url, "read:vm,write:vm,read:vm", "--expires-in-days", "30")
    assert set(made) == {"keyId", "secret", "account", "name", "scopes", "createdAt", "expiresAt"}
    assert made["secret"].startswith(f"ownup_{made['keyId']}_")
    assert (made["account"], made["name"], made["scopes"]) == ("acme", "ci", ["read:vm", "write:vm"])
    life = datetime.fromisoformat(made["expiresAt"]) - datetime.fromisoformat(made["createdAt"])
    assert life == timedelta(days=30)


def test_all_is_every_scope_and_no_expiry_is_none(redis_url: str):
    made = create(redis_url, "all")
    assert made["scopes"] == ["read:vm", "write:vm", "power:vm", "backup:vm", "write:account"]
    assert made["expiresAt"] is None


def test_secret_is_shown_once_and_stored_as_a_hash(web: Web, redis_url: str):
    shown = ownup(redis_url, *CREATE, "all")
    secret = shown.stdout.split()[-1]
    assert web.get("/api/vm", secret).status_code == 200
    everything = b"".join(value for key in web.client.keys("ownup:key:*") for value in web.client.hgetall(key).values())
    assert secret.rpartition("_")[2].encode() not in everything
    for listing in (ownup(redis_url, "list"), ownup(redis_url, "list", "--json")):
        assert listing.exit_code == 0
        assert secret not in listing.stdout
        assert "secret" not in listing.stdout.lower()
        assert "sha256" not in listing.stdout.lower()


def test_revoked_key_counts_no_more(web: Web, redis_url: str):
    made = create(redis_url, "all")
    for _ in range(2):
        result = ownup(redis_url, "revoke", made["keyId"])
        assert (result.exit_code, result.stdout) == (0, f"Key {made['keyId']} is revoked\n")
    assert web.get("/api/vm", made["secret"]).status_code == 401
    listed = {key["keyId"]: key for key in json.loads(ownup(redis_url, "list", "--json").stdout)}
    assert listed[made["keyId"]]["state"] == "revoked"
    assert listed[made["keyId"]]["revokedAt"] is not None


def test_revoking_again_keeps_the_first_moment(web: Web, redis_url: str):
    key_id = create(redis_url, "all")["keyId"]
    ownup(redis_url, "revoke", key_id)
    first = web.store.run(keys.find(key_id))
    ownup(redis_url, "revoke", key_id)
    assert web.store.run(keys.find(key_id)) == first


def test_list_for_people_names_each_key(redis_url: str):
    made = create(redis_url, "all")
    (line,) = ownup(redis_url, "list").stdout.splitlines()
    assert line.split() == [made["keyId"], "active", "acme", "read:vm,write:vm,power:vm,backup:vm,write:account", "ci"]


@pytest.mark.parametrize(
    ("args", "exit_code", "said"),
    [
        ((*CREATE, "read:vm,fly:vm"), 2, f"fly:vm is no scope; known are {', '.join(Scope)}, all"),
        ((*CREATE, ","), 2, "nothing is no scope"),
        ((*CREATE, "all", "--expires-in-days", "0"), 2, "--expires-in-days"),
        (("create", "--account", "", "--name", "ci", "--scopes", "all"), 2, "--account"),
        (("create", "--name", "ci", "--scopes", "all"), 2, "--account"),
        (("revoke", "0123456789abcdef"), 1, "There is no key 0123456789abcdef"),
        (("revoke",), 2, "KEY_ID"),
    ],
)
def test_mistakes_are_named(redis_url: str, args: tuple[str, ...], exit_code: int, said: str):
    result = ownup(redis_url, *args)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert said in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("args", [(*CREATE, "all"), ("list",), ("revoke", "0123456789abcdef")])
def test_redis_away_is_said_plainly(args: tuple[str, ...]):
    result = ownup("unix:///nowhere/redis.sock", *args)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: The data store is not reachable at the moment\n"


def test_wrong_setting_is_named():
    result = CliRunner().invoke(main, ["keys", "list"], env={"WEB_THREADS": "many"})
    assert result.exit_code == 1
    assert "WEB_THREADS" in result.stderr


def test_installed_command_runs(redis_url: str):
    command = Path(sys.executable).with_name("ownup")
    done = subprocess.run(
        [command, "keys", "list"], env=os.environ | {"REDIS_URL": redis_url}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
