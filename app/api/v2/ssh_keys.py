"""v2 routes about the SSH keys an account keeps; which of them are in a guest is told by ``guest_settings``."""

from typing import Any

from app import gates
from app.access import Principal, Scope
from app.api.requires import requires
from app.api.timestamps import timestamp
from app.api.v2.arguments import dump_cursor
from app.api.v2.face import V2Blueprint
from app.api.v2.setting_schemas import (
    KeyNameBody,
    KeyType,
    PageQuery,
    SshKeyBody,
    SshKeyPageSchema,
    SshKeyPath,
    SshKeySchema,
)
from app.core import ids
from app.core.records import SshKey
from app.services import services
from app.ssh_public_key import PublicKey

blueprint = V2Blueprint("Account SSH keys", __name__, description="SSH keys of your account, to be put into guests")


@blueprint.route("/ssh-keys", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(PageQuery(), location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 503)
@blueprint.response(200, SshKeyPageSchema())
def list_ssh_keys(principal: Principal, limit: int, after: int) -> dict[str, Any]:
    """List the SSH keys of your account, a page at a time."""
    keys = [key for key in services().ssh_keys.list_owned(principal) if key.id > after]
    page = keys[:limit]
    return {
        "data": [_body(key) for key in page],
        "next_cursor": dump_cursor(page[-1].id) if len(keys) > limit else None,
    }


@blueprint.route("/ssh-keys", methods=["POST"])
@requires(Scope.WRITE_ACCOUNT)
@blueprint.arguments(SshKeyBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 413, 415, 503)
@blueprint.response(201, SshKeySchema())
def add_ssh_key(principal: Principal, name: str, public_key: str) -> dict[str, Any]:
    """Keep an SSH key for your account; it gets into a guest by reset-ssh-keys."""
    return _body(services().ssh_keys.add(principal, name, public_key))


@blueprint.route("/ssh-keys/<key_id>", methods=["PATCH"])
@requires(Scope.WRITE_ACCOUNT)
@blueprint.arguments(SshKeyPath(), location="path", as_kwargs=True)
@blueprint.arguments(KeyNameBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 413, 415, 503)
@blueprint.response(200, SshKeySchema())
def rename_ssh_key(principal: Principal, key_id: str, name: str) -> dict[str, Any]:
    """Give an SSH key another name."""
    return _body(services().ssh_keys.rename(principal, key_id, name))


@blueprint.route("/ssh-keys/<key_id>", methods=["DELETE"])
@requires(Scope.WRITE_ACCOUNT)
@blueprint.arguments(SshKeyPath(), location="path", as_kwargs=True)
@blueprint.fails(401, 403, 404, 503)
@blueprint.response(204)
def remove_ssh_key(principal: Principal, key_id: str) -> None:
    """Forget an SSH key of your account. Guests that have it keep it."""
    services().ssh_keys.remove(principal, key_id)


def _body(key: SshKey) -> dict[str, Any]:
    public_key = PublicKey.read(key.public_key)
    return {
        "id": ids.ssh_key_id(key.id),
        "display_id": str(key.id),
        "name": key.name,
        "public_key": key.public_key,
        "fingerprint": public_key.sha256,
        "key_type": KeyType(public_key.family),
        "created_at": timestamp(key.created_at),
        "last_used_at": None,
        "actions": {"can_rename": gates.OPEN, "can_delete": gates.OPEN},
    }
