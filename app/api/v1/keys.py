"""v1 routes about API keys: what scopes there are, which keys there are, make, change, roll and delete one."""

from typing import Any, cast

from app.access import Principal, Scope
from app.api.requires import by_key_afresh, requires
from app.api.timestamps import timestamp
from app.api.v1.face import V1Blueprint, example
from app.api.v1.key_schemas import (
    KEY_EXAMPLE,
    KeyBody,
    KeyChangedSchema,
    KeyCreatedSchema,
    KeyDeletedSchema,
    KeyRolledSchema,
    KeysSchema,
    NewKeyBody,
    ScopesSchema,
)
from app.audit_trail import note
from app.core.records import ApiKey
from app.keys import KeySettings, NewKey
from app.services import services

blueprint = V1Blueprint("API keys", __name__, description="API keys, made and managed by API keys")

_DESCRIPTIONS = {
    Scope.READ_VM: "See VMs, how they are and what was done to them; list SSH keys",
    Scope.WRITE_VM: "Run commands, read their output, move files, change the settings of a guest",
    Scope.POWER_VM: "Switch VMs on and off",
    Scope.BACKUP_VM: "Take snapshots, delete them, go back to them",
    Scope.WRITE_ACCOUNT: "Manage API keys and SSH keys",
    Scope.ADMIN: "Operators only: what the other scopes allow, with every account",
}
_CREATED = "API key created. Its secret is shown only this once; keep it safe."
_ROLLED = "API key rolled. The old secret doesn't count any more; the new one is shown only this once."
_CHANGED = "API key updated"
_DELETED = "API key deleted"
_DNS_FIELDS = {"allowed_dns_zones", "dns_permissions"}

_EXAMPLE = {
    "key_id": "7f3c9a1b2d4e5f60",
    "name": "deploy",
    "description": "Runs the deploy script of web-1",
    "account": "acme",
    "scopes": ["read:vm", "write:vm"],
    "prefix": "ownup_7f3c9a1b2d4e5f60",
    "is_active": True,
    "is_test": False,
    "created_at": "2026-02-10T00:00:00.000Z",
    "expires_at": "2026-05-11T00:00:00.000Z",
    "last_used_at": None,
    "allowed_ips": ["192.0.2.0/24"],
    "allowed_vmids": [10000],
    "allowed_commands": ["/opt/deploy.sh web-*"],
}
_CREATED_EXAMPLE = _EXAMPLE | {"key": KEY_EXAMPLE, "dns_permissions": [], "message": _CREATED}
_SCOPES_EXAMPLE = {
    "scopes": [
        {"scope": scope, "description": text, "can_give": scope is not Scope.ADMIN}
        for scope, text in _DESCRIPTIONS.items()
    ]
}


@blueprint.route("/keys/scopes", methods=["GET"])
@requires(Scope.WRITE_ACCOUNT)
@blueprint.fails(401, 403, 503)
@blueprint.response(200, ScopesSchema, example=example(_SCOPES_EXAMPLE))
def list_scopes(principal: Principal) -> dict[str, Any]:
    """List the scopes a key may have, and which of them yours may give."""
    return {
        "scopes": [
            {"scope": scope, "description": text, "can_give": scope in principal.scopes}
            for scope, text in _DESCRIPTIONS.items()
        ]
    }


@blueprint.route("/keys", methods=["GET"])
@requires(Scope.WRITE_ACCOUNT)
@blueprint.fails(401, 403, 503)
@blueprint.response(200, KeysSchema, example=example({"keys": [_EXAMPLE]}))
def list_keys(principal: Principal) -> dict[str, Any]:
    """List the API keys of your account, without their secrets.

    A key that is limited to certain VMs, addresses or commands sees only those that can do no more than itself.
    """
    return {"keys": [_body(key) for key in services().keys.list_seen(principal)]}


@blueprint.route("/keys", methods=["POST"])
@requires(Scope.WRITE_ACCOUNT, who=by_key_afresh)
@blueprint.arguments(NewKeyBody())
@blueprint.fails(400, 401, 403, 413, 415, 503)
@blueprint.response(200, KeyCreatedSchema, example=example(_CREATED_EXAMPLE))
def create_key(wanted: dict[str, Any], *, principal: Principal) -> dict[str, Any]:
    """Make an API key, which can do no more than yours. Its secret is shown only here."""
    key, secret = services().keys.create(principal, NewKey(**_without_dns(wanted)))
    note(createdKeyId=key.id, forAccount=key.account, scopes=key.scopes)
    return _body_with_secret(key, secret, _CREATED)


@blueprint.route("/keys/<key_id>", methods=["PUT"])
@requires(Scope.WRITE_ACCOUNT, who=by_key_afresh)
@blueprint.arguments(KeyBody())
@blueprint.fails(400, 401, 403, 404, 413, 415, 503)
@blueprint.response(200, KeyChangedSchema, example=example({"message": _CHANGED}))
def update_key(wanted: dict[str, Any], *, principal: Principal, key_id: str) -> dict[str, Any]:
    """Change an API key that can do no more than yours; within a second it counts as it is then."""
    lists = {name: tuple(value) for name, value in wanted.items() if isinstance(value, list)}
    settings = cast("KeySettings", _without_dns(wanted | lists))
    key = services().keys.update(principal, key_id, settings)
    note(scopes=key.scopes, isActive=key.is_active)
    return {"message": _CHANGED}


@blueprint.route("/keys/<key_id>/roll", methods=["POST"])
@requires(Scope.WRITE_ACCOUNT, who=by_key_afresh)
@blueprint.fails(401, 403, 404, 503)
@blueprint.response(200, KeyRolledSchema, example=example(_CREATED_EXAMPLE | {"message": _ROLLED}))
def roll_key(principal: Principal, key_id: str) -> dict[str, Any]:
    """Give an API key that can do no more than yours another secret, which is shown only here.

    Within a second the old one doesn't count any more, nor does any token that was issued for it.
    """
    key, secret = services().keys.roll(principal, key_id)
    return _body_with_secret(key, secret, _ROLLED)


@blueprint.route("/keys/<key_id>", methods=["DELETE"])
@requires(Scope.WRITE_ACCOUNT, who=by_key_afresh)
@blueprint.fails(401, 403, 404, 503)
@blueprint.response(200, KeyDeletedSchema, example=example({"message": _DELETED}))
def delete_key(principal: Principal, key_id: str) -> dict[str, Any]:
    """Withdraw an API key that can do no more than yours, for good; within a second it doesn't count any more."""
    services().keys.delete(principal, key_id)
    return {"message": _DELETED}


def _without_dns(wanted: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if name not in _DNS_FIELDS}


def _body_with_secret(key: ApiKey, secret: str, message: str) -> dict[str, Any]:
    return _body(key) | {"secret": secret, "dns_permissions": [], "message": message}


def _body(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.id,
        "name": key.name,
        "description": key.description,
        "account": key.account,
        "scopes": [Scope(scope) for scope in key.scopes],
        "prefix": f"ownup_{key.id}",
        "is_active": key.is_active,
        "is_test": key.is_test,
        "created_at": timestamp(key.created_at),
        "expires_at": key.expires_at and timestamp(key.expires_at),
        "last_used_at": key.last_used_at and timestamp(key.last_used_at),
        "allowed_ips": key.allowed_ips,
        "allowed_vmids": key.allowed_vmids,
        "allowed_commands": key.allowed_commands,
    }
