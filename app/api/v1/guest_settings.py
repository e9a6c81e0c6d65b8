"""v1 routes about a VM's details and the settings of its guest: hostname, password, SSH keys."""

from typing import Any

from app.access import Principal, Scope
from app.api.requires import requires
from app.api.v1.arguments import VmPath
from app.api.v1.face import V1Blueprint, example
from app.api.v1.setting_schemas import (
    DetailsSchema,
    GuestKeysSchema,
    HostnameBody,
    HostnameSchema,
    KeyIdsBody,
    PasswordBody,
    PasswordSchema,
)
from app.core.records import Vm, VmStatus
from app.request_log import request_id
from app.services import services

blueprint = V1Blueprint("Guest settings", __name__, description="Settings of a guest, through its QEMU guest agent")

_BYTES_PER_GB = 2**30
_DIGITS = 3
_STATUSES = {VmStatus.RUNNING: "Active", VmStatus.STOPPED: "Stopped"}
"""Source: HostUp v1 docs, GET details. Other states are said in OwnUp's words."""
_UNKNOWN = dict.fromkeys((
    "product_id", "product_name", "created", "order_id", "billingcycle", "price", "total", "firstpayment", "next_due",
    "bandwidth_limit",
))  # fmt: skip

_DETAILS = {
    "id": "10000",
    "product_id": None,
    "product_name": None,
    "hostname": "web-1.example.com",
    "status": "Active",
    "created": None,
    "order_id": None,
    "billingcycle": None,
    "price": None,
    "total": None,
    "firstpayment": None,
    "next_due": None,
    "cpu": 1,
    "ram": 0.25,
    "disk": 2.0,
    "bandwidth_limit": None,
    "bandwidth_usage": {"data_received": 1048576, "data_sent": 4096},
    "usage_log": {},
}
_HOSTNAME = {
    "success": True,
    "message": "Hostname changed. Saved as web-1.example.com.",
    "hostname": "web-1.example.com",
    "normalized": False,
    "hostbillSynced": False,
    "rdnsProtection": {
        "monitoredIps": 0,
        "changesDetected": 0,
        "restoredIps": [],
        "failedIps": [],
        "changedRecords": [],
    },
}
_PASSWORD = {"success": True, "message": "Password reset", "vmid": "10000", "accountId": "10000"}
_KEYS = {"success": True, "message": "SSH keys reset", "keyCount": 2, "vmid": "10000", "accountId": "10000"}


@blueprint.route("/vm/<vmid>/details", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, DetailsSchema, example=example(_DETAILS))
def get_details(principal: Principal, vmid: int) -> dict[str, Any]:
    """Tell all that is known of a VM."""
    view = services().inventory.get_vm(principal, vmid)
    hostname = services().guest_settings.glance_at_hostname(principal, view, request_id())
    return _UNKNOWN | _known(view.vm) | {"hostname": hostname}


@blueprint.route("/vm/<vmid>/hostname", methods=["POST"])
@requires(Scope.WRITE_VM)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.arguments(HostnameBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 413, 415, 500, 503, 504)
@blueprint.response(200, HostnameSchema, example=example(_HOSTNAME))
def set_hostname(principal: Principal, vmid: int, hostname: str) -> dict[str, Any]:
    """Change the hostname of a running guest, at once and for good; no reboot is needed."""
    view = services().inventory.get_vm(principal, vmid)
    saved = services().guest_settings.set_hostname(principal, view, hostname, request_id())
    return {
        "success": True,
        "message": f"Hostname changed. Saved as {saved}.",
        "hostname": saved,
        "normalized": saved != hostname,
        "hostbill_synced": False,
        "rdns_protection": {
            "monitored_ips": 0,
            "changes_detected": 0,
            "restored_ips": [],
            "failed_ips": [],
            "changed_records": [],
        },
    }


@blueprint.route("/vm/<vmid>/reset-password", methods=["POST"])
@requires(Scope.WRITE_VM)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.arguments(PasswordBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 413, 415, 500, 503, 504)
@blueprint.response(200, PasswordSchema, example=example(_PASSWORD))
def reset_password(principal: Principal, vmid: int, password: str) -> dict[str, Any]:
    """Change the password of a running guest's administrator; no reboot is needed."""
    view = services().inventory.get_vm(principal, vmid)
    services().guest_settings.set_password(principal, view, password, request_id())
    return {"success": True, "message": "Password reset", "vmid": str(vmid), "account_id": str(vmid)}


@blueprint.route("/vm/<vmid>/reset-ssh-keys", methods=["POST"])
@requires(Scope.WRITE_VM)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.arguments(KeyIdsBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 413, 415, 500, 503, 504)
@blueprint.response(200, GuestKeysSchema, example=example(_KEYS))
def reset_ssh_keys(principal: Principal, vmid: int, key_ids: list[str]) -> dict[str, Any]:
    """Let a running guest's administrator log in with these SSH keys of your account and no others; no reboot."""
    view = services().inventory.get_vm(principal, vmid)
    keys = services().ssh_keys.get_many(principal, [int(key_id) for key_id in key_ids])
    services().guest_settings.set_ssh_keys(principal, view, keys, request_id())
    return {
        "success": True,
        "message": "SSH keys reset",
        "key_count": len(keys),
        "vmid": str(vmid),
        "account_id": str(vmid),
    }


def _known(vm: Vm) -> dict[str, Any]:
    return {
        "id": str(vm.vmid),
        "status": _STATUSES.get(vm.status, vm.status.capitalize()),
        "cpu": vm.cpus,
        "ram_gb": _gb(vm.maxmem_bytes),
        "disk_gb": _gb(vm.storage_bytes),
        "bandwidth_usage": {"data_received": vm.netin_bytes, "data_sent": vm.netout_bytes},
        "usage_log": {},
    }


def _gb(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / _BYTES_PER_GB, _DIGITS)
