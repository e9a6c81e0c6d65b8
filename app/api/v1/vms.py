"""v1 routes about VMs: list, status, power."""

from typing import Any

from app.access import Principal, Scope
from app.api.requires import requires
from app.api.v1 import bodies
from app.api.v1.arguments import PowerBody, VmPath
from app.api.v1.face import V1Blueprint, example
from app.api.v1.schemas import PowerSchema, StatusSchema, VmSchema
from app.audit_trail import note
from app.core.records import PowerAction
from app.services import services

blueprint = V1Blueprint("VMs", __name__, description="Virtual machines: list, status, power")

_VM_EXAMPLE = {
    "vmid": 10000,
    "vpsId": "vps_01hxa3b4c5d6e7f8g9h0j1k2m3",
    "name": "web-1",
    "node": "node-1",
    "status": "running",
    "vmRunning": True,
}
_STATUS_EXAMPLE = {
    "success": True,
    "vmid": 10000,
    "name": "web-1",
    "node": "node-1",
    "status": "running",
    "vmRunning": True,
    "pid": 150476,
    "qemuPid": 4242,
    "uptime": 197424,
    "cpus": 1,
    "cpu": 0.075,
    "mem": 201326592,
    "maxmem": 268435456,
    "netin": 0,
    "netout": 0,
    "diskread": 4096,
    "diskwrite": 0,
    "agent": {"available": True, "message": "QEMU Guest Agent is available", "version": "7.2.19"},
}


@blueprint.route("/vm", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.fails(401, 403, 503)
@blueprint.response(200, VmSchema(many=True), example=example([_VM_EXAMPLE]))
def list_vms(principal: Principal) -> list[dict[str, Any]]:
    """List the VMs of your account."""
    return [bodies.vm_summary(view) for view in services().inventory.list_vms(principal)]


@blueprint.route("/vm/<vmid>/status", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, StatusSchema, example=example(_STATUS_EXAMPLE))
def get_status(principal: Principal, vmid: int) -> dict[str, Any]:
    """Tell how a VM is."""
    return bodies.vm_status(services().inventory.get_vm(principal, vmid), services().clock())


@blueprint.route("/vm/<vmid>/status", methods=["POST"])
@requires(Scope.POWER_VM)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.arguments(PowerBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 413, 415, 503)
@blueprint.response(
    200,
    PowerSchema,
    example=example({
        "success": True,
        "action": "start",
        "jobId": "start-10000-1768986364277",
        "message": "start operation queued",
        "estimated_time": 30,
    }),
)
def change_power(principal: Principal, vmid: int, action: str, *, force: bool) -> dict[str, Any]:
    """Start, stop, shut down or restart a VM."""
    note(action=action, force=force)
    view = services().inventory.get_vm(principal, vmid)
    return bodies.power_queued(services().jobs.create(principal, view, PowerAction(action), force=force))
