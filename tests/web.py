"""What tests of the web half share: a client with a key, and a played worker behind a real Redis."""

import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self

import redis
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from werkzeug.test import TestResponse

from app.access import TENANT_SCOPES, Scope, issue_key
from app.core import clock
from app.core.env import load
from app.core.queues import ASK_AGENT, KILL_COMMAND, START_COMMAND, queue_name
from app.core.records import CommandEnd, CommandStart, CommandState, Node, Vm, VmStatus
from app.core.store import Store, commands, guest_calls, keys, nodes, vms
from app.core.store.commands import Claim
from app.factory import connect, create_app
from app.services import Services, services
from app.settings import WebSettings
from app.wakeups import Wakeups
from lab.limits import HIGH_LIMITS
from tests.net import NET

NODE = "node-1"
ACCOUNT = "acme"
EXEC = "/api/vm/10000/agent/exec"
STATUS = "/api/vm/10000/status"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

RUNNING_VM = Vm(
    vmid=10000,
    name="web-1",
    account=ACCOUNT,
    node=NODE,
    startable=True,
    status=VmStatus.RUNNING,
    running=True,
    agent_available=True,
    agent_message="QEMU Guest Agent is available",
    seen_at=datetime(2026, 2, 10, tzinfo=UTC),
    agent_version="7.2.19",
    qemu_pid=4242,
    booted_at=datetime(2026, 2, 10, tzinfo=UTC),
    cpus=2,
    cpu=0.25,
    mem_bytes=200_000_000,
    maxmem_bytes=268_435_456,
    netin_bytes=1,
    netout_bytes=2,
    diskread_bytes=3,
    diskwrite_bytes=4,
)
STOPPED_VM = replace(
    RUNNING_VM,
    status=VmStatus.STOPPED,
    running=False,
    agent_available=False,
    agent_message="VM is stopped",
    agent_version=None,
    qemu_pid=None,
    booted_at=None,
    cpu=None,
    mem_bytes=None,
    netin_bytes=None,
    netout_bytes=None,
    diskread_bytes=None,
    diskwrite_bytes=None,
)

Answer = Callable[[Store, Claim], None]
Kill = Callable[[Store, str], None]
Reply = Callable[[Store, guest_calls.Claim], None]


class Web:
    """The web application on a real Redis, with one account that may do everything."""

    def __init__(self, redis_url: str, *, wakeups: Wakeups | None = None, **environ: str) -> None:
        self.settings = load(WebSettings, HIGH_LIMITS | {"REDIS_URL": redis_url, "REDIS_TIMEOUT_S": "0.5"} | environ)
        self.client = connect(self.settings)
        self.wakeups = wakeups or Wakeups(self.client)
        self.app = create_app(self.settings, redis_client=self.client, wakeups=self.wakeups)
        self.store = Store(self.client)
        self.http = self.app.test_client()
        self.key = ""

    def close(self) -> None:
        self.services().audit.close()
        self.wakeups.close()
        self.client.close()

    def services(self) -> Services:
        with self.app.app_context():
            return services()

    def make_key(
        self, *scopes: Scope, account: str = ACCOUNT, expires_at: datetime | None = None, **limits: Any
    ) -> str:
        key, secret = issue_key(account, "test", scopes or TENANT_SCOPES, clock.now(), expires_at)
        self.store.run(keys.save(replace(key, **limits)))
        return NET.watch_key(secret)

    def publish(self, vm: Vm = RUNNING_VM, *, alive: bool = True) -> None:
        if alive:
            self.store.run(nodes.beat(Node(name=vm.node, worker="w", vms=1, broken_definitions=0, since=clock.now())))
        assert self.store.run(vms.publish(vm)) is None

    def get(self, path: str, key: str | None = None, **kwargs: Any) -> TestResponse:
        return self.http.get(path, headers={"X-API-Key": key or self.key}, **kwargs)

    def delete(self, path: str, key: str | None = None) -> TestResponse:
        return self.http.delete(path, headers={"X-API-Key": key or self.key})

    def post(
        self, path: str, key: str | None = None, *, idempotency_key: str | None = None, **kwargs: Any
    ) -> TestResponse:
        if "json" in kwargs:  # the client's own way can't send half a surrogate pair
            kwargs |= {"data": json.dumps(kwargs.pop("json")), "content_type": "application/json"}
        headers = {"X-API-Key": key or self.key}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return self.app.test_client().post(path, headers=headers, **kwargs)


class PlayedWorker:
    """Takes a node's jobs from its RQ queue and moves records as the real worker does, without any guest."""

    def __init__(self, redis_url: str, answer: Answer, kill: Kill | None = None, reply: Reply | None = None) -> None:
        self._client = redis.Redis.from_url(redis_url)
        self._store = Store(self._client)
        self._answer = answer
        self._kill = kill
        self._reply = reply
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.taken: list[RqJob] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            taken = self._client.blpop([f"rq:queue:{queue_name(NODE)}"], timeout=0.1)
            if taken:
                self._work(taken[1].decode())

    def _work(self, rq_job_id: str) -> None:
        job = RqJob.fetch(rq_job_id, connection=self._client, serializer=JSONSerializer)
        self.taken.append(job)
        claim = self._store.run(commands.claim(job.args[0])) if job.func_name == START_COMMAND else None
        if claim is not None:
            self._answer(self._store, claim)
        if job.func_name == KILL_COMMAND and self._kill:
            self._kill(self._store, job.args[0])
        asked = self._store.run(guest_calls.claim(job.args[0])) if job.func_name == ASK_AGENT else None
        if asked is not None and self._reply:
            self._reply(self._store, asked)


def tells_pid(pid: int) -> Answer:
    """Make an answer of a worker: the command has started."""

    def answer(store: Store, claim: Claim) -> None:
        store.run(
            commands.start(claim.command.id, CommandStart(pid=pid, started_at=clock.now(), agent_identity="agent-1"))
        )

    return answer


def ends_with(state: CommandState, message: str | None = None) -> Answer:
    """Make an answer of a worker: the command has ended without a pid."""

    def answer(store: Store, claim: Claim) -> None:
        end = CommandEnd(state=state, ended_at=clock.now(), message=message)
        store.run(commands.end(claim.command.id, end, ttl_s=60))

    return answer


def never_answers(_store: Store, _claim: Claim) -> None:
    """Claim the command and say nothing more."""


def assert_refused(response: TestResponse, status: int, code: str, *fields: str) -> str:
    """Check that a request was refused with the v1 error body, which blames these fields; tell its message."""
    body = json.loads(response.data)
    assert response.status_code == status, body
    assert set(body) == {"error", "message", "code", "timestamp", "requestId"} | ({"details"} if fields else set())
    assert body["code"] == code
    assert body["error"] == response.status.partition(" ")[2].title()
    assert STAMP.fullmatch(body["timestamp"])
    assert str(uuid.UUID(body["requestId"])) == body["requestId"] == response.headers["X-Request-Id"]
    assert {detail["field"] for detail in body.get("details", [])} == set(fields)
    assert all(set(detail) == {"field", "message"} and detail["message"] for detail in body.get("details", []))
    assert b'"success"' not in response.data
    return str(body["message"])
