"""Schemathesis, which we did not write, sends to a running system what its OpenAPI documents allow and forbid.

It runs against a system of its own: it switches the VM off and on, goes back to snapshots and changes passwords.
"""

import base64
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from schemathesis import engine
from schemathesis.core.failures import Failure
from schemathesis.engine import events
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.openapi import from_dict
from schemathesis.schemas import BaseSchema

from app import docs
from app.core import ids
from tests.e2e.conftest import REQUEST_TIMEOUT_S, Client, Stack, started, until
from tests.openapi import by_route

pytestmark = pytest.mark.timeout(300)

SEED = 20260210
CASES, POWER_CASES = 20, 5
"""Of what is made at random, for each operation; limits and what lies beyond them come on top."""
POWER = "/api/vm/.*/status$|/actions/(re)?st|/actions/shutdown$|/actions/reset$"
"""The paths of what takes a VM seconds each time."""
QUEUE_TIMEOUT_S = 120
MOST_TOLD_CHARS = 500
SNAPSHOT = "kept"
FILE = "/tmp/kept"
KEY = f"ssh-ed25519 {base64.b64encode(bytes.fromhex('0000000b7373682d6564323535313900000020') + bytes(32)).decode()}"
"""Another one than the documents' example."""
FORESEEN = ["502", "503", "504"]
"""The 5xx that are no defect, where they are documented."""
UNSAID = {
    r"\bcursor: ": "only what an answer gave is one",
    r"\bmarker: ": "only the id of something in the list is one",
    r"\benv\b.*: ": "OpenAPI 3.0 has no words for the names of an object's members",
    r"\bwait: ": "in a query it has no exponent, and the words for a number don't tell",
    r"\bpublic_?[kK]ey: ": "the bytes within it must be a key",
    r"has this SSH key already": "a key is kept only once",
    r"\ballowed_ips\b.*: ": "which text is a network is more than a pattern can say",
    r"\bmust be false: this API key has expired": "what can be switched on depends on the key",
    r"must begin with the name of a program": "OpenAPI 3.0 has no words for one member of a list",
    r"must not contain NUL": "no text in JSON is free of them unless a pattern says so",
    r"\bpath: must be": "what is an absolute path depends on the guest's system",
    r"Missing request body": "none is an empty one, and an empty file is a file",
}
"""What is refused though it is as documented, or the other way round, by the message, and why no document says it."""
UNKEPT = "/api/vm/{vmid}/hostname"
"""HostUp takes 253 characters and a Linux kernel 64: v1 has 500 for what a guest refuses, and says what it said."""
LIKE_A_KEY = "/api/keys/scopes"
"""OPTIONS names the methods of a key's path too, of which it is one but for its own GET."""
SERVER_ERROR, JUDGED = "ST101", {"ST201", "ST202"}
"""What schemathesis calls an answer with 5xx, and a request that is judged otherwise than documented."""


class Run:
    """The system that is asked, and what it has answered."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.client: Client = stack.client
        self.vmid = stack.vmids[0]
        self.http = requests.Session()
        self.http.headers.update({"X-API-Key": stack.key, "X-Auth-Token": stack.key})
        self.statuses: dict[str, Counter[int]] = defaultdict(Counter)
        self.spent_s: dict[str, float] = defaultdict(float)
        self.failures: dict[str, str] = {}
        """What is wrong, and the first case of it."""
        self._label = ""

    def execute(self, schema: BaseSchema) -> None:
        """Send all cases of a document."""

        @schemathesis.hook
        def before_call(
            _context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]
        ) -> None:
            if case.operation.label != self._label:
                self._label = case.operation.label
                self._prepare(case.operation.path)

        schema.hooks.hook("filter_failure")(is_counted)
        try:
            for event in engine.from_schema(schema).execute():
                self._note(event)
        finally:
            schemathesis.hooks.unregister(before_call)

    def known(self) -> dict[str, Any]:
        """Tell the values of parameters that name something that is there."""
        return {
            "path.vmid": self.vmid,
            "path.vps_id": ids.vps_id(self.vmid),
            "path.server_id": ids.openstack_id(self.vmid),
            "path.flavor_id": "1cpu-256mb",
            "path.snapshot_id": SNAPSHOT,
            "path.job_id": self.client.ask_power(self.vmid, "start"),
            "path.command_uuid": self._command_uuid(),
            "header.X-Subject-Token": self._log_in(),
            "query.pid": {"dictionary": "pid", "probability": 0.5},
        }

    def api_keys(self) -> list[dict[str, Any]]:
        """Tell for each operation on an API key one that is there."""
        path = "/api/keys/{key_id}"
        return [
            {"include-name": name, "parameters": {"path.key_id": self._make_api_key()}}
            for name in (f"PUT {path}", f"DELETE {path}", f"POST {path}/roll")
        ]

    def _make_api_key(self) -> str:
        body = {"name": "kept", "scopes": ["read:vm"]}
        made = self.http.post(f"{self.stack.url}/api/keys", json=body, timeout=REQUEST_TIMEOUT_S).json()
        key_id: str = made["data"]["key_id"]
        return key_id

    def examples(self) -> dict[str, str]:
        """Tell what stands for the documents' examples of bodies: a key that is there, and it alone."""
        url = f"{self.stack.url}/api/ssh-keys"
        for key in self.client.read("/api/ssh-keys")["ssh_keys"]:
            assert self.http.delete(f"{url}/{key['id']}", timeout=REQUEST_TIMEOUT_S).status_code == 200
        kept = self.http.post(url, json={"name": "kept", "public_key": KEY}, timeout=REQUEST_TIMEOUT_S).json()
        key_id = kept["data"]["ssh_key"]["ssh_key"]["id"]
        keys = {"ssh_01hxa3b4c5d6e7f8g9h0j1k2m3": ids.ssh_key_id(key_id), "2830": str(key_id)}
        return keys | {"ownup_0123456789abcdef_secret": self.stack.key, "/etc/hostname": FILE}

    def _prepare(self, path: str) -> None:
        """Before the first case of an operation, have the VM run again as if nothing had been done to it."""
        self.client.follow(self.client.ask_power(self.vmid, "start"), QUEUE_TIMEOUT_S)  # behind all that was queued
        self.client.wait_available(self.vmid)
        if path.endswith("/actions/start"):
            self.client.power(self.vmid, "stop")
        if "/snapshots" in path:
            self._keep_snapshot()
        if path.endswith("/file-read"):
            self.client.output(self.vmid, f"echo kept >{FILE}")

    def _keep_snapshot(self) -> None:
        path = f"/api/vm/{self.vmid}/snapshots"
        if SNAPSHOT not in [entry["name"] for entry in self.client.read(path)]:
            response = self.client.post(path, snapname=SNAPSHOT)
            assert response.status_code == 200, response.text
            assert self.client.follow(response.json()["data"]["jobId"])[-1]["isCompleted"]

    def _command_uuid(self) -> str:
        """Have a command run; tell its id."""
        argv = {"command": {"type": "exec", "arguments": {"command": ["true"]}}}
        url = f"{self.stack.url}/v2.1/servers/{ids.openstack_id(self.vmid)}/guest-agent/commands"
        uuid: str = self.http.post(url, json=argv, timeout=REQUEST_TIMEOUT_S).json()["command"]["uuid"]
        return uuid

    def _log_in(self) -> str:
        body = {"auth": {"identity": {"methods": ["token"], "token": {"id": self.stack.key}}}}
        url = f"{self.stack.url}/identity/v3/auth/tokens"
        return self.http.post(url, json=body, timeout=REQUEST_TIMEOUT_S).headers["X-Subject-Token"]

    def _note(self, event: events.EngineEvent) -> None:
        if isinstance(event, events.NonFatalError):
            self.failures[f"{event.label}: {event.value!r}"] = ""
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.ScenarioFinished):
            self.spent_s[event.recorder.label] += event.elapsed_time
            self._note_scenario(event.recorder)

    def _note_scenario(self, recorder: ScenarioRecorder) -> None:
        method = recorder.label.partition(" ")[0]
        for interaction in recorder.interactions.values():
            if interaction.request.method == method:  # others are there to be refused
                self.statuses[recorder.label][interaction.response.status_code if interaction.response else 0] += 1
        for case_id, nodes in recorder.checks.items():
            for failure in (node.failure_info for node in nodes if node.failure_info is not None):
                response = recorder.interactions[case_id].response
                told = f"{failure.code_sample}\n{response.text[:MOST_TOLD_CHARS] if response else None}"
                self.failures.setdefault(f"{recorder.label}: {failure.failure}", told)


def is_counted(
    _context: schemathesis.HookContext, failure: Failure, case: schemathesis.Case[Any], response: schemathesis.Response
) -> bool:
    """Tell whether a failure is one of ours."""
    if "x-request-id" not in response.headers:  # gunicorn has refused it: no HTTP, or a line that is too long
        return response.status_code not in {400, 414, 431}
    if failure.code == SERVER_ERROR:
        return case.operation.path != UNKEPT or "The guest said" not in response.text
    if case.operation.path == LIKE_A_KEY and "methods advertised" in failure.message:
        return False
    told = [failure.message, *re.findall(r'"(?:message|detail)":"([^"]*)', response.text)]
    return failure.code not in JUDGED or not any(re.search(rule, text) for rule in UNSAID for text in told)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    quick = {"VM_SCAN_S": "0.3", "FIGURES_INTERVAL_S": "0.5", "SHUTDOWN_TIMEOUT_S": "1"}
    with started(tmp_path_factory.mktemp("schemas"), 1, **quick) as stack:
        run = Run(stack)
        yield run
        run.http.close()
        assert "Traceback" not in stack.printed(), stack.printed()


@pytest.mark.parametrize("path", [document["url"] for document in docs.DOCUMENTS])
def test_every_answer_is_as_documented(run: Run, path: str) -> None:
    run.statuses.clear()
    run.spent_s.clear()
    run.failures.clear()
    run.client.wait_available(run.vmid)
    text = run.client.get(path).text
    for example, real in run.examples().items():
        text = text.replace(json.dumps(example), json.dumps(real))
    schema = from_dict(json.loads(text), config=config(run))
    schema.config.update(base_url=run.stack.url)
    run.execute(schema)
    for label, statuses in run.statuses.items():
        print(f"{statuses.total():4} {run.spent_s[label]:5.1f} s {label}: {dict(sorted(statuses.items()))}")
    assert not run.failures, "\n\n".join("\n".join(failure) for failure in run.failures.items())
    succeeded = {label for label, statuses in run.statuses.items() if any(200 <= status < 400 for status in statuses)}
    assert succeeded == {f"{method} {path}" for method, path in by_route(schema.raw_schema)}


def config(run: Run) -> schemathesis.Config:
    return schemathesis.Config.from_dict({
        "seed": SEED,
        "output": {"sanitization": {"enabled": False}},
        "suppress-health-check": ["all"],
        "continue-on-failure": True,
        "headers": {"X-API-Key": run.stack.key, "X-Auth-Token": run.stack.key},
        "request-timeout": 90,
        "dictionaries": {"pid": {"values": [run.client.run(run.vmid, "true")["pid"]]}},
        "parameters": run.known(),
        "phases": {"stateful": {"enabled": False}},
        "generation": {"max-examples": CASES, "with-security-parameters": False, "no-shrink": True},
        "operations": [
            {"include-path-regex": POWER, "generation": {"max-examples": POWER_CASES}},
            *run.api_keys(),
        ],
        "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", *FORESEEN]}},
    })


def test_what_the_web_server_refuses_itself_is_one_line_in_the_log(run: Run) -> None:
    response = requests.get(f"{run.stack.url}/api/vm?{'x' * 9000}", timeout=REQUEST_TIMEOUT_S)
    assert response.status_code == 414
    until(5, "it is logged", lambda: "Refused what is no request: LimitRequestLine" in run.stack.printed())
    assert "Logging error" not in run.stack.printed()
