"""v1 routes about commands in a guest: start one, read its result, ask whether one can run."""

from typing import Any

from app.access import Principal, Scope
from app.api.requires import requires
from app.api.v1 import bodies
from app.api.v1.face import V1Blueprint, example
from app.api.v1.schemas import ExecBody, ExecQuery, ExecSchema, ExecStartedSchema, VmPath
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
_PROBE = {"success": True, "available": True, "message": "QEMU Guest Agent is available", "vmRunning": True}


@blueprint.route("/vm/<vmid>/agent/exec", methods=["POST"])
@requires(Scope.WRITE_VM)
@blueprint.arguments(VmPath, location="path", as_kwargs=True)
@blueprint.arguments(ExecBody, as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 413, 415, 500, 503, 504)
@blueprint.response(
    200,
    ExecStartedSchema,
    example=example({
        "success": True,
        "pid": 150476,
        "command": "uname -a",
        "message": "Command execution started",
    }),
)
def start_command(principal: Principal, vmid: int, command: str) -> dict[str, Any]:
    """Run a command in a VM."""
    view = services().inventory.get_vm(principal, vmid)
    started = services().dispatch.start(principal, view, command, request_id())
    return bodies.exec_started(started, command)


@blueprint.route("/vm/<vmid>/agent/exec", methods=["GET"])
@requires(Scope.READ_VM, with_query={"pid": Scope.WRITE_VM})
@blueprint.arguments(VmPath, location="path", as_kwargs=True)
@blueprint.arguments(ExecQuery, location="query", as_kwargs=True)
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
    principal: Principal, vmid: int, pid: int | None = None, encoding: str | None = None
) -> dict[str, Any]:
    """Read the result of a command (with pid), or ask whether commands can run (without)."""
    if pid is None:
        return bodies.exec_probe(services().inventory.get_vm(principal, vmid))
    view, result = services().dispatch.result(principal, vmid, pid)
    return bodies.exec_result(view, result, encoding)
