"""v2 routes that switch a VPS: each is an operation, and is refused where its gate is closed."""

from typing import Any

from app import gates
from app.access import Principal, Scope
from app.api.requires import requires
from app.api.v2 import bodies
from app.api.v2.arguments import RestartBody, VpsPath
from app.api.v2.face import V2Blueprint
from app.api.v2.schemas import OperationSchema
from app.audit_trail import note
from app.core.records import PowerAction
from app.services import services

blueprint = V2Blueprint("Power actions", __name__, description="Start, stop, shut down, restart and reset a VPS")


@blueprint.route("/vps/<vps_id>/actions/start", methods=["POST"])
@requires(Scope.POWER_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 503)
@blueprint.response(202, OperationSchema())
def start(principal: Principal, vps_id: str) -> dict[str, Any]:
    """Start a VPS."""
    return _queue(principal, vps_id, PowerAction.START)


@blueprint.route("/vps/<vps_id>/actions/stop", methods=["POST"])
@requires(Scope.POWER_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 503)
@blueprint.response(202, OperationSchema())
def stop(principal: Principal, vps_id: str) -> dict[str, Any]:
    """Switch a VPS off, without asking the guest."""
    return _queue(principal, vps_id, PowerAction.STOP)


@blueprint.route("/vps/<vps_id>/actions/shutdown", methods=["POST"])
@requires(Scope.POWER_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 503)
@blueprint.response(202, OperationSchema())
def shutdown(principal: Principal, vps_id: str) -> dict[str, Any]:
    """Ask the guest of a VPS to shut down."""
    return _queue(principal, vps_id, PowerAction.SHUTDOWN)


@blueprint.route("/vps/<vps_id>/actions/restart", methods=["POST"])
@requires(Scope.POWER_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.arguments(RestartBody(), as_kwargs=True, required=False)
@blueprint.fails(400, 401, 403, 404, 409, 413, 415, 503)
@blueprint.response(202, OperationSchema())
def restart(principal: Principal, vps_id: str, *, force: bool) -> dict[str, Any]:
    """Ask the guest of a VPS to reboot, or reset it."""
    return _queue(principal, vps_id, PowerAction.RESTART, force=force)


@blueprint.route("/vps/<vps_id>/actions/reset", methods=["POST"])
@requires(Scope.POWER_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 503)
@blueprint.response(202, OperationSchema())
def reset(principal: Principal, vps_id: str) -> dict[str, Any]:
    """Reset a VPS, without asking the guest."""
    return _queue(principal, vps_id, PowerAction.RESET)


def _queue(principal: Principal, vps_id: str, action: PowerAction, *, force: bool = False) -> dict[str, Any]:
    note(action=action, force=force)
    view = services().vps_ids.get_vm(principal, vps_id)
    gates.insist_on_power(view, action, force=force)
    return bodies.operation(services().jobs.create(principal, view, action, force=force))
