"""v2 routes about commands in a guest: start one, read its result, kill it, ask whether one can run."""

from typing import Any

from app.access import Principal, Scope
from app.api import command_bodies
from app.api.order_fields import ExecHeaders, ExecQuery, KillQuery
from app.api.replay import REPLAY_HEADERS, tell_replay
from app.api.requires import requires
from app.api.v2 import bodies
from app.api.v2.arguments import ExecBody, VpsPath
from app.api.v2.exec_schemas import ExecSchema, ExecStartedSchema, KillSchema
from app.api.v2.face import BASE, V2Blueprint
from app.audit_trail import note, note_command
from app.order import Order
from app.request_log import request_id
from app.services import services

blueprint = V2Blueprint("Guest agent", __name__, description="Commands in a guest, through its QEMU guest agent")

_POLL_URL = "/api/v2/vps/vps_01hxa3b4c5d6e7f8g9h0j1k2m3/agent/exec?pid=4242"
_STARTED = {"pid": 4242, "pollUrl": _POLL_URL}
_EXITED = {
    "pid": 4242,
    "exited": True,
    "exitCode": 0,
    "stdout": "OK\n",
    "stderr": "",
    "available": True,
    "vmRunning": True,
    "state": "exited",
    "message": "Command exited with code 0",
}
_RUNNING = _EXITED | {
    "exited": False,
    "exitCode": None,
    "stdout": "",
    "state": "running",
    "message": "Command is still running",
}
_PROBE = {"available": True, "reason": None, "vmRunning": True}
_UNKNOWN_CODE = {"exit_code": None}
"""What a command has that has not ended."""


@blueprint.route("/vps/<vps_id>/agent/exec", methods=["POST"])
@requires(Scope.WRITE_VM, about_commands=True)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.arguments(ExecHeaders(), location="headers", as_kwargs=True)
@blueprint.arguments(ExecBody())
@blueprint.fails(400, 401, 403, 404, 409, 413, 415, 502, 503, 504)
@blueprint.response(
    200,
    ExecStartedSchema(),
    examples={
        "started": {"value": _STARTED},
        "with wait, and it has ended": {"value": _STARTED | _EXITED},
        "with wait, and the time is up": {"value": _STARTED | _RUNNING},
    },
    headers=REPLAY_HEADERS,
)
def start_command(
    order: Order, *, principal: Principal, vps_id: str, idempotency_key: str | None = None
) -> dict[str, Any]:
    """Run a command in a VPS, and wait for its end where the body says so."""
    note_command(order.request)
    view = services().vps_ids.recall_vm(principal, vps_id)
    reach, result = services().commands.run(
        principal, view, order, request_id(), idempotency_key=idempotency_key, on_repeat=tell_replay
    )
    pid = result.command.pid
    started = {"pid": pid, "poll_url": f"{BASE}/vps/{vps_id}/agent/exec?pid={pid}"}
    if order.wait_s == 0:
        return started
    return _UNKNOWN_CODE | command_bodies.exec_result(reach, result, None) | started


@blueprint.route("/vps/<vps_id>/agent/exec", methods=["GET"])
@requires(Scope.READ_VM, with_query={"pid": Scope.WRITE_VM}, about_commands=True)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.arguments(ExecQuery(), location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(
    200,
    ExecSchema(),
    examples={
        "exited": {"value": _EXITED},
        "running": {"value": _RUNNING},
        "without a pid": {"value": _PROBE},
    },
)
def read_command(
    principal: Principal, vps_id: str, wait_s: float, pid: int | None = None, encoding: str | None = None
) -> dict[str, Any]:
    """Read the result of a command or wait for it (with pid), or ask whether commands can run (without)."""
    if pid is None:
        return bodies.exec_probe(services().vps_ids.get_vm(principal, vps_id))
    vmid = services().vps_ids.get_vmid(principal, vps_id)
    reach, result = services().results.read(principal, vmid, pid, wait_s=wait_s)
    return _UNKNOWN_CODE | command_bodies.exec_result(reach, result, encoding)


@blueprint.route("/vps/<vps_id>/agent/exec", methods=["DELETE"])
@requires(Scope.WRITE_VM, about_commands=True)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.arguments(KillQuery(), location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, KillSchema())
def kill_command(principal: Principal, vps_id: str, pid: int) -> dict[str, Any]:
    """Kill a command with everything it has started, and wait for its end; one that has ended stays as it is."""
    note(pid=pid)
    view = services().vps_ids.get_vm(principal, vps_id)
    return _UNKNOWN_CODE | command_bodies.exec_killed(services().commands.kill(principal, view, pid))
