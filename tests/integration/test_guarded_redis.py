"""Web, worker and `ownup` on a real Redis with TLS and a password: all goes through, and nobody tells the password."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from tests.faults.peers import Worker, fake_agents, until
from tests.guarded_redis import PASSWORD, QUOTED_PASSWORD, GuardedRedis
from tests.redis_contents import everything_in

ROOT = Path(__file__).parents[2]
VMID = 10001
WRONG = "wr0ng%2Fword"
SECRET_PARTS = ("s3cret", "word-of-redis", "wr0ng")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ownup") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[GuardedRedis]:
    with GuardedRedis(folder / "redis", tls=True) as server:
        yield server


def no_secret_in(text: str) -> None:
    assert not [part for part in SECRET_PARTS if part in text], text


def ownup(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).with_name("ownup")
    environ = os.environ | {"REDIS_URL": url}
    done = subprocess.run([program, *arguments], env=environ, capture_output=True, text=True, check=False, timeout=30)
    no_secret_in(done.stderr)
    return done


def web_command() -> list[str | Path]:
    line = next(line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("web: "))
    return [Path(sys.executable).with_name("gunicorn"), *shlex.split(line)[2:]]


@contextlib.contextmanager
def served(url: str, log_path: Path) -> Iterator[str]:
    """Serve the web half; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = os.environ | {"REDIS_URL": url, "PORT": str(port), "WEB_PROCESSES": "1", "LOG_LEVEL": "DEBUG"}
    with log_path.open("wb") as log:
        server = subprocess.Popen(web_command(), cwd=ROOT, env=environ, stderr=log)
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, log_path.read_text()
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{address}/healthz", timeout=5).ok
        return False

    try:
        until(30, "gunicorn answers", answers, 0.05)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def run_command(address: str, key: str) -> dict[str, Any]:
    path, headers = f"{address}/api/vm/{VMID}/agent/exec", {"X-API-Key": key}

    def available() -> bool:
        found = requests.get(path, headers=headers, timeout=10)
        return found.ok and bool(found.json()["data"]["available"])

    until(20, "the agent is available", available, 0.05)
    body = {"command": "echo through TLS", "wait": 10}
    answer = requests.post(path, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["data"]
    return result


def test_a_command_goes_through_and_the_password_stays_where_it_is(folder: Path, guarded: GuardedRedis) -> None:
    made = ownup(guarded.url, "keys", "create", "--account", "acme", "--name", "ci", "--scopes", "all", "--json")
    key = json.loads(made.stdout)["secret"]
    worker = Worker(folder, guarded.url, LOG_LEVEL="DEBUG")
    with fake_agents(folder, VMID, 1), worker, served(guarded.url, folder / "web.log") as address:
        worker.carry(VMID, folder / f"{VMID}.qga")
        assert run_command(address, key)["stdout"] == "through TLS\n"
        with redis.Redis.from_url(guarded.url) as client:
            kept = everything_in(client)
            client.config_set("requirepass", "another")
            client.client_kill_filter(skipme=True)
        refused = requests.get(f"{address}/api/vm", headers={"X-API-Key": key}, timeout=10)
        until(10, "the worker has noticed", lambda: requests.get(f"{address}/readyz", timeout=10).status_code == 503)
        with redis.Redis.from_url(guarded.url_with("another")) as client:
            client.config_set("requirepass", PASSWORD)
        assert run_command(address, key)["stdout"] == "through TLS\n"
    assert refused.status_code == 503
    for text in (refused.text, worker.log, (folder / "web.log").read_text(), kept.decode("latin-1")):
        no_secret_in(text)


def test_a_user_with_the_rights_that_the_readme_names_is_enough(folder: Path, guarded: GuardedRedis) -> None:
    [rules] = re.findall(r"`user ownup ([^`]+)`", (ROOT / "deploy/README.md").read_text())
    with redis.Redis.from_url(guarded.url) as client:
        client.execute_command("ACL", "SETUSER", "ownup", "reset", *rules.replace("LONG-AND-RANDOM", PASSWORD).split())
        client.flushall()
    url = guarded.url.replace("rediss://:", "rediss://ownup:")
    made = ownup(url, "keys", "create", "--account", "acme", "--name", "ci", "--scopes", "all", "--json")
    key = json.loads(made.stdout)["secret"]
    worker = Worker(folder, url)
    with fake_agents(folder, VMID, 1), worker, served(url, folder / "web.log") as address:
        worker.carry(VMID, folder / f"{VMID}.qga")
        assert run_command(address, key)["stdout"] == "through TLS\n"
        requests.get(f"{address}/api/vm", headers={"X-API-Key": "wrong"}, timeout=10)
        assert requests.get(f"{address}/readyz", timeout=10).status_code == 200
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0
    with redis.Redis.from_url(guarded.url) as client:
        refused = [entry["object"] for entry in client.acl_log() if entry["username"] == "ownup"]
    assert refused == []
    for text in (worker.log, (folder / "web.log").read_text()):
        assert "NOPERM" not in text
        assert "Traceback" not in text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda server: server.url_with(WRONG), "Redis refuses this user name and password"),
        (lambda server: server.url.replace(f":{QUOTED_PASSWORD}@", ""), "Redis refuses this user name and password"),
        (lambda server: server.url.partition("?")[0], "the certificate of Redis is not trusted"),
        (lambda server: server.url.replace("127.0.0.1", "localhost"), "the certificate of Redis is not trusted"),
        (lambda server: server.url.replace("ca.crt", "none"), "ssl_ca_certs names no file"),
        (lambda server: f"{server.url}&ssl_cert_reqs=maybe", "has an option that is none"),
        (lambda server: f"{server.url}&nosuch=1", "has an option that is none"),
        (lambda server: server.url_with("s3cret/word-of-redis"), "must be redis://, rediss:// or unix://"),
    ],
)
def test_what_cannot_work_is_said_at_the_start(folder: Path, guarded: GuardedRedis, wrong: Any, words: str) -> None:
    url = wrong(guarded)
    by_hand = ownup(url, "keys", "list")
    assert (by_hand.returncode, words in by_hand.stderr) == (1, True), by_hand.stderr
    environ = os.environ | {"REDIS_URL": url, "SPOOL_DIR": str(folder / "spool2"), "VM_DIR": str(folder)}
    for command in (web_command(), [sys.executable, "-m", "workers"]):
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 1, done.stderr
        assert "REDIS_URL" in done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        no_secret_in(done.stderr)
