"""v2 routes that tell of VPS: which there are, what and how they are, what they have used."""

from typing import Any

from app.access import Principal, Scope
from app.api.requires import requires
from app.api.v2 import bodies
from app.api.v2.arguments import ListQuery, MetricsQuery, VpsPath, dump_cursor
from app.api.v2.face import V2Blueprint
from app.api.v2.schemas import HostnameSchema
from app.api.v2.vps_schemas import (
    DisksSchema,
    MetricsSchema,
    StorageSchema,
    VpsDetailsSchema,
    VpsPageSchema,
    VpsSchema,
    VpsStatusSchema,
)
from app.history import Timeframe
from app.request_log import request_id
from app.services import services

blueprint = V2Blueprint("VPS", __name__, description="Which VPS there are, how they are, what they have used")


@blueprint.route("/vps", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(ListQuery(), location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 503)
@blueprint.response(200, VpsPageSchema())
def list_vps(principal: Principal, limit: int, after: int, primary_ip: str | None = None) -> dict[str, Any]:
    """List the VPS of your account, a page at a time."""
    if primary_ip is not None:
        return {"data": [], "next_cursor": None}
    views, more = services().inventory.list_page(principal, after=after, limit=limit)
    return {
        "data": [bodies.vps(view) for view in views],
        "next_cursor": dump_cursor(views[-1].vm.vmid) if more else None,
    }


@blueprint.route("/vps/<vps_id>", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, VpsSchema())
def get_vps(principal: Principal, vps_id: str) -> dict[str, Any]:
    """Tell what a VPS is."""
    return bodies.vps_alone(services().vps_ids.get_vm(principal, vps_id))


@blueprint.route("/vps/<vps_id>/details", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, VpsDetailsSchema())
def get_details(principal: Principal, vps_id: str) -> dict[str, Any]:
    """Tell what a VPS is, with what is known of its service."""
    view = services().vps_ids.get_vm(principal, vps_id)
    return bodies.vps_details(view, services().guest_settings.glance_at_hostname(principal, view, request_id()))


@blueprint.route("/vps/<vps_id>/status", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, VpsStatusSchema())
def get_status(principal: Principal, vps_id: str) -> dict[str, Any]:
    """Tell how a VPS is now."""
    return bodies.vps_status(services().vps_ids.get_vm(principal, vps_id), services().clock())


@blueprint.route("/vps/<vps_id>/metrics", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.arguments(MetricsQuery(), location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, MetricsSchema())
def get_metrics(principal: Principal, vps_id: str, timeframe: Timeframe) -> dict[str, Any]:
    """Tell what a VPS has used."""
    vmid = services().vps_ids.get_vmid(principal, vps_id)
    return bodies.metrics(vps_id, timeframe, services().history.usage(principal, vmid, timeframe))


@blueprint.route("/vps/<vps_id>/disks", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, DisksSchema())
def list_disks(principal: Principal, vps_id: str) -> dict[str, Any]:
    """List the disks of a VPS."""
    return _disks(principal, vps_id)


@blueprint.route("/vps/<vps_id>/storage", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, StorageSchema())
def get_storage(principal: Principal, vps_id: str) -> dict[str, Any]:
    """List the disks of a VPS with how much they were used."""
    return _disks(principal, vps_id)


@blueprint.route("/vps/<vps_id>/hostname", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, HostnameSchema())
def get_hostname(principal: Principal, vps_id: str) -> dict[str, Any]:
    """Ask the guest for its hostname."""
    view = services().vps_ids.get_vm(principal, vps_id)
    return bodies.hostname(view, services().guest_settings.glance_at_hostname(principal, view, request_id()))


def _disks(principal: Principal, vps_id: str) -> dict[str, Any]:
    vmid = services().vps_ids.get_vmid(principal, vps_id)
    return {"disks": [bodies.disk(vmid, disk) for disk in services().history.disks(principal, vmid)]}
