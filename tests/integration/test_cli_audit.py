"""``ownup audit``: what it shows, what it exports, and which tampering it names."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.audit_trail import assert_whole, entries, ownup_audit
from tests.e2e.conftest import until
from tests.web import STATUS, Web

OWNUP = Path(sys.executable).with_name("ownup")
SECRET = "a secret"
INTERRUPTIBLE = ("env", "--default-signal=INT")
"""What a shell runs in the background ignores the signal of Ctrl-C, and all that it starts does so too."""


@pytest.fixture
def five(web: Web) -> Web:
    """A trail of five entries."""
    for action in ("start", "stop", "shutdown", "restart"):
        assert web.post(STATUS, json={"action": action}).status_code == 200
    web.get("/api/vm", f"ownup_0123456789abcdef_{'x' * 43}")
    return web


def exported(redis_url: str, *args: str) -> list[dict[str, Any]]:
    result = ownup_audit(redis_url, "export", *args)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def change(client: redis.Redis, tamper: Callable[[list[dict[bytes, bytes]]], list[dict[bytes, bytes]]]) -> None:
    """Write the stream anew, as somebody can who has Redis's password."""
    kept = [fields for _, fields in client.xrange("ownup:audit")]
    client.delete("ownup:audit")
    for fields in tamper(kept):
        client.xadd("ownup:audit", fields)  # type: ignore[arg-type]


# --- tail and export --------------------------------------------------------------------------------------------------


def test_tail_shows_the_latest_for_people(five: Web, redis_url: str):
    lines = ownup_audit(redis_url, "tail").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["1", "2", "3", "4", "5"]
    assert re.fullmatch(
        rf"2  \S+T\S+  \S+  {five.key.split('_')[1]}  acme  127\.0\.0\.1  POST  /api/vm/<vmid>/status  10000  200  -  "
        r"action='stop'  force=False",
        lines[1],
    )
    assert "  (0123456789abcdef)  -  127.0.0.1  GET  /api/vm  -  401  unauthorized" in lines[4]
    assert len(ownup_audit(redis_url, "tail", "-n", "2").stdout.splitlines()) == 2
    assert ownup_audit(redis_url, "tail", "-n", "0").stdout == ""


def test_tail_as_json_is_the_end_of_the_export(five: Web, redis_url: str):
    lines = ownup_audit(redis_url, "tail", "-n", "2", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == exported(redis_url)[-2:]
    assert len(entries(five.client)) == 5


def test_tail_follows_what_comes_until_it_is_told_to_end(five: Web, redis_url: str, tmp_path: Path):
    shown = tmp_path / "shown"
    environ = os.environ | {"REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1"}
    with shown.open("wb") as out:
        following = subprocess.Popen(
            [*INTERRUPTIBLE, OWNUP, "audit", "tail", "-n", "1", "--follow"], env=environ, stdout=out
        )
    try:
        until(10, "it shows the last entry", lambda: len(shown.read_text().splitlines()) == 1)
        five.post(STATUS, json={"action": "stop"})
        until(10, "it shows what came", lambda: len(shown.read_text().splitlines()) == 2)
    finally:
        following.send_signal(signal.SIGINT)
        try:
            following.wait(10)
        finally:
            following.kill()
            following.wait()
    assert [line.split("  ")[0] for line in shown.read_text().splitlines()] == ["5", "6"]


def test_export_is_all_of_it_as_json_lines_with_hashes(five: Web, redis_url: str):
    found = exported(redis_url)
    hashes = [fields[b"hash"].decode() for _, fields in five.client.xrange("ownup:audit")]
    assert found == [entry | {"hash": each} for entry, each in zip(entries(five.client), hashes, strict=True)]


def test_export_begins_where_it_is_told_to(five: Web, redis_url: str):
    third_id = five.client.xrange("ownup:audit")[2][0].decode()
    moment = datetime.fromtimestamp(int(third_id.partition("-")[0]) / 1000).astimezone().isoformat()
    assert [entry["seq"] for entry in exported(redis_url, "--since", moment)][-3:] == [3, 4, 5]
    assert len(exported(redis_url, "--since", "2020-01-01")) == 5
    assert exported(redis_url, "--since", "2100-01-01T00:00:00Z") == []


def test_a_long_trail_is_read_to_its_end(web: Web, redis_url: str):
    audit = web.services().audit
    for number in range(2001):
        audit.write({"requestId": str(number)})
    assert [entry["seq"] for entry in exported(redis_url)] == list(range(1, 2002))
    assert assert_whole(redis_url) == "2001 entries, 1 to 2001: the chain is whole"


# --- verify -----------------------------------------------------------------------------------------------------------


def test_a_trail_that_is_empty_or_whole_is_said_to_be(web: Web, redis_url: str):
    assert assert_whole(redis_url) == "0 entries: the chain is whole"
    web.post(STATUS, json={"action": "stop"})
    assert assert_whole(redis_url) == "1 entries, 1 to 1: the chain is whole"


def changed(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return fields | {b"entry": fields[b"entry"].replace(b"acme", b"evil")}


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (lambda kept: [kept[0], changed(kept[1]), *kept[2:]], "2: changed (its hash is another one)"),
        (lambda kept: [*kept[:2], *kept[4:]], "3 to 4: removed (not there)"),
        (lambda kept: kept[1:], "1: removed (not there)"),
        (lambda kept: kept[:-1], "5: removed (not there)"),
        (lambda kept: [*kept, kept[0]], "1: added (stands again after 5)"),
        (lambda kept: [kept[0], kept[2], kept[1], *kept[3:]], "2: order (stands after 3)"),
        (lambda kept: [kept[0], {b"other": b"\xff"}, *kept[2:]], "2: changed (its hash is another one)"),
    ],
)
def test_tampering_is_named_and_is_a_failure(
    five: Web, redis_url: str, tamper: Callable[[list[dict[bytes, bytes]]], list[dict[bytes, bytes]]], said: str
):
    change(five.client, tamper)
    result = ownup_audit(redis_url, "verify")
    assert (result.exit_code, result.stdout) == (1, f"{said}\n")


def test_a_head_that_was_removed_or_changed_is_a_failure(five: Web, redis_url: str):
    five.client.hset("ownup:audit:head", "seq", "no number")
    assert ownup_audit(redis_url, "verify").exit_code == 1
    five.client.delete("ownup:audit:head")
    result = ownup_audit(redis_url, "verify")
    assert (result.exit_code, result.stdout) == (1, "1 to 5: added (the trail ends at 0)\n")


def test_much_damage_is_told_in_few_lines(web: Web, redis_url: str):
    audit = web.services().audit
    for number in range(50):
        audit.write({"requestId": str(number), "who": "acme"})
    change(web.client, lambda kept: [changed(fields) for fields in kept])
    lines = ownup_audit(redis_url, "verify").stdout.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 30 more"


def test_a_trail_with_a_secret_is_whole_to_who_has_it(redis_url: str):
    web = Web(redis_url, AUDIT_SECRET=SECRET)
    web.key = web.make_key()
    web.publish()
    web.post(STATUS, json={"action": "stop"})
    assert_whole(redis_url, AUDIT_SECRET=SECRET)
    assert ownup_audit(redis_url, "verify").exit_code == 1
    web.close()


def test_an_exported_file_can_be_verified_from_any_line_on(five: Web, redis_url: str, tmp_path: Path):
    lines = ownup_audit(redis_url, "export").stdout.splitlines(keepends=True)
    file = tmp_path / "trail"

    def verify(text: str) -> tuple[int, str]:
        file.write_text(text)
        result = ownup_audit("unix:///nowhere", "verify", "--file", str(file))
        return result.exit_code, result.stdout

    assert verify("".join(lines)) == (0, "5 entries, 1 to 5: the chain is whole\n")
    assert verify("".join(lines[2:])) == (0, "3 entries, 3 to 5: the chain is whole\n")
    assert verify("".join([*lines[:2], *lines[3:]])) == (1, "3: removed (not there)\n")
    assert verify("".join(lines).replace("restart", "RESTART")) == (1, "4: changed (its hash is another one)\n")
    assert len(entries(five.client)) == 5


@pytest.mark.parametrize(
    ("args", "exit_code", "said"),
    [
        (("export", "--since", "yesterday"), 2, "must be like 2026-02-10"),
        (("verify", "--file", "/nowhere"), 2, "No such file"),
        (("tail", "-n", "-1"), 2, "-n"),
        (("verify",), 1, "The data store is not reachable"),
        (("tail",), 1, "The data store is not reachable"),
    ],
)
def test_mistakes_are_named(args: tuple[str, ...], exit_code: int, said: str):
    result = ownup_audit("unix:///nowhere/redis.sock", *args)
    assert result.exit_code == exit_code
    assert said in result.stderr
    assert "Traceback" not in result.output
