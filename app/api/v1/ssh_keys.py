"""v1 routes about the SSH keys an account keeps; which of them are in a guest is not told here."""

from typing import Any

from app.access import Principal, Scope
from app.api.requires import requires
from app.api.v1.face import V1Blueprint, example
from app.api.v1.setting_schemas import (
    SshKeyAddedSchema,
    SshKeyBody,
    SshKeyPath,
    SshKeyRemovedSchema,
    SshKeysSchema,
)
from app.core.records import SshKey
from app.services import services
from app.ssh_public_key import PublicKey

blueprint = V1Blueprint("SSH keys", __name__, description="SSH keys of your account, to be put into guests")

_ADDED = "SSH Key added successfully"
"""Source: HostUp v1 docs, POST ssh-keys, with ``call`` and the nesting of its billing system's reply."""
_CALL = "addClientSsh"

_EXAMPLE = {
    "id": 2830,
    "client_id": "acme",
    "name": "laptop",
    "key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann@laptop",
    "fingerprint": "0f:a2:0a:d7:38:3e:65:45:08:6b:63:84:1c:ff:dc:ba",
}
_ADDED_EXAMPLE = {"success": True, "call": _CALL, "server_time": 1768986364, "info": [_ADDED], "ssh_key": _EXAMPLE}


@blueprint.route("/ssh-keys", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.fails(401, 403, 503)
@blueprint.response(200, SshKeysSchema, example=example({"ssh_keys": [_EXAMPLE]}))
def list_ssh_keys(principal: Principal) -> dict[str, Any]:
    """List the SSH keys of your account."""
    return {"ssh_keys": [_body(key) for key in services().ssh_keys.list_owned(principal)]}


@blueprint.route("/ssh-keys", methods=["POST"])
@requires(Scope.WRITE_ACCOUNT)
@blueprint.arguments(SshKeyBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 413, 415, 503)
@blueprint.response(200, SshKeyAddedSchema, example=example({"ssh_key": _ADDED_EXAMPLE}))
def add_ssh_key(principal: Principal, name: str, public_key: str) -> dict[str, Any]:
    """Keep an SSH key for your account; it gets into a guest by reset-ssh-keys."""
    key = services().ssh_keys.add(principal, name, public_key)
    return {
        "ssh_key": {
            "success": True,
            "call": _CALL,
            "server_time": int(services().clock().timestamp()),
            "info": [_ADDED],
            "ssh_key": _body(key),
        }
    }


@blueprint.route("/ssh-keys/<key_id>", methods=["DELETE"])
@requires(Scope.WRITE_ACCOUNT)
@blueprint.arguments(SshKeyPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, SshKeyRemovedSchema, example=example({"success": True, "message": "SSH key removed"}))
def remove_ssh_key(principal: Principal, key_id: int) -> dict[str, Any]:
    """Forget an SSH key of your account. Guests that have it keep it."""
    services().ssh_keys.remove(principal, key_id)
    return {"success": True, "message": "SSH key removed"}


def _body(key: SshKey) -> dict[str, Any]:
    fingerprint = PublicKey.read(key.public_key).md5
    return {
        "id": key.id,
        "client_id": key.account,
        "name": key.name,
        "key": key.public_key,
        "fingerprint": fingerprint,
    }
