"""The data of this face's answers, made from records: which fields there are when, and what they say."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from app.access import Scope
from app.api.openstack.addresses import COMPUTE, IDENTITY, compute_url, url
from app.api.openstack.moments import keystone_moment, nova_moment, usage_moment
from app.core import ids
from app.core.records import JobKind, Vm, VmStatus
from app.inventory import VmView
from app.tokens import TokenView

REGION = "RegionOne"
"""The one region, by the name that DevStack gives to its own: what examples and clients' settings say."""

_DOMAIN = {"id": "default", "name": "Default"}
"""The one domain, by the name of Keystone's first one."""

_ROLES = {Scope.READ_VM: "reader", Scope.POWER_VM: "member", Scope.WRITE_VM: "guest_exec"}
"""Source: Keystone, default roles, for the first two; Virtuozzo, compute API, executing commands, for the last."""

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerState:
    """How Nova says that a VM is.

    Source: Nova API guide, server concepts; Nova, ``vm_states``, ``task_states`` and ``power_state``.
    """

    status: str
    vm_state: str | None
    power_state: int
    task_state: str | None = None


_STATES = {
    VmStatus.RUNNING: ServerState("ACTIVE", "active", 1),
    VmStatus.STOPPED: ServerState("SHUTOFF", "stopped", 4),
    VmStatus.STARTING: ServerState("SHUTOFF", "stopped", 4, "powering-on"),
    VmStatus.STOPPING: ServerState("ACTIVE", "active", 1, "powering-off"),
    VmStatus.PAUSED: ServerState("PAUSED", "paused", 3),
    VmStatus.ERROR: ServerState("ERROR", "error", 0),
    VmStatus.UNKNOWN: ServerState("UNKNOWN", None, 0),
}

_TASKS = {
    (VmStatus.STOPPED, JobKind.START): _STATES[VmStatus.STARTING],
    (VmStatus.RUNNING, JobKind.STOP): _STATES[VmStatus.STOPPING],
    (VmStatus.RUNNING, JobKind.SHUTDOWN): _STATES[VmStatus.STOPPING],
    (VmStatus.RUNNING, JobKind.RESTART): ServerState("REBOOT", "active", 1, "rebooting"),
    (VmStatus.RUNNING, JobKind.RESET): ServerState("HARD_REBOOT", "active", 1, "rebooting_hard"),
}
"""How a VM is that a power job is queued for or under way on: its own status tells only of some of them."""


@dataclass(frozen=True, slots=True, order=True)
class Flavor:
    """A size that VMs have."""

    vcpus: int
    ram_mib: int

    @property
    def id(self) -> str:
        """Its id; it says the size, so that it is the same for every account and for ever."""
        return f"{self.vcpus}cpu-{self.ram_mib}mb"


def state_of(vm: Vm, task: JobKind | None) -> ServerState:
    """Tell how a VM is in Nova's words, with the job that is queued for it or under way, if there is one."""
    return _STATES[vm.status] if task is None else _TASKS.get((vm.status, task), _STATES[vm.status])


def flavor_of(vm: Vm) -> Flavor | None:
    """Tell the size of a VM; ``None`` where it isn't known."""
    if vm.cpus is None or vm.maxmem_bytes is None:
        return None
    return Flavor(vm.cpus, vm.maxmem_bytes // _MIB)


def flavors_of(views: Iterable[VmView]) -> list[Flavor]:
    """List the sizes that VMs have, each once, small ones first."""
    return sorted({flavor for view in views if (flavor := flavor_of(view.vm))})


def server_id(view: VmView) -> str:
    """Tell the id of a server."""
    return ids.openstack_id(view.vm.vmid)


def server_summary(view: VmView) -> dict[str, Any]:
    """Make a server of a short list."""
    identity = server_id(view)
    return {"id": identity, "name": view.vm.name, "links": _links("servers", identity)}


def server(view: VmView, task: JobKind | None) -> dict[str, Any]:
    """Make a server."""
    vm, state, flavor = view.vm, state_of(view.vm, task), flavor_of(view.vm)
    return server_summary(view) | {
        "status": state.status,
        "vm_state": state.vm_state,
        "task_state": state.task_state,
        "power_state": state.power_state,
        "account": vm.account,
        "user_id": None,
        "flavor": {"id": flavor.id, "links": _links("flavors", flavor.id)[1:]} if flavor else {},
        "image": "",
        "addresses": {},
        "metadata": {},
        "created": None,
        "updated": nova_moment(vm.seen_at),
        "launched_at": usage_moment(vm.booted_at) if vm.booted_at else None,
        "node": vm.node,
        "vmid": str(vm.vmid),
    }


def fits(
    view: VmView,
    task: JobKind | None,
    *,
    deleted: bool = False,
    name: str = "",
    status: str | None = None,
    flavor: str | None = None,
    uuid: str | None = None,
) -> bool:
    """Tell whether a server passes filters, each of which is a member of its body or a part of it."""
    size = flavor_of(view.vm)
    return (
        not deleted
        and _name_fits(view.vm.name, name)
        and status in {None, state_of(view.vm, task).status}
        and flavor in {None, size.id if size else ""}
        and uuid in {None, server_id(view)}
    )


def flavor_summary(flavor: Flavor) -> dict[str, Any]:
    """Make a flavor of a short list."""
    name = f"{flavor.vcpus} vCPU, {flavor.ram_mib} MiB"
    return {"id": flavor.id, "name": name, "links": _links("flavors", flavor.id)}


def flavor(flavor: Flavor) -> dict[str, Any]:
    """Make a flavor."""
    size = {"vcpus": flavor.vcpus, "ram_mib": flavor.ram_mib, "disk": None}
    return flavor_summary(flavor) | size | {"is_public": True}


def token(view: TokenView) -> dict[str, Any]:
    """Make what a token stands for."""
    key = view.key
    return {
        "methods": [view.token.method],
        "user": {"id": key.id, "name": key.name, "domain": _DOMAIN},
        "project": {"id": key.account, "name": key.account, "domain": _DOMAIN},
        "is_domain": False,
        "roles": [{"id": role, "name": role} for scope, role in _ROLES.items() if scope in key.scopes],
        "audit_ids": [],
        "issued_at": keystone_moment(view.token.issued_at),
        "expires_at": keystone_moment(view.token.expires_at),
        "catalog": [_service("compute", "nova", COMPUTE), _service("identity", "keystone", IDENTITY)],
    }


def _name_fits(name: str, pattern: str) -> bool:
    """Search a name for a part of it. Nova takes a regular expression; only its anchors have a meaning here."""
    part = pattern.removeprefix("^").removesuffix("$")
    if pattern.startswith("^"):
        return name == part if pattern.endswith("$") else name.startswith(part)
    return name.endswith(part) if pattern.endswith("$") else part in name


def _service(service_type: str, name: str, path: str) -> dict[str, Any]:
    region = {"region": REGION, "region_id": REGION}
    endpoints = [
        {"id": f"{name}-{interface}", "interface": interface, "url": url(path)} | region
        for interface in ("public", "internal", "admin")
    ]
    return {"id": name, "name": name, "type": service_type, "endpoints": endpoints}


def _links(collection: str, identity: str) -> list[dict[str, str]]:
    return [
        {"rel": "self", "href": compute_url(collection, identity)},
        {"rel": "bookmark", "href": url(f"/{collection}/{identity}")},
    ]
