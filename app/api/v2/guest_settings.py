"""v2 routes about the settings of a guest: its hostname is changed, its SSH keys are told and replaced."""

from collections.abc import Iterable
from typing import Any

from app.access import Principal, Scope
from app.api.requires import requires
from app.api.v2 import bodies
from app.api.v2.arguments import VpsPath
from app.api.v2.face import V2Blueprint
from app.api.v2.setting_schemas import GuestKeysSchema, HostnameBody, HostnameChangedSchema, KeyIdsBody, KeyType
from app.core import ids
from app.core.records import SshKey
from app.request_log import request_id
from app.services import services
from app.ssh_public_key import PublicKey

blueprint = V2Blueprint("VPS settings", __name__, description="Settings of a guest, through its QEMU guest agent")


@blueprint.route("/vps/<vps_id>/hostname", methods=["PUT"])
@requires(Scope.WRITE_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.arguments(HostnameBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 413, 415, 502, 503, 504)
@blueprint.response(200, HostnameChangedSchema())
def set_hostname(principal: Principal, vps_id: str, hostname: str) -> dict[str, Any]:
    """Change the hostname of a running guest, at once and for good; no reboot is needed."""
    view = services().vps_ids.get_vm(principal, vps_id)
    saved = services().guest_settings.set_hostname(principal, view, hostname, request_id())
    return bodies.hostname(view, saved) | {
        "hostname_normalized": saved != hostname,
        "service_record_synced": False,
        "reverse_dns_protection": None,
    }


@blueprint.route("/vps/<vps_id>/ssh-keys", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 502, 503, 504)
@blueprint.response(200, GuestKeysSchema())
def list_guest_keys(principal: Principal, vps_id: str) -> dict[str, Any]:
    """Ask a running guest with which SSH keys its administrator may log in."""
    view = services().vps_ids.get_vm(principal, vps_id)
    lines = services().guest_settings.ssh_keys(principal, view, request_id())
    return {"ssh_keys": _entries(lines, services().ssh_keys.list_owned(principal))}


@blueprint.route("/vps/<vps_id>/actions/reset-ssh-keys", methods=["POST"])
@requires(Scope.WRITE_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.arguments(KeyIdsBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 413, 415, 502, 503, 504)
@blueprint.response(200, GuestKeysSchema())
def reset_guest_keys(principal: Principal, vps_id: str, key_ids: list[str]) -> dict[str, Any]:
    """Let a running guest's administrator log in with these SSH keys of your account and no others; no reboot."""
    view = services().vps_ids.get_vm(principal, vps_id)
    keys = services().ssh_keys.get_many(principal, key_ids)
    services().guest_settings.set_ssh_keys(principal, view, keys, request_id())
    return {"ssh_keys": _entries((key.public_key for key in keys), keys)}


def _entries(lines: Iterable[str], kept: Iterable[SshKey]) -> list[dict[str, Any]]:
    known = {PublicKey.read(key.public_key).blob: key for key in kept}
    return [_entry(line, known) for line in lines]


def _entry(line: str, known: dict[bytes, SshKey]) -> dict[str, Any]:
    """Make one line of a guest's file; there may be others in it than what OwnUp puts there."""
    try:
        key = PublicKey.read(line)
    except ValueError:
        return {"id": None, "name": None, "public_key": line, "fingerprint": None, "key_type": KeyType.UNKNOWN}
    kept = known.get(key.blob)
    return {
        "id": ids.ssh_key_id(kept.id) if kept else None,
        "name": kept.name if kept else key.comment or None,
        "public_key": line,
        "fingerprint": key.sha256,
        "key_type": KeyType(key.family),
    }
