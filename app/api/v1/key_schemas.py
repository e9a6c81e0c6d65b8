"""How v1 spells API keys, in and out, and the limits of what it takes in."""

import re
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate
from marshmallow.fields import Boolean, List, Nested, String

from app import allowed_commands, allowed_ips
from app.access import Scope
from app.api.face import about
from app.api.order_fields import TEXT_MESSAGES, always, check_unicode
from app.api.parsing import MAX_INTEGER, StrictBoolean, StrictInteger
from app.api.setting_fields import KeyName
from app.keys import MAX_LIFE_DAYS

MAX_DESCRIPTION_CHARS = 500
MAX_ACCOUNT_CHARS = 100
MAX_NETWORKS = 100
MAX_VMIDS = 1000
MAX_PATTERNS = 50
KEY_EXAMPLE = "ownup_7f3c9a1b2d4e5f60_secret"

_SCOPES_RULE = f"must be 1 to {len(Scope)} scopes, each once; they are: {', '.join(Scope)}"
_DAYS_RULE = f"must be an integer from 1 to {MAX_LIFE_DAYS}, or null"
_VMID_RULE = "must be the number of a VM: an integer from 1"
_NO_DNS = "must be an empty list: OwnUp keeps no DNS zones"
_ACCOUNT = r"[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?"
_ACCOUNT_RULE = f"must be 1 to {MAX_ACCOUNT_CHARS} characters on one line, with no space around it"


class Network(String):
    """An address or a network; it is loaded as ``allowed_ips.normalise`` writes it."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        try:
            return allowed_ips.normalise(super()._deserialize(value, *args, **kwargs))
        except ValueError as exc:  # what isn't a string is a ValidationError, and so one of them
            raise ValidationError(allowed_ips.RULE) from exc


def _check_pattern(text: str) -> None:
    check_unicode(text)
    if not allowed_commands.is_pattern(text):
        raise ValidationError(allowed_commands.PATTERN_RULE)


def _check_description(text: str) -> None:
    check_unicode(text)
    if len(text) > MAX_DESCRIPTION_CHARS:
        raise ValidationError(f"must be at most {MAX_DESCRIPTION_CHARS} characters long")


def _check_account(text: str) -> None:
    check_unicode(text)
    if len(text) > MAX_ACCOUNT_CHARS or not re.fullmatch(_ACCOUNT, text):
        raise ValidationError(_ACCOUNT_RULE)


def _check_scopes(scopes: list[str]) -> None:
    if not scopes or len(set(scopes)) != len(scopes):
        raise ValidationError(_SCOPES_RULE)


def _list_of(field: fields.Field[Any], most: int, rule: str, description: str, example: list[Any]) -> List[Any]:
    return List(
        field,
        validate=validate.Length(max=most, error=f"must have at most {most} entries"),
        error_messages=always(rule),
        metadata=about(description) | {"example": example},
    )


def _no_dns() -> List[Any]:
    return List(
        String(),
        validate=validate.Length(max=0, error=_NO_DNS),
        error_messages=always(_NO_DNS),
        metadata=about("HostUp's panel sends it; must be empty.") | {"example": []},
    )


class _Body(Schema):
    """What can be said of a key that is made or changed."""

    name = KeyName()
    scopes = List(
        String(validate=validate.OneOf(list(Scope), error=f"must be one of: {', '.join(Scope)}")),
        required=True,
        validate=_check_scopes,
        error_messages=always(_SCOPES_RULE) | {"required": "is required"},
        metadata=about("What it may do: some of your own key's scopes.")
        | {"minItems": 1, "maxItems": len(Scope), "uniqueItems": True, "example": ["read:vm", "write:vm"]},
    )
    description = String(
        allow_none=True,
        error_messages=TEXT_MESSAGES,
        validate=_check_description,
        metadata={"maxLength": MAX_DESCRIPTION_CHARS, "example": "Runs the deploy script of web-1"},
    )
    allowed_ips = _list_of(
        Network(error_messages=TEXT_MESSAGES, metadata={"pattern": f"^{allowed_ips.PATTERN}$"}),
        MAX_NETWORKS,
        "must be a list of networks",
        "Addresses and networks it may be used from.",
        ["192.0.2.0/24"],
    )
    allowed_vmids = _list_of(
        StrictInteger(
            validate=validate.Range(1, MAX_INTEGER, error=_VMID_RULE),
            error_messages=always(_VMID_RULE),
            metadata={"format": "int64"},
        ),
        MAX_VMIDS,
        "must be a list of numbers of VMs",
        "The VMs it sees. They need not exist yet.",
        [10000],
    )
    allowed_commands = _list_of(
        String(
            error_messages=TEXT_MESSAGES,
            validate=_check_pattern,
            metadata={
                "pattern": f"^{allowed_commands.PATTERN}$",
                "minLength": 1,
                "maxLength": allowed_commands.MAX_PATTERN_CHARS,
            },
        ),
        MAX_PATTERNS,
        "must be a list of patterns",
        "Patterns of the commands it may run, where `*` is a part of a word. It can do nothing else to a guest.",
        ["/opt/deploy.sh web-*"],
    )
    allowed_dns_zones = _no_dns()
    dns_permissions = _no_dns()


class NewKeyBody(_Body):
    """A key to be made. Limits that are empty, or not given, are those of your own key."""

    is_test = StrictBoolean(
        error_messages={"null": "must be true or false"}, metadata=about("For your own use: it changes nothing.")
    )
    expires_in_days = StrictInteger(
        allow_none=True,
        validate=validate.Range(1, MAX_LIFE_DAYS, error=_DAYS_RULE),
        error_messages=always(_DAYS_RULE),
        metadata=about("Without it, or with null, as long as your own key.") | {"example": 90},
    )
    account = String(
        error_messages=TEXT_MESSAGES,
        validate=_check_account,
        metadata=about("Whose VMs it sees. Only an operator may name another one than the own.")
        | {"pattern": f"^{_ACCOUNT}$", "minLength": 1, "maxLength": MAX_ACCOUNT_CHARS, "example": "acme"},
    )


class KeyBody(_Body):
    """What a key is to be like from now on. What isn't required and isn't given stays; an empty limit is none."""

    is_active = StrictBoolean(
        required=True,
        error_messages={"required": "is required", "null": "must be true or false"},
        metadata=about("Whether it counts. One that has expired can't be switched on again."),
    )


class KeySchema(Schema):
    """An API key, without its secret."""

    key_id = String(required=True)
    name = String(required=True)
    description = String(required=True, allow_none=True)
    account = String(required=True, metadata=about("Whose VMs it sees."))
    scopes = List(fields.Enum(Scope, by_value=String), required=True)
    prefix = String(required=True, metadata=about("How its secret begins; this part is no secret."))
    is_active = Boolean(required=True)
    is_test = Boolean(required=True)
    created_at = String(required=True)
    expires_at = String(required=True, allow_none=True)
    last_used_at = String(required=True, allow_none=True, metadata=about("Give or take a minute."))
    allowed_ips = List(String(), required=True, metadata=about("Empty: from everywhere."))
    allowed_vmids = List(fields.Integer(), required=True, metadata=about("Empty: all VMs of the account."))
    allowed_commands = List(String(), required=True, metadata=about("Empty: any command."))


class KeysSchema(Schema):
    """API keys, oldest first."""

    keys = List(Nested(KeySchema), required=True)


class KeyCreatedSchema(KeySchema):
    """An API key that was made, with its secret."""

    secret = String(
        required=True,
        data_key="key",
        metadata=about("The secret: what you send as X-API-Key. It is shown only here.") | {"example": KEY_EXAMPLE},
    )
    dns_permissions = List(String(), required=True, metadata=about("Empty: there is no DNS."))
    message = String(required=True)


class KeyRolledSchema(KeyCreatedSchema):
    """An API key that has another secret now."""


class KeyChangedSchema(Schema):
    """An API key that was changed."""

    message = String(required=True)


class KeyDeletedSchema(Schema):
    """An API key that is withdrawn."""

    message = String(required=True)


class ScopeSchema(Schema):
    """A scope."""

    scope = fields.Enum(Scope, by_value=String, required=True)
    description = String(required=True)
    can_give = Boolean(required=True, metadata=about("Whether your own key has it, and so may give it."))


class ScopesSchema(Schema):
    """All scopes there are."""

    scopes = List(Nested(ScopeSchema), required=True)
