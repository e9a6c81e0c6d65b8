"""Nova's routes about flavors: here these are the sizes that the account's VMs have.

Source: Nova API reference, flavors, microversion 2.1.
"""

from collections.abc import Sequence
from typing import Any

from marshmallow import RAISE

from app.access import Principal, Scope
from app.api.openstack import bodies, paging
from app.api.openstack.addresses import COMPUTE
from app.api.openstack.arguments import FlavorsQuery
from app.api.openstack.bodies import Flavor
from app.api.openstack.conventions import ComputeBlueprint, requires
from app.api.openstack.schemas import ExtraSpecsAnswer, FlavorAnswer, FlavorsAnswer, FlavorsDetailAnswer
from app.core.errors import NotFoundError
from app.services import services

blueprint = ComputeBlueprint("Flavors", __name__, description="The sizes that your VMs have")

_SUMMARY_EXAMPLE = {
    "id": "2cpu-256mb",
    "name": "2 vCPU, 256 MiB",
    "links": [
        {"rel": "self", "href": "https://cloud.example/v2.1/flavors/2cpu-256mb"},
        {"rel": "bookmark", "href": "https://cloud.example/flavors/2cpu-256mb"},
    ],
}
_EXAMPLE = _SUMMARY_EXAMPLE | {"vcpus": 2, "ram": 256, "disk": None, "os-flavor-access:is_public": True}


@blueprint.route(f"{COMPUTE}/flavors", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(FlavorsQuery, location="query", as_kwargs=True, unknown=RAISE)
@blueprint.fails(400, 401, 403, 406, 503)
@blueprint.response(200, FlavorsAnswer, example={"flavors": [_SUMMARY_EXAMPLE]})
def list_flavors(principal: Principal, limit: int, marker: str | None, *, is_public: bool) -> dict[str, Any]:
    """List the sizes that your VMs have, in short."""
    found = _find(principal, marker, is_public=is_public)
    page = paging.first(found, limit)
    links = paging.next_links("flavors", found, page, _id)
    return {"flavors": [bodies.flavor_summary(flavor) for flavor in page]} | links


@blueprint.route(f"{COMPUTE}/flavors/detail", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(FlavorsQuery, location="query", as_kwargs=True, unknown=RAISE)
@blueprint.fails(400, 401, 403, 406, 503)
@blueprint.response(200, FlavorsDetailAnswer, example={"flavors": [_EXAMPLE]})
def list_flavors_in_full(principal: Principal, limit: int, marker: str | None, *, is_public: bool) -> dict[str, Any]:
    """List the sizes that your VMs have, in full."""
    found = _find(principal, marker, is_public=is_public)
    page = paging.first(found, limit)
    links = paging.next_links("flavors", found, page, _id)
    return {"flavors": [bodies.flavor(flavor) for flavor in page]} | links


@blueprint.route(f"{COMPUTE}/flavors/<flavor_id>", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.fails(400, 401, 403, 404, 406, 503)
@blueprint.response(200, FlavorAnswer, example={"flavor": _EXAMPLE})
def show_flavor(principal: Principal, flavor_id: str) -> dict[str, Any]:
    """Show a size that one of your VMs has."""
    return {"flavor": bodies.flavor(_get(principal, flavor_id))}


@blueprint.route(f"{COMPUTE}/flavors/<flavor_id>/os-extra_specs", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.fails(400, 401, 403, 404, 406, 503)
@blueprint.response(200, ExtraSpecsAnswer, example={"extra_specs": {}})
def list_extra_specs(principal: Principal, flavor_id: str) -> dict[str, Any]:
    """Tell what else there is to say of a size: nothing."""
    _get(principal, flavor_id)
    return {"extra_specs": {}}


def _find(principal: Principal, marker: str | None, *, is_public: bool) -> Sequence[Flavor]:
    """Find the flavors that follow a marker; all of them are public."""
    rest = paging.after(_list(principal), marker, _id)
    return rest if is_public else []


def _get(principal: Principal, flavor_id: str) -> Flavor:
    for flavor in _list(principal):
        if flavor.id == flavor_id:
            return flavor
    raise NotFoundError("Flavor")


def _list(principal: Principal) -> list[Flavor]:
    return bodies.flavors_of(services().inventory.list_vms(principal))


def _id(flavor: Flavor) -> str:
    return flavor.id
