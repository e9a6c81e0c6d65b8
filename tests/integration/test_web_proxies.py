"""The web application behind a trusted proxy: keys that are bound to addresses, and links that lead back to it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.access import TENANT_SCOPES, issue_key
from app.core import clock
from app.core.store import keys
from tests.web import ACCOUNT, STATUS, Web

CLIENT = "198.51.100.9"


@pytest.fixture
def behind(redis_url: str) -> Iterator[Web]:
    web = Web(redis_url, TRUSTED_PROXIES="10.0.0.0/8")
    web.publish()
    key, web.key = issue_key(ACCOUNT, "test", TENANT_SCOPES, clock.now(), None)
    web.store.run(keys.save(replace(key, allowed_ips=("198.51.100.0/24",))))
    yield web
    web.close()


def status_from(web: Web, peer: str, forwarded_for: str) -> int:
    headers = {"X-API-Key": web.key, "X-Forwarded-For": forwarded_for}
    return web.http.get(STATUS, headers=headers, environ_base={"REMOTE_ADDR": peer}).status_code


def test_a_key_that_is_bound_to_addresses_is_judged_by_what_the_proxy_saw(behind: Web):
    assert status_from(behind, "10.0.0.1", CLIENT) == 200
    refused = status_from(behind, "10.0.0.1", "203.0.113.5")
    assert refused in {401, 403}
    assert status_from(behind, "10.0.0.1", f"{CLIENT}, 203.0.113.5") == refused
    assert status_from(behind, "203.0.113.5", CLIENT) == refused  # forged: no proxy of ours


def test_links_lead_to_the_name_that_the_client_used(behind: Web):
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "ownup.example"}
    believed = behind.http.get("/v2.1", headers=headers, environ_base={"REMOTE_ADDR": "10.0.0.1"})
    forged = behind.http.get("/v2.1", headers=headers, environ_base={"REMOTE_ADDR": "203.0.113.5"})
    assert b"https://ownup.example/v2.1" in believed.data
    assert b"ownup.example" not in forged.data


def test_gunicorn_does_not_start_with_a_network_that_is_none():
    root, gunicorn = Path(__file__).parents[2], Path(sys.executable).with_name("gunicorn")
    command = [gunicorn, "--config", "python:app.serving", "app.wsgi:app"]
    environ = os.environ | {"TRUSTED_PROXIES": "everybody"}
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode != 0
    assert "TRUSTED_PROXIES='everybody'" in done.stderr
    assert "Traceback" not in done.stderr
