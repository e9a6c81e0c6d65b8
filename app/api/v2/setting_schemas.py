"""How v2 spells the settings of a guest and the SSH keys of an account, in and out.

Source: HostUp v2 docs, PUT hostname and SSH keys.
"""

from enum import StrEnum

from marshmallow import Schema, fields, validate
from marshmallow.fields import Boolean, Integer, List, Nested, String

from app.api.face import about
from app.api.order_fields import TEXT_MESSAGES
from app.api.parsing import PlainInteger
from app.api.setting_fields import Hostname, KeyName, PublicKeyLine
from app.api.v2.arguments import DEFAULT_PAGE, LONGEST_PAGE, Cursor
from app.api.v2.schemas import GateSchema, HostnameSchema

MAX_KEYS = 100
_KEY_COUNT = f"must be 1 to {MAX_KEYS} ids of SSH keys"
_KEY_EXAMPLE = "ssh_01hxa3b4c5d6e7f8g9h0j1k2m3"


class KeyType(StrEnum):
    """What sort of key it is."""

    RSA = "rsa"
    ED25519 = "ed25519"
    ECDSA = "ecdsa"
    DSA = "dsa"
    UNKNOWN = "unknown"


class HostnameBody(Schema):
    """A hostname to be set."""

    hostname = Hostname()


class KeyIdsBody(Schema):
    """The SSH keys that are to be in a guest."""

    key_ids = List(
        String(error_messages=TEXT_MESSAGES),
        required=True,
        data_key="keyIds",
        validate=validate.Length(1, MAX_KEYS, error=_KEY_COUNT),
        error_messages={"required": "is required", "null": _KEY_COUNT, "invalid": _KEY_COUNT},
        metadata=about("As `GET /api/v2/ssh-keys` tells them. All other keys are taken away.")
        | {"example": [_KEY_EXAMPLE]},
    )


class SshKeyBody(Schema):
    """An SSH key to be kept."""

    name = KeyName()
    public_key = PublicKeyLine(data_key="publicKey")


class KeyNameBody(Schema):
    """Another name for an SSH key."""

    name = KeyName()


class SshKeyPath(Schema):
    """Path of one SSH key."""

    key_id = String(required=True, metadata=about("Id of the SSH key.") | {"example": _KEY_EXAMPLE})


class PageQuery(Schema):
    """Which part of a list."""

    limit = PlainInteger(maximum=LONGEST_PAGE, load_default=DEFAULT_PAGE, metadata=about("How many at most."))
    after = Cursor(
        data_key="cursor", load_default=0, metadata=about("The `nextCursor` of the page before; without it, the first.")
    )


class ReverseDnsSchema(Schema):
    """What became of reverse DNS."""

    status = String(required=True, validate=validate.OneOf(["not_changed", "restored", "partial_failure"]))
    monitored_ip_count = Integer(required=True, data_key="monitoredIpCount")
    changes_detected = Integer(required=True, data_key="changesDetected")
    restored_ips = List(String(), required=True, data_key="restoredIps")


class HostnameChangedSchema(HostnameSchema):
    """The hostname of a VPS that was just changed."""

    hostname_normalized = Boolean(
        required=True,
        data_key="hostnameNormalized",
        metadata=about("Whether it was saved otherwise than it was written."),
    )
    service_record_synced = Boolean(
        required=True, data_key="serviceRecordSynced", metadata=about("False: there is no service record.")
    )
    reverse_dns_protection = Nested(
        ReverseDnsSchema,
        required=True,
        allow_none=True,
        data_key="reverseDnsProtection",
        metadata=about("Null: OwnUp knows no addresses."),
    )


class SshKeyGatesSchema(Schema):
    """What can be done to an SSH key."""

    can_rename = Nested(GateSchema, required=True, data_key="canRename")
    can_delete = Nested(GateSchema, required=True, data_key="canDelete")


class SshKeySchema(Schema):
    """An SSH key that your account keeps."""

    id = String(required=True, metadata={"example": _KEY_EXAMPLE})
    display_id = String(data_key="displayId", metadata=about("Its number in v1."))
    name = String(required=True)
    public_key = String(required=True, data_key="publicKey", metadata=about("One line, as a `.pub` file has it."))
    fingerprint = String(required=True, allow_none=True, metadata=about("`SHA256:…`"))
    key_type = fields.Enum(KeyType, by_value=String, required=True, data_key="keyType")
    created_at = String(required=True, allow_none=True, data_key="createdAt")
    last_used_at = String(allow_none=True, data_key="lastUsedAt", metadata=about("Null: OwnUp doesn't see logins."))
    actions = Nested(SshKeyGatesSchema, required=True)


class SshKeyPageSchema(Schema):
    """A page of SSH keys."""

    data = List(Nested(SshKeySchema), required=True)
    next_cursor = String(required=True, allow_none=True, data_key="nextCursor")


class GuestKeySchema(Schema):
    """An SSH key that is in a guest."""

    id = String(required=True, allow_none=True, metadata=about("Null for a key that your account doesn't keep."))
    name = String(required=True, allow_none=True, metadata=about("As your account calls it, or its comment."))
    public_key = String(required=True, data_key="publicKey", metadata=about("The line as the guest has it."))
    fingerprint = String(required=True, allow_none=True, metadata=about("`SHA256:…`; null for what can't be read."))
    key_type = fields.Enum(KeyType, by_value=String, required=True, data_key="keyType")


class GuestKeysSchema(Schema):
    """The SSH keys that are in a guest."""

    ssh_keys = List(Nested(GuestKeySchema), required=True, data_key="sshKeys")
