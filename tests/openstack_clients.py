"""The real OpenStack clients, pointed at a running system: the command line, and programs that use the SDK."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from lab import openstack_clients

CALL_TIMEOUT_S = 60


class Clients:
    """The clients, set up as a customer would do it."""

    def __init__(self, **environ: str) -> None:
        shared = Path(os.environ.get("VAR_DIR") or "var").resolve()
        self._programs = openstack_clients.install(shared)
        self._environ = {"PATH": os.defpath, "HOME": os.devnull} | environ

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `openstack`, whatever comes of it."""
        return self._run([self._programs.openstack, *words])

    def openstack(self, *words: str) -> str:
        """Run `openstack`, which must succeed; answer what it printed."""
        return _output(self.run(*words))

    def json(self, *words: str) -> Any:
        """Run `openstack`, which must succeed; answer what it printed as JSON."""
        return json.loads(self.openstack(*words, "-f", "json"))

    def sdk(self, program: str, *arguments: str) -> Any:
        """Run a program that has `conn`, a connection of openstacksdk, and prints JSON; answer that."""
        head = "import json, sys, openstack\nconn = openstack.connect()\n"
        return json.loads(_output(self._run([self._programs.python, "-c", head + program, *arguments])))

    def _run(self, argv: list[str | Path]) -> subprocess.CompletedProcess[str]:
        timeout_s = CALL_TIMEOUT_S
        return subprocess.run(argv, env=self._environ, capture_output=True, text=True, timeout=timeout_s, check=False)


def with_password(url: str, password: str) -> Clients:
    """Set them up for a user with a password."""
    project = {"OS_PROJECT_NAME": "demo", "OS_PROJECT_DOMAIN_NAME": "Default"}
    user = {"OS_USERNAME": "anyone", "OS_PASSWORD": password, "OS_USER_DOMAIN_NAME": "Default"}
    return Clients(OS_AUTH_URL=f"{url}/identity", **project, **user)


def with_credential(url: str, secret: str) -> Clients:
    """Set them up for an application credential."""
    credential = {"OS_APPLICATION_CREDENTIAL_ID": "ci", "OS_APPLICATION_CREDENTIAL_SECRET": secret}
    return Clients(OS_AUTH_URL=f"{url}/identity/v3", OS_AUTH_TYPE="v3applicationcredential", **credential)


def with_token(url: str, token: str) -> Clients:
    """Set them up for a token."""
    project = {"OS_PROJECT_NAME": "demo", "OS_PROJECT_DOMAIN_NAME": "Default"}
    return Clients(OS_AUTH_URL=f"{url}/identity/v3", OS_AUTH_TYPE="v3token", OS_TOKEN=token, **project)


def _output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def without_keystone(url: str, token: str) -> Clients:
    """Set them up for a token, with Nova's address and no log-in."""
    compute = f"{url}/v2.1"
    endpoints = {"OS_ENDPOINT": compute, "OS_COMPUTE_ENDPOINT_OVERRIDE": compute}
    return Clients(OS_AUTH_TYPE="admin_token", OS_TOKEN=token, **endpoints)
