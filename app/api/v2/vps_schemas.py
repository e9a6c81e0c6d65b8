"""How v2 spells what it tells of a VPS: what it is, how it is, what it has used."""

from enum import StrEnum
from typing import Any

from marshmallow import fields
from marshmallow.fields import Boolean, Integer, List, Nested, String

from app.api.face import AnswerSchema, about
from app.api.v2.schemas import GateSchema, PowerGatesSchema
from app.history import Timeframe

_VPS_ID = about("Its id: `vps_` and 26 characters, the same for ever.") | {"example": "vps_01hxa3b4c5d6e7f8g9h0j1k2m3"}
_NOT_KNOWN = about("Not known: null.")


class Number(fields.Float):
    """A number; a whole one is written without a fraction, as HostUp's JavaScript does."""

    def _serialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        number = super()._serialize(value, *args, **kwargs)
        return int(number) if isinstance(number, float) and number.is_integer() else number


class PowerState(StrEnum):
    """Power state of a VPS, in HostUp v2's words."""

    RUNNING = "running"
    STOPPED = "stopped"
    STARTING = "starting"
    STOPPING = "stopping"
    PAUSED = "paused"
    PROVISIONING = "provisioning"
    ERROR = "error"
    UNKNOWN = "unknown"


class ServiceStatus(StrEnum):
    """How the contract about a VPS is, in HostUp v2's words; what OwnUp carries is active."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    TERMINATED = "terminated"
    PENDING = "pending"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FRAUD = "fraud"
    UNKNOWN = "unknown"


def _power_state(*, required: bool = True) -> fields.Enum[PowerState]:
    return fields.Enum(PowerState, by_value=String, required=required, allow_none=True, data_key="powerState")


def _service_status() -> fields.Enum[ServiceStatus]:
    return fields.Enum(ServiceStatus, by_value=String, required=True, data_key="serviceStatus")


class OperatingSystemSchema(AnswerSchema):
    """What a VPS runs."""

    display_name = String(required=True, data_key="displayName")
    family = String(required=True, allow_none=True)
    version = String(required=True, allow_none=True)
    variant = String(required=True, allow_none=True)


class BillingSchema(AnswerSchema):
    """What a VPS costs."""

    amount = Number(required=True)
    currency_code = String(required=True, data_key="currencyCode")
    billing_cycle = String(required=True, allow_none=True, data_key="billingCycle")
    is_payg = Boolean(required=True, data_key="isPayg")
    period_years = Integer(allow_none=True, data_key="periodYears")


class BandwidthSchema(AnswerSchema):
    """What a VPS has sent and received in its billing period."""

    used_gb = Number(required=True, data_key="usedGb")
    limit_gb = Number(required=True, allow_none=True, data_key="limitGb")
    inbound_gb = Number(required=True, data_key="inboundGb")
    outbound_gb = Number(required=True, data_key="outboundGb")
    usage_percent = Number(required=True, allow_none=True, data_key="usagePercent")


class ResourcesSchema(AnswerSchema):
    """What a VPS was given."""

    cpu_cores = Integer(required=True, allow_none=True, data_key="cpuCores")
    memory_gb = Number(required=True, allow_none=True, data_key="memoryGb")
    storage_gb = Number(required=True, allow_none=True, data_key="storageGb")


class VpsSchema(AnswerSchema):
    """A VPS."""

    id = String(required=True, metadata=_VPS_ID)
    vmid = Integer(metadata=about("Its number in v1."))
    name = String(required=True)
    primary_ip = String(required=True, allow_none=True, data_key="primaryIp", metadata=about("Not known: null."))
    service_status = _service_status()
    power_state = _power_state()
    operating_system = Nested(
        OperatingSystemSchema, required=True, allow_none=True, data_key="operatingSystem", metadata=_NOT_KNOWN
    )
    billing = Nested(BillingSchema, required=True, allow_none=True, metadata=_NOT_KNOWN)
    resources = Nested(ResourcesSchema, required=True)
    actions = Nested(PowerGatesSchema, metadata=about("Not in lists."))


class VpsPageSchema(AnswerSchema):
    """A page of the VPS of an account."""

    data = List(Nested(VpsSchema), required=True)
    next_cursor = String(
        required=True, allow_none=True, data_key="nextCursor", metadata=about("`cursor` of the next page; null: none.")
    )


class VpsDetailsSchema(AnswerSchema):
    """A VPS with what is known of its service."""

    id = String(required=True, metadata=_VPS_ID)
    product_name = String(required=True, allow_none=True, data_key="productName", metadata=_NOT_KNOWN)
    hostname = String(
        required=True, allow_none=True, metadata=about("As the guest tells it; null if it doesn't at once.")
    )
    service_status = _service_status()
    power_state = _power_state(required=False)
    created_at = String(required=True, allow_none=True, data_key="createdAt", metadata=_NOT_KNOWN)
    next_due_at = String(required=True, allow_none=True, data_key="nextDueAt", metadata=_NOT_KNOWN)
    billing = Nested(BillingSchema, required=True, allow_none=True, metadata=_NOT_KNOWN)
    cpu_cores = Integer(required=True, allow_none=True, data_key="cpuCores")
    memory_gb = Number(required=True, allow_none=True, data_key="memoryGb")
    storage_gb = Number(required=True, allow_none=True, data_key="storageGb")
    backups_included = Integer(
        required=True, data_key="backupsIncluded", metadata=about("OwnUp makes no offsite backups: 0.")
    )
    bandwidth = Nested(BandwidthSchema, required=True, allow_none=True, metadata=_NOT_KNOWN)
    primary_ip = String(allow_none=True, data_key="primaryIp", metadata=_NOT_KNOWN)
    actions = Nested(PowerGatesSchema)


class UsedSchema(AnswerSchema):
    """How much of something is used."""

    used_gb = Number(required=True, allow_none=True, data_key="usedGb")
    total_gb = Number(required=True, allow_none=True, data_key="totalGb")
    usage_percent = Number(required=True, allow_none=True, data_key="usagePercent")


class TrafficSchema(AnswerSchema):
    """What a VPS has received and sent since its network cards were made."""

    inbound_gb = Number(required=True, allow_none=True, data_key="inboundGb")
    outbound_gb = Number(required=True, allow_none=True, data_key="outboundGb")
    total_gb = Number(required=True, allow_none=True, data_key="totalGb")


class VpsStatusSchema(AnswerSchema):
    """How a VPS is now. Figures that aren't known are null."""

    id = String(required=True, metadata=_VPS_ID)
    power_state = _power_state()
    uptime_s = Integer(
        required=True, allow_none=True, data_key="uptimeSeconds", metadata=about("Since QEMU was started.")
    )
    cpu_usage_percent = Number(
        required=True, allow_none=True, data_key="cpuUsagePercent", metadata=about("Of all its virtual CPUs.")
    )
    cpu_cores = Integer(required=True, allow_none=True, data_key="cpuCores")
    memory = Nested(UsedSchema, required=True, metadata=about("Used is the node's memory that it occupies."))
    storage = Nested(UsedSchema, required=True, metadata=about("Used is what its images occupy on the node."))
    network = Nested(TrafficSchema, required=True)
    agent_available = Boolean(
        data_key="agentAvailable", metadata=about("Whether commands can be run through its guest agent.")
    )
    actions = Nested(PowerGatesSchema)


class MetricsSampleSchema(AnswerSchema):
    """What a VPS used on average in a stretch of time; null is what isn't known."""

    recorded_at = String(required=True, data_key="recordedAt", metadata=about("When the stretch began."))
    cpu_usage_percent = Number(required=True, allow_none=True, data_key="cpuUsagePercent")
    memory_usage_percent = Number(required=True, allow_none=True, data_key="memoryUsagePercent")
    disk_read_mb_per_s = Number(required=True, allow_none=True, data_key="diskReadMbPerSecond")
    disk_write_mb_per_s = Number(required=True, allow_none=True, data_key="diskWriteMbPerSecond")
    network_inbound_kb_per_s = Number(required=True, allow_none=True, data_key="networkInboundKbPerSecond")
    network_outbound_kb_per_s = Number(required=True, allow_none=True, data_key="networkOutboundKbPerSecond")


class MetricsSchema(AnswerSchema):
    """What a VPS has used, oldest first. Stretches of which nothing is known are left out."""

    id = String(required=True, metadata=_VPS_ID)
    timeframe = fields.Enum(Timeframe, by_value=String, required=True)
    samples = List(Nested(MetricsSampleSchema), required=True)


class CapacitySchema(AnswerSchema):
    """How large a disk is, and how much its image occupies on the node."""

    total_gb = Number(required=True, allow_none=True, data_key="totalGb")
    used_gb = Number(required=True, allow_none=True, data_key="usedGb")
    free_gb = Number(required=True, allow_none=True, data_key="freeGb")
    usage_percent = Number(required=True, allow_none=True, data_key="usagePercent")


class DiskIoSchema(AnswerSchema):
    """How much a disk was used since QEMU was started."""

    read_gb = Number(required=True, data_key="readGb")
    write_gb = Number(required=True, data_key="writeGb")
    read_operations = Integer(required=True, data_key="readOperations")
    write_operations = Integer(required=True, data_key="writeOperations")


class DiskActionsSchema(AnswerSchema):
    """What can be done to a disk now."""

    can_detach = Nested(GateSchema, required=True, data_key="canDetach")
    can_resize = Nested(GateSchema, data_key="canResize")


class DiskSchema(AnswerSchema):
    """A disk of a VPS."""

    id = String(required=True, allow_none=True)
    name = String(required=True, metadata=about("QEMU's name for it."))
    type = String(required=True, allow_none=True)
    device = String(required=True, allow_none=True)
    is_cdrom = Boolean(required=True, data_key="isCdrom")
    boot_order = Integer(required=True, allow_none=True, data_key="bootOrder")
    capacity = Nested(CapacitySchema, required=True)


class StorageDiskSchema(DiskSchema):
    """A disk of a VPS with how much it was used."""

    io = Nested(DiskIoSchema, required=True)
    actions = Nested(DiskActionsSchema)


class DisksSchema(AnswerSchema):
    """The disks of a VPS, as its QEMU last told; none, as long as that was never asked."""

    disks = List(Nested(DiskSchema), required=True)


class StorageSchema(AnswerSchema):
    """The disks of a VPS, as its QEMU last told, with how much they were used."""

    disks = List(Nested(StorageDiskSchema), required=True)
