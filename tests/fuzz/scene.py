"""The web half with something behind each of its routes, and a worker that does at once whatever it is asked.

And what is true of every answer, whoever asked for whatever: its shape is that of its face, and nothing broke.
"""

import base64
import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlencode

import redis
from rq.exceptions import NoSuchJobError
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from werkzeug.test import TestResponse

from app.api.failures import UNEXPECTED
from app.core import clock, ids
from app.core.errors import IllegalMoveError
from app.core.queues import MOVE_FILE
from app.core.records import CommandEnd, CommandKind, CommandStart, CommandState, GuestAction, GuestCallState, Snapshot
from app.core.store import Store, commands, files, guest_calls, nodes, snapshots
from app.core.store.commands import Claim
from app.core.store.files import Lane, Message, MessageKind
from app.core.store.snapshots import VmSnapshots
from tests.fuzz.operations import Operation
from tests.openstack import TOKENS, by_token
from tests.web import EXEC, NODE, RUNNING_VM, STATUS, PlayedWorker, Web

VMID = RUNNING_VM.vmid
PID = 103
SNAPSHOT = "before"
KEY_LINE = (
    f"ssh-ed25519 {base64.b64encode(bytes.fromhex('0000000b7373682d6564323535313900000020') + bytes(32)).decode()}"
)
"""Another one than the documents' example."""
TTL_S = 600
UNLIMITED = dict.fromkeys(
    ("RATE_LIMIT_READS", "RATE_LIMIT_EXEC", "RATE_LIMIT_POWER", "RATE_LIMIT_FAILED_AUTH"), "unlimited"
)
_FILE = b"hello"
_RECORD = re.compile(rb"rq:job:[^:]+|ownup:(cmd|job|call|token|key):[^:]+|ownup:idem:.*")
"""The keys of what a request may leave behind; what a worker adds to them has longer names."""
_BEAT_S = nodes.TTL_S / 4
_V1 = {"error", "message", "code", "timestamp", "requestId"}
_V2 = {"type", "title", "status", "detail", "code", "instance", "requestId", "timestamp"}


class EagerWorker(PlayedWorker):
    """Does everything at once: commands end, guests answer, files arrive."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url, _run, reply=_reply)

    def _work(self, rq_job_id: str) -> None:
        with contextlib.suppress(NoSuchJobError, IllegalMoveError):  # the scene was changed meanwhile
            job = RqJob.fetch(rq_job_id, connection=self._client, serializer=JSONSerializer)
            if job.func_name == MOVE_FILE:
                _move(self._store, job.args[0])
            else:
                super()._work(rq_job_id)


def _run(store: Store, claim: Claim) -> None:
    started = CommandStart(pid=PID, started_at=clock.now(), agent_identity="agent-1")
    store.run(commands.start(claim.command.id, started))
    hostname = (claim.request.env or {}).get("OWNUP_HOSTNAME", "out").encode()
    end = CommandEnd(state=CommandState.EXITED, ended_at=clock.now(), exit_code=0, stdout=hostname, stderr=b"err\xff")
    store.run(commands.end(claim.command.id, end, ttl_s=TTL_S))


def _reply(store: Store, claim: guest_calls.Claim) -> None:
    values: dict[GuestAction, dict[str, Any]] = {
        GuestAction.GET_HOSTNAME: {"hostname": "web-1"},
        GuestAction.GET_SSH_KEYS: {"keys": [KEY_LINE]},
    }
    value = values.get(claim.call.action, {})
    store.run(guest_calls.end(claim.call.id, GuestCallState.DONE, clock.now(), value=value, message=None))


def _move(store: Store, command_id: str) -> None:
    claim = store.run(commands.claim(command_id))
    if claim is None:
        return
    lane, told = Lane.WORD, [(MessageKind.DONE, b"")] * files.WINDOW_CHUNKS
    if claim.command.kind is CommandKind.FILE_READ:
        digest = hashlib.sha256(_FILE).digest()
        lane, told = Lane.BYTES, [(MessageKind.SIZE, b"5"), (MessageKind.CHUNK, _FILE), (MessageKind.DONE, digest)]
    for number, (kind, payload) in enumerate(told):
        store.run(files.put(command_id, lane, Message(number, kind, payload), ttl_s=TTL_S))
    store.run(commands.begin(command_id, clock.now()))
    end = CommandEnd(state=CommandState.EXITED, ended_at=clock.now(), exit_code=None)
    store.run(commands.end(command_id, end, ttl_s=TTL_S))


class Unexpected(logging.Handler):
    """Keeps what was logged with a traceback: a defect."""

    def __init__(self) -> None:
        super().__init__()
        self.tracebacks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.tracebacks.append(logging.Formatter().format(record))


class Scene:
    """The web half, with a VM, a command, a job, a snapshot, SSH keys and a token; made anew as often as wanted."""

    def __init__(self, redis_url: str) -> None:
        self.web = Web(redis_url, EXEC_START_TIMEOUT_S="5", EXEC_KILL_WAIT_S="0.1", FILE_STALL_S="1", **UNLIMITED)
        self.unexpected = Unexpected()
        self._client = redis.Redis.from_url(redis_url)
        self.known: dict[str, str] = {}
        self._beat_due_s = 0.0

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self.unexpected)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self.unexpected)
        self.web.close()
        self._client.close()

    def set_up(self) -> None:
        """Take everything away, and put up what is behind the routes."""
        web = self.web
        self._client.flushall()
        web.key = web.make_key()
        web.publish()
        taken = Snapshot(name=SNAPSHOT, taken_at=clock.now(), includes_memory=True)
        web.store.run(snapshots.publish(VmSnapshots(vmid=VMID, node=NODE, limit=100_000, snapshots=(taken,))))
        assert web.post(EXEC, json={"command": "true"}).status_code == 200
        ssh_key = _told(web.post("/api/ssh-keys", json={"name": "kept", "public_key": KEY_LINE}))["data"]["ssh_key"]
        number = str(ssh_key["ssh_key"]["id"])
        login = web.http.post(TOKENS, json=by_token(web.key))
        server = f"/v2.1/servers/{ids.openstack_id(VMID)}"
        listed = web.http.get(f"{server}/guest-agent/commands", headers={"X-Auth-Token": web.key})
        self.known = {
            "vmid": str(VMID),
            "vps_id": ids.vps_id(VMID),
            "server_id": ids.openstack_id(VMID),
            "flavor_id": "2cpu-256mb",
            "snapshot_id": SNAPSHOT,
            "job_id": _told(web.post(STATUS, json={"action": "restart"}))["data"]["jobId"],
            "command_uuid": _told(listed)["commands"][0]["uuid"],
            "key_id": number,
            "X-Subject-Token": login.headers["X-Subject-Token"],
            "pid": str(PID),
            "snapname": SNAPSHOT,
            "api_key_id": web.make_key().split("_")[1],
            "path": "/etc/hostname",
        }

    def body(self, operation: Operation) -> bytes | None:
        """Tell a good body, in which what is named is there."""
        swaps = {"ownup_0123456789abcdef_secret": self.web.key, "2830": self.known["key_id"]}
        swaps["ssh_01hxa3b4c5d6e7f8g9h0j1k2m3"] = ids.ssh_key_id(int(self.known["key_id"]))
        text = operation.body
        for example, real in swaps.items():
            text = text and text.replace(example.encode(), real.encode())
        return text

    def path(self, operation: Operation, odd: Mapping[str, bytes]) -> bytes:
        """Tell a path, of known parts and of odd ones."""
        known = dict(self.known)
        if operation.path.startswith("/api/keys/"):
            known["key_id"] = known["api_key_id"]
        if operation.path.startswith("/api/v2/"):
            known["key_id"] = ids.ssh_key_id(int(known["key_id"]))
        return b"".join(
            odd.get(name, known.get(name, "1").encode()) if name else text.encode()
            for text, name in re.findall(r"([^{}]+)|\{(\w+)\}", operation.path)
        )

    def query(self, operation: Operation) -> bytes:
        """Tell a good query."""
        wanted = {name: self.known[name] for name in operation.parameters if name in self.known} | {
            name: self.known.get(name, value) for name, value in operation.needs.items()
        }
        return urlencode({name: value for name, value in wanted.items() if "-" not in name}).encode()

    def ask(
        self,
        operation: Operation,
        *,
        body: bytes | None = None,
        method: str | None = None,
        path: bytes | None = None,
        query: bytes = b"",
        headers: Mapping[str, str | None] | None = None,
    ) -> TestResponse:
        """Ask, byte by byte as a web server would hand it over; a header that is None isn't sent."""
        sent = {"X-API-Key": self.web.key, "X-Auth-Token": self.web.key}
        sent |= {"Content-Type": operation.takes or "application/json"} if body is not None else {}
        sent |= {name: value for name, value in self.known.items() if name in operation.parameters and "-" in name}
        self._beat()
        merged = {name: value for name, value in (sent | dict(headers or {})).items() if value is not None}
        environ = {
            "PATH_INFO": (self.path(operation, {}) if path is None else path).decode("latin-1"),
            "QUERY_STRING": query.decode("latin-1"),
        }
        environ |= {_environ_name(name): value for name, value in merged.items()}
        response = self.web.app.test_client().open(
            "/", method=method or operation.method, data=body, environ_overrides=environ
        )
        response.get_data()
        response.close()
        return response

    def _beat(self) -> None:
        """Let the node be alive, however long a route is tried."""
        if time.monotonic() > self._beat_due_s:
            self.web.publish()
            self._beat_due_s = time.monotonic() + _BEAT_S

    def records(self) -> set[bytes]:
        """List what requests have left behind: RQ jobs, and records that one can find again."""
        keys: list[bytes] = self._client.keys("*")  # type: ignore[assignment]
        lists = [key.decode() for key in keys if key.endswith(b":sshkeys")]
        fields = {f"{key}/{name!r}".encode() for key in lists for name in self._client.hkeys(key)}
        return fields | {key for key in keys if _RECORD.fullmatch(key)}

    def check(self, operation: Operation, response: TestResponse) -> None:
        """Check what is true of every answer."""
        assert not self.unexpected.tracebacks, "".join(self.unexpected.tracebacks)
        status = response.status_code
        assert status < 500 or status in operation.foreseen, (status, response.data[:2000])
        assert status < 400 or UNEXPECTED.encode() not in response.data
        assert response.headers["X-Request-Id"]
        if response.mimetype in {"application/json", "application/problem+json"} and response.request.method != "HEAD":
            told = json.loads(response.data.decode() or "null")
            if status >= 400:
                _check_error(response, told)


def _told(response: TestResponse) -> Any:
    return json.loads(response.data)


def _environ_name(name: str) -> str:
    plain = name.upper().replace("-", "_")
    return plain if plain in {"CONTENT_TYPE", "REMOTE_ADDR"} else f"HTTP_{plain}"


def _check_error(response: TestResponse, told: Any) -> None:
    path, request_id = response.request.path, response.headers["X-Request-Id"]
    if _below(path, "/v2.1") or _below(path, "/identity"):
        [fault] = told.values()
        assert (fault["code"], bool(fault["message"])) == (response.status_code, True), told
        assert response.headers["X-Openstack-Request-Id"] == f"req-{request_id}"
        return
    assert told["requestId"] == request_id
    if _below(path, "/api/v2"):
        assert set(told) >= _V2, told
        assert response.mimetype == "application/problem+json"
    else:
        assert _V1 <= set(told) <= _V1 | {"details", "retryAfter"}, told


def _below(path: str, base: str) -> bool:
    return path == base or path.startswith(f"{base}/")
