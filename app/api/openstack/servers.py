"""Nova's routes about servers: list, show, start, stop, reboot.

Source: Nova API reference, servers and server actions, microversion 2.1.
"""

from collections.abc import Sequence
from typing import Any

from flask import Response
from marshmallow import RAISE

from app import gates
from app.access import Principal, Scope
from app.api.openstack import bodies, paging
from app.api.openstack.addresses import COMPUTE
from app.api.openstack.arguments import ActionBody, ServersQuery
from app.api.openstack.conventions import ComputeBlueprint, requires
from app.api.openstack.schemas import ServerAnswer, ServersAnswer, ServersDetailAnswer
from app.audit_trail import note
from app.core.errors import GateClosedError
from app.core.records import JobKind, PowerAction
from app.inventory import VmView
from app.services import services

blueprint = ComputeBlueprint("Servers", __name__, description="VMs: list, show, start, stop, reboot")

_ID = "5d3b5a0c-6f4e-5c1b-9a51-3f7a1c2d4e5f"
_LINKS = [
    {"rel": "self", "href": f"https://cloud.example/v2.1/servers/{_ID}"},
    {"rel": "bookmark", "href": f"https://cloud.example/servers/{_ID}"},
]
_SUMMARY_EXAMPLE = {"id": _ID, "name": "web-1", "links": _LINKS}
_EXAMPLE = _SUMMARY_EXAMPLE | {
    "status": "ACTIVE",
    "OS-EXT-STS:vm_state": "active",
    "OS-EXT-STS:task_state": None,
    "OS-EXT-STS:power_state": 1,
    "tenant_id": "acme",
    "user_id": None,
    "flavor": {
        "id": "2cpu-256mb",
        "links": [{"rel": "bookmark", "href": "https://cloud.example/flavors/2cpu-256mb"}],
    },
    "image": "",
    "addresses": {},
    "metadata": {},
    "created": None,
    "updated": "2026-02-10T00:00:00Z",
    "OS-SRV-USG:launched_at": "2026-02-09T12:00:00.000000",
    "OS-EXT-SRV-ATTR:hypervisor_hostname": "node-1",
    "OS-EXT-SRV-ATTR:instance_name": "10000",
}


@blueprint.route(f"{COMPUTE}/servers", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(ServersQuery, location="query", as_kwargs=True, unknown=RAISE)
@blueprint.fails(400, 401, 403, 406, 503)
@blueprint.response(200, ServersAnswer, example={"servers": [_SUMMARY_EXAMPLE]})
def list_servers(principal: Principal, limit: int, marker: str | None, **filters: Any) -> dict[str, Any]:
    """List the servers of your project, in short."""
    found, _ = _find(principal, marker, filters)
    page = paging.first(found, limit)
    links = paging.next_links("servers", found, page, bodies.server_id)
    return {"servers": [bodies.server_summary(view) for view in page]} | links


@blueprint.route(f"{COMPUTE}/servers/detail", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(ServersQuery, location="query", as_kwargs=True, unknown=RAISE)
@blueprint.fails(400, 401, 403, 406, 503)
@blueprint.response(200, ServersDetailAnswer, example={"servers": [_EXAMPLE]})
def list_servers_in_full(principal: Principal, limit: int, marker: str | None, **filters: Any) -> dict[str, Any]:
    """List the servers of your project, in full."""
    found, tasks = _find(principal, marker, filters)
    page = paging.first(found, limit)
    links = paging.next_links("servers", found, page, bodies.server_id)
    return {"servers": [bodies.server(view, tasks.get(view.vm.vmid)) for view in page]} | links


@blueprint.route(f"{COMPUTE}/servers/<server_id>", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.fails(400, 401, 403, 404, 406, 503)
@blueprint.response(200, ServerAnswer, example={"server": _EXAMPLE})
def show_server(principal: Principal, server_id: str) -> dict[str, Any]:
    """Show a server."""
    view = services().server_ids.get_vm(principal, server_id)
    return {"server": bodies.server(view, services().jobs.under_way([view]).get(view.vm.vmid))}


@blueprint.route(f"{COMPUTE}/servers/<server_id>/action", methods=["POST"])
@requires(Scope.POWER_VM)
@blueprint.arguments(ActionBody, as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 406, 409, 413, 415, 503)
@blueprint.response(202, description="It is queued; the server's task_state and status tell how far it is.")
def act_on_server(principal: Principal, server_id: str, action: PowerAction, *, force: bool) -> Response:
    """Start, stop or reboot a server."""
    note(action=action, force=force)
    view = services().server_ids.get_vm(principal, server_id)
    gates.insist_on_power(view, action, force=force)
    _insist_on_idle(view, action)
    services().jobs.create(principal, view, action, force=force)
    return Response(status=202)


def _insist_on_idle(view: VmView, action: PowerAction) -> None:
    """Insist that nothing is being done to a server, as its answers show it.

    Source: Nova, compute API, ``check_instance_state``: a reboot under way is no reason to refuse a hard one.

    Raises:
        GateClosedError: Something is.
    """
    task = services().jobs.under_way([view]).get(view.vm.vmid)
    state = bodies.state_of(view.vm, task).task_state
    if state and (action, task) != (PowerAction.RESET, JobKind.RESTART):
        raise GateClosedError(gates.gate_name(action), f"The VPS is {state}", "task_under_way")


def _find(
    principal: Principal, marker: str | None, filters: dict[str, Any]
) -> tuple[Sequence[VmView], dict[int, JobKind]]:
    """Find the servers that follow a marker and pass the filters, with what is being done to them."""
    views = services().inventory.list_vms(principal)
    tasks = services().jobs.under_way(views)
    rest = paging.after(views, marker, bodies.server_id)
    return [view for view in rest if bodies.fits(view, tasks.get(view.vm.vmid), **filters)], tasks
