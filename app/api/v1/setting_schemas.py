"""How v1 spells the settings of a guest and the SSH keys of an account, in and out."""

from typing import Any

from marshmallow import Schema, fields, validate
from marshmallow.fields import Boolean, Dict, Float, Integer, List, Nested, String

from app.api.face import about
from app.api.parsing import PlainInteger
from app.api.setting_fields import Hostname, KeyName, KeyNumber, Password, PublicKeyLine

MAX_KEYS = 100
_KEY_COUNT = f"must be 1 to {MAX_KEYS} ids of SSH keys"
_ACCOUNT_ID = about("The number in the path: HostUp has an account of this number for each VM.")


class Figure(Float):
    """A number that is written as it is: 4 and not 4.0."""

    def _format_num(self, value: Any) -> float:
        number: float = value
        return number


class HostnameBody(Schema):
    """A hostname to be set."""

    hostname = Hostname()


class PasswordBody(Schema):
    """A password to be set."""

    password = Password()


class KeyIdsBody(Schema):
    """The SSH keys that are to be in a guest."""

    key_ids = List(
        KeyNumber(),
        required=True,
        data_key="keyIds",
        validate=validate.Length(1, MAX_KEYS, error=_KEY_COUNT),
        error_messages={"required": "is required", "null": _KEY_COUNT, "invalid": _KEY_COUNT},
        metadata=about("As `GET /api/ssh-keys` tells them. All other keys are taken away.") | {"example": ["2830"]},
    )


class SshKeyBody(Schema):
    """An SSH key to be kept."""

    name = KeyName()
    public_key = PublicKeyLine()


class SshKeyPath(Schema):
    """Path of one SSH key."""

    key_id = PlainInteger(required=True, metadata=about("Number of the SSH key.") | {"example": 2830})


class TrafficSchema(Schema):
    """What a VM has received and sent."""

    data_received = Figure(required=True, allow_none=True, metadata=about("Bytes since QEMU was started."))
    data_sent = Figure(required=True, allow_none=True, metadata=about("Bytes since QEMU was started."))


class DetailsSchema(Schema):
    """All that is known of a VM. What OwnUp can't know, such as prices, is null."""

    id = String(required=True)
    product_id = String(required=True, allow_none=True)
    product_name = String(required=True, allow_none=True)
    hostname = String(
        required=True, allow_none=True, metadata=about("As the guest told it just now; null if it can't be asked.")
    )
    status = String(required=True, metadata=about("`Active`, `Stopped` …") | {"example": "Active"})
    created = String(required=True, allow_none=True)
    order_id = String(required=True, allow_none=True)
    billingcycle = String(required=True, allow_none=True)
    price = Figure(required=True, allow_none=True)
    total = Figure(required=True, allow_none=True)
    firstpayment = Figure(required=True, allow_none=True)
    next_due = String(required=True, allow_none=True)
    cpu = Integer(required=True, allow_none=True, metadata=about("Virtual CPUs; null while the VM is off."))
    ram_gb = Figure(
        required=True, allow_none=True, data_key="ram", metadata=about("GB of memory; null while the VM is off.")
    )
    disk_gb = Figure(required=True, allow_none=True, data_key="disk", metadata=about("GB of all its disks."))
    bandwidth_limit = Figure(required=True, allow_none=True)
    bandwidth_usage = Nested(TrafficSchema, required=True)
    usage_log = Dict(
        keys=String(),
        values=Dict(keys=String(), values=Figure(allow_none=True)),
        required=True,
        metadata=about("By the hour; empty: OwnUp keeps no such log."),
    )


class ReverseDnsSchema(Schema):
    """What became of reverse DNS. OwnUp doesn't touch it: it watches no addresses."""

    monitored_ips = Integer(required=True, data_key="monitoredIps")
    changes_detected = Integer(required=True, data_key="changesDetected")
    restored_ips = List(String(), required=True, data_key="restoredIps")
    failed_ips = List(String(), required=True, data_key="failedIps")
    changed_records = List(
        Dict(keys=String(), values=String(allow_none=True)), required=True, data_key="changedRecords"
    )


class HostnameSchema(Schema):
    """A hostname that was set."""

    success = Boolean(required=True)
    message = String(required=True)
    hostname = String(required=True, metadata=about("As it was saved, and as the guest says it now."))
    normalized = Boolean(required=True, metadata=about("Whether it was saved otherwise than it was written."))
    hostbill_synced = Boolean(required=True, data_key="hostbillSynced", metadata=about("False: there is no HostBill."))
    rdns_protection = Nested(ReverseDnsSchema, required=True, data_key="rdnsProtection")


class PasswordSchema(Schema):
    """A password that was set."""

    success = Boolean(required=True)
    message = String(required=True)
    vmid = String(required=True)
    account_id = String(required=True, data_key="accountId", metadata=_ACCOUNT_ID)


class GuestKeysSchema(Schema):
    """SSH keys that were put into a guest."""

    success = Boolean(required=True)
    message = String(required=True)
    key_count = Integer(required=True, data_key="keyCount")
    vmid = String(required=True)
    account_id = String(required=True, data_key="accountId", metadata=_ACCOUNT_ID)


class SshKeySchema(Schema):
    """An SSH key."""

    id = Integer(required=True)
    client_id = String(required=True, metadata=about("The account that keeps it."))
    name = String(required=True)
    key = String(required=True, metadata=about("One line, as a `.pub` file has it."))
    fingerprint = String(required=True, metadata=about("Its MD5 in pairs of hex digits."))


class SshKeysSchema(Schema):
    """The SSH keys of an account."""

    ssh_keys = List(Nested(SshKeySchema), required=True)


class AddedSchema(Schema):
    """What HostUp's billing system says of a key; OwnUp says it alike."""

    success = Boolean(required=True)
    call = String(required=True)
    server_time = Integer(required=True, metadata=about("Epoch seconds."))
    info = List(String(), required=True)
    ssh_key = Nested(SshKeySchema, required=True)


class SshKeyAddedSchema(Schema):
    """An SSH key that is kept now."""

    ssh_key = Nested(AddedSchema, required=True)


class SshKeyRemovedSchema(Schema):
    """An SSH key that isn't kept any more."""

    success = fields.Boolean(required=True)
    message = String(required=True)
