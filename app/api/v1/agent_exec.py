"""v1 routes about commands in a guest: start one, read its result, kill it, ask whether one can run."""

from typing import Any

from app.access import Principal, Scope
from app.api import command_bodies
from app.api.order_fields import ExecBody, ExecHeaders, ExecQuery, KillQuery
from app.api.replay import REPLAY_HEADERS, tell_replay
from app.api.requires import requires
from app.api.v1 import bodies
from app.api.v1.arguments import VmPath
from app.api.v1.face import V1Blueprint, example
from app.api.v1.schemas import ExecSchema, ExecStartedSchema, KillSchema
from app.audit_trail import note, note_command
from app.order import Order
from app.request_log import request_id
from app.services import services

blueprint = V1Blueprint("Commands", __name__, description="Commands in a guest, through its QEMU guest agent")

_EXITED = {
    "success": True,
    "pid": 150476,
    "exited": True,
    "exitcode": 0,
    "stdout": "OK\n",
    "stderr": "",
    "available": True,
    "vmRunning": True,
    "state": "exited",
    "message": "Command exited with code 0",
}
_RUNNING = {
    "success": True,
    "pid": 150476,
    "exited": False,
    "stdout": "",
    "stderr": "",
    "available": True,
    "vmRunning": True,
    "state": "running",
    "message": "Command is still running",
}
_STARTED = {"success": True, "pid": 150476, "command": "echo OK", "message": "Command execution started"}
_PROBE = {"success": True, "available": True, "message": "QEMU Guest Agent is available", "vmRunning": True}
_CANCELLED = {
    "success": True,
    "pid": 150476,
    "exited": True,
    "exitcode": -1,
    "signal": 15,
    "state": "cancelled",
    "message": "Command was cancelled; its process group was killed",
}
_STILL_RUNNING = {
    "success": True,
    "pid": 150476,
    "exited": False,
    "state": "running",
    "message": "Kill requested; the command has not ended yet",
}


@blueprint.route("/vm/<vmid>/agent/exec", methods=["POST"])
@requires(Scope.WRITE_VM, about_commands=True)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.arguments(ExecHeaders(), location="headers", as_kwargs=True)
@blueprint.arguments(ExecBody())
@blueprint.fails(400, 401, 403, 404, 409, 413, 415, 500, 503, 504)
@blueprint.response(
    200,
    ExecStartedSchema,
    examples={
        "started": {"value": example(_STARTED)},
        "with wait, and it has ended": {"value": example(_STARTED | _EXITED)},
        "with wait, and the time is up": {"value": example(_STARTED | _RUNNING)},
    },
    headers=REPLAY_HEADERS,
)
def start_command(
    order: Order, *, principal: Principal, vmid: int, idempotency_key: str | None = None
) -> dict[str, Any]:
    """Run a command in a VM, and wait for its end where the body says so."""
    note_command(order.request)
    view = services().inventory.recall_vm(principal, vmid)
    reach, result = services().commands.run(
        principal, view, order, request_id(), idempotency_key=idempotency_key, on_repeat=tell_replay
    )
    if order.wait_s == 0:
        return bodies.exec_started(result.command, order.request.line)
    return bodies.exec_run(reach, result, order.request.line)


@blueprint.route("/vm/<vmid>/agent/exec", methods=["GET"])
@requires(Scope.READ_VM, with_query={"pid": Scope.WRITE_VM}, about_commands=True)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.arguments(ExecQuery(), location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(
    200,
    ExecSchema,
    examples={
        "exited": {"value": example(_EXITED)},
        "running": {"value": example(_RUNNING)},
        "without a pid": {"value": example(_PROBE)},
    },
)
def read_command(
    principal: Principal, vmid: int, wait_s: float, pid: int | None = None, encoding: str | None = None
) -> dict[str, Any]:
    """Read the result of a command or wait for it (with pid), or ask whether commands can run (without)."""
    if pid is None:
        return bodies.exec_probe(services().inventory.get_vm(principal, vmid))
    reach, result = services().results.read(principal, vmid, pid, wait_s=wait_s)
    return command_bodies.exec_result(reach, result, encoding)


@blueprint.route("/vm/<vmid>/agent/exec", methods=["DELETE"])
@requires(Scope.WRITE_VM, about_commands=True)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.arguments(KillQuery(), location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(
    200,
    KillSchema,
    examples={"cancelled": {"value": example(_CANCELLED)}, "not ended yet": {"value": example(_STILL_RUNNING)}},
)
def kill_command(principal: Principal, vmid: int, pid: int) -> dict[str, Any]:
    """Kill a command with everything it has started, and wait for its end; one that has ended stays as it is."""
    note(pid=pid)
    view = services().inventory.get_vm(principal, vmid)
    return command_bodies.exec_killed(services().commands.kill(principal, view, pid))
