"""Nets below everybody's own care: reprs, settings, log lines, environments and core files show no secret."""

import dataclasses
import importlib
import pkgutil
import re
import resource
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

import app
import workers
from app.core import env
from app.core.clock import now
from app.core.env import SECRETS
from app.core.errors import AgentRefusedError, SettingsError
from app.core.records import Command, CommandRequest, CommandState
from app.core.secrecy import forget_secrets, hide_keys
from app.core.store import commands
from app.settings import WebSettings
from tests.canaries import Canary, Finder
from workers.commands.start import Starter
from workers.hiding import hide
from workers.qga.channel import AgentFacts
from workers.settings import WorkerSettings

SECRET_FIELDS = {
    "secret", "secret_sha256", "password", "stdin", "env", "line", "argv", "args", "stdout", "stderr", "payload",
    "redis_url", "audit_secret",
}  # fmt: skip
HARMLESS = {"app.guard_rules", "app.shell_line"}
"""Their dataclasses hold rules, and what a shell would read in a line; none of them outlives the check of it."""
KEY = "ownup_0123456789abcdef_" + "Ab-_" * 10 + "xyz"


def dataclasses_of_the_product() -> Iterator[type[Any]]:
    for package in (app, workers):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name in {"app.serving", "app.wsgi", "workers.__main__"} | HARMLESS:  # the first three are programs
                continue
            for kind in vars(importlib.import_module(found.name)).values():
                if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == found.name:
                    yield kind


def test_no_repr_shows_a_secret():
    kinds = list(dataclasses_of_the_product())
    fields = [(kind, field) for kind in kinds for field in dataclasses.fields(kind) if field.name in SECRET_FIELDS]
    shown = [f"{kind.__module__}.{kind.__qualname__}.{field.name}" for kind, field in fields if field.repr]
    assert shown == []
    assert len(fields) > 15
    assert (
        repr(CommandRequest(line="echo x", stdin="secret", env={"A": "secret"}))
        == "CommandRequest(path=None, cwd=None)"
    )


class TestSettings:
    @pytest.mark.parametrize("settings", [WebSettings, WorkerSettings])
    def test_whatever_sounds_like_a_secret_is_treated_as_one(self, settings):
        names = {field.metadata["name"] for field in dataclasses.fields(settings)}
        assert {name for name in names if re.search("SECRET|PASSWORD|TOKEN|REDIS_URL", name)} <= SECRETS
        assert "hunter2" not in repr(
            env.load(settings, {"REDIS_URL": "redis://:hunter2@r/0", "AUDIT_SECRET": "hunter2"})
        )

    @pytest.mark.parametrize(
        "url", ["redis://:hun/ter2@host/0", "http://:hunter2@host", "hunter2", "redis://:a@b:hunter2/0"]
    )
    def test_a_wrong_url_is_told_without_its_password(self, url):
        for settings in (WebSettings, WorkerSettings):
            with pytest.raises(SettingsError) as caught:
                env.load(settings, {"REDIS_URL": url})
            assert "REDIS_URL=(hidden)" in str(caught.value)
            assert "hun" not in str(caught.value)

    @pytest.mark.parametrize(
        "argv", [["-m", "workers"], ["-m", "gunicorn", "--config", "python:app.serving", "app.wsgi:app"]]
    )
    def test_nor_is_it_shown_when_nothing_starts(self, argv):
        environ = {"REDIS_URL": "redis://:hun/ter2@host/0", "PATH": "/usr/bin"}
        done = subprocess.run(
            [sys.executable, *argv], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        assert "REDIS_URL=(hidden)" in done.stderr
        assert "hun" not in done.stdout + done.stderr

    def test_programs_that_are_started_do_not_get_them(self):
        environ = {"REDIS_URL": "redis://:hunter2@r", "AUDIT_SECRET": "hunter2", "PATH": "/bin"}
        forget_secrets(environ)
        assert environ == {"PATH": "/bin"}
        forget_secrets(environ)


class TestLogs:
    def test_what_looks_like_a_key_is_written_without_its_secret(self):
        code = "from app.core import logs; import logging; logs.configure('INFO')\n"
        code += f"logging.info('a', extra={{'path': '/{KEY}'}})\n"
        code += f"try: int('{KEY}')\nexcept ValueError: logging.exception('b')"
        written = run(code)
        assert written.count("ownup_0123456789abcdef_(hidden)") == 2
        assert "Ab-_" not in written

    def test_libraries_never_write_what_passes_through_them(self):
        code = (
            "from app.core import logs; import logging; logs.configure('DEBUG'); "
            "names = ('app.x', 'workers.x', 'qemu.qmp', 'redis', 'rq', 'asyncio'); "
            "[logging.getLogger(name).debug(name) for name in names]"
        )
        assert re.findall("event=(.*)", run(code)) == ["app.x", "workers.x"]

    @pytest.mark.parametrize("text", ["", "ownup_", "ownup_0123456789abcdef", "other"])
    def test_other_texts_stay_as_they_are(self, text):
        assert hide_keys(text) == text


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stderr


def test_a_process_that_forbids_core_files_leaves_none_nor_do_its_children():
    code = (
        "from app.core.secrecy import forbid_core_files; import subprocess, sys; forbid_core_files(); "
        "sys.stderr.write(subprocess.run(['sh', '-c', 'ulimit -S -c'], capture_output=True, text=True).stdout)"
    )
    assert run(code).strip() == "0"
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] >= -1


class TestAgentsThatRepeatWhatTheyDoNotLike:
    def test_what_they_repeat_is_hidden(self):
        finder = Finder()
        canary = finder.watch(Canary.make("value", " é"))
        told = f"can't use {canary}, in base64 {b64encode(canary.encode()).decode()}"
        assert finder.search("before", told.encode())
        assert finder.search("after", hide(told, "", canary).encode()) == []
        assert hide("short", "") == "short"

    async def test_a_refused_start_is_told_without_stdin_and_env(self):
        request = CommandRequest(line="true", stdin="the stdin", env={"A": "the value", "B": "no"})
        guest, outcomes = RepeatingGuest(), KeptOutcomes(request)
        starter = Starter(outcomes, None, lambda _vmid: guest, rpc_timeout_s=1)
        await starter.start("c1", 1)
        assert outcomes.ends == ["guest-exec: can't use (hidden); (hidden); no"]


class RepeatingGuest:
    """A VM whose agent refuses each start, with all that came with it."""

    lacks_setsid = True

    def __init__(self):
        self.channel = self

    async def open(self):
        return AgentFacts("7.2", frozenset({"guest-exec", "guest-exec-status"}), windows=False, identity=None)

    async def call(self, rpc, arguments, *, timeout_s):
        del timeout_s
        words = (arguments["input-data"], *(pair.partition("=")[2] for pair in arguments["env"][-2:]))
        raise AgentRefusedError(rpc, "GenericError", f"can't use {'; '.join(words)}")


class KeptOutcomes:
    """Hands out one claim, and keeps how it ends."""

    def __init__(self, request):
        self.ends = []
        moment = now()
        command = Command(
            id="c1", vmid=1, account="a", node="n", state=CommandState.QUEUED, created_at=moment, deliver_by=moment
        )
        self._claim = commands.Claim(command, request)

    async def persist(self, _call):
        return self._claim

    async def end(self, _command_id, end):
        self.ends.append(end.message)
