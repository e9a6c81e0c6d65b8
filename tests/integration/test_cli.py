"""``ownup keys``: what it prints, what it stores, how it fails."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.access import Scope
from app.cli import main
from app.core.store import keys
from app.core.store.keys import MOST_OF_AN_ACCOUNT
from tests.web import Web

CREATE = ("create", "--account", "acme", "--name", "ci", "--scopes")


def line_of(redis_url: str, key_id: str) -> str:
    """Find the line of a key in the list for people."""
    (line,) = [line for line in ownup(redis_url, "list").stdout.splitlines() if line.startswith(key_id)]
    return line


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
    assert set(made) == {
        "keyId", "secret", "account", "name", "description", "scopes", "allowedIps", "allowedVmids", "allowedCommands",
        "isTest", "isActive", "createdAt", "createdBy", "expiresAt",
    }  # fmt: skip
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
    scopes = "read:vm,write:vm,power:vm,backup:vm,write:account"
    assert line.split() == [made["keyId"], "active", "acme", scopes, "used:never", "ci"]


def test_limits_are_stored_and_shown(web: Web, redis_url: str):
    made = create(
        redis_url, "read:vm,write:vm", "--description", "CI", "--test", "--allow-ip", "192.0.2.7",
        "--allow-ip", "2001:DB8::/32", "--allow-vmid", "10000", "--allow-vmid", "10001",
        "--allow-command", "/opt/deploy.sh *",
    )  # fmt: skip
    key = web.store.run(keys.find(made["keyId"]))
    assert key is not None
    assert (key.description, key.is_test, key.created_by) == ("CI", True, None)
    assert key.allowed_ips == tuple(made["allowedIps"]) == ("192.0.2.7/32", "2001:db8::/32")
    assert key.allowed_vmids == tuple(made["allowedVmids"]) == (10000, 10001)
    assert key.allowed_commands == tuple(made["allowedCommands"]) == ("/opt/deploy.sh *",)
    assert "ips:192.0.2.7/32,2001:db8::/32  vmids:10000,10001  commands:1" in line_of(redis_url, made["keyId"])


def test_admin_must_be_named(redis_url: str):
    assert "admin" not in create(redis_url, "all")["scopes"]
    assert create(redis_url, "read:vm,admin")["scopes"] == ["read:vm", "admin"]


def test_last_use_is_shown(web: Web, redis_url: str):
    made = create(redis_url, "all")
    assert web.get("/api/vm", made["secret"]).status_code == 200
    listed = {key["keyId"]: key for key in json.loads(ownup(redis_url, "list", "--json").stdout)}
    assert listed[web.key.split("_")[1]]["lastUsedAt"] is None
    used = datetime.fromisoformat(listed[made["keyId"]]["lastUsedAt"])
    assert abs(used - datetime.now(UTC)) < timedelta(seconds=10)
    assert f"used:{used.isoformat(timespec='minutes')}" in line_of(redis_url, made["keyId"])


def test_rolled_key_has_another_secret(web: Web, redis_url: str):
    made = create(redis_url, "all")
    rolled = json.loads(ownup(redis_url, "roll", made["keyId"], "--json").stdout)
    assert {name for name in made if made[name] != rolled[name]} == {"secret"}
    assert web.get("/api/vm", made["secret"]).status_code == 401
    assert web.get("/api/vm", rolled["secret"]).status_code == 200
    shown = ownup(redis_url, "roll", made["keyId"]).stdout.split()[-1]
    assert web.get("/api/vm", shown).status_code == 200


def test_key_is_switched_off_and_on(web: Web, redis_url: str):
    made = create(redis_url, "all")
    assert ownup(redis_url, "disable", made["keyId"]).stdout == f"Key {made['keyId']} is off\n"
    assert web.get("/api/vm", made["secret"]).status_code == 401
    assert line_of(redis_url, made["keyId"]).split()[1] == "off"
    assert ownup(redis_url, "enable", made["keyId"]).stdout == f"Key {made['keyId']} is on\n"
    assert web.get("/api/vm", made["secret"]).status_code == 200


@pytest.mark.parametrize("what", ["roll", "enable", "disable"])
def test_what_is_over_stays_so(web: Web, redis_url: str, what: str):
    revoked = create(redis_url, "all")["keyId"]
    ownup(redis_url, "revoke", revoked)
    expired = web.make_key(expires_at=datetime.now(UTC) - timedelta(seconds=1)).split("_")[1]
    for key_id, state in ((revoked, "revoked"), (expired, "expired")):
        before = web.store.run(keys.find(key_id))
        result = ownup(redis_url, what, key_id)
        assert (result.exit_code, result.stderr) == (1, f"Error: Key {key_id} is {state}, for good; make another one\n")
        assert web.store.run(keys.find(key_id)) == before


def test_record_of_an_older_version_is_read_and_listed(web: Web, redis_url: str):
    web.client.delete(*web.client.keys("ownup:*key*"))
    made = create(redis_url, "all")
    old = f"ownup:key:{made['keyId']}"
    web.client.hdel(
        old, "is_test", "is_active", "allowed_ips", "allowed_vmids", "allowed_commands", "created_by", "version"
    )
    web.client.delete("ownup:account:acme:keys", "ownup:accounts")
    web.client.sadd("ownup:keys", made["keyId"])
    assert web.get("/api/vm", made["secret"]).status_code == 200
    assert [key["keyId"] for key in json.loads(ownup(redis_url, "list", "--json").stdout)] == [made["keyId"]]
    assert [key["key_id"] for key in web.get("/api/keys", made["secret"]).json["data"]["keys"]] == [made["keyId"]]
    assert ownup(redis_url, "disable", made["keyId"]).exit_code == 0
    assert web.client.exists("ownup:keys") == 0


def test_an_account_has_so_many_and_no_more(web: Web, redis_url: str):
    for _ in range(MOST_OF_AN_ACCOUNT - 1):
        web.make_key(Scope.READ_VM)
    result = ownup(redis_url, *CREATE, "all")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"has {MOST_OF_AN_ACCOUNT} keys" in result.stderr


@pytest.mark.parametrize(
    ("args", "exit_code", "said"),
    [
        ((*CREATE, "read:vm,fly:vm"), 2, f"fly:vm is no scope; known are {', '.join(Scope)}, all"),
        ((*CREATE, ","), 2, "nothing is no scope"),
        ((*CREATE, "all", "--expires-in-days", "0"), 2, "--expires-in-days"),
        (("create", "--account", "", "--name", "ci", "--scopes", "all"), 2, "--account"),
        (("create", "--name", "ci", "--scopes", "all"), 2, "--account"),
        (("revoke", "0123456789abcdef"), 1, "There is no key 0123456789abcdef"),
        (("revoke", "0123456789abcdef:open"), 1, "There is no key"),
        (("roll", "0123456789abcdef"), 1, "There is no key 0123456789abcdef"),
        ((*CREATE, "all", "--allow-ip", "10.1.2.3/8"), 2, "--allow-ip"),
        ((*CREATE, "all", "--allow-vmid", "0"), 2, "--allow-vmid"),
        ((*CREATE, "all", "--allow-command", " "), 2, "--allow-command"),
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
