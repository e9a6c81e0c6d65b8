"""How v2 spells snapshots, in and out."""

from marshmallow import Schema
from marshmallow.fields import Boolean, Integer, List, Nested, String

from app.api.face import about
from app.api.snapshot_fields import description_field, name_field, new_name_field
from app.api.v2.arguments import VpsPath
from app.api.v2.schemas import GateSchema


class SnapshotPath(VpsPath):
    """Path of one snapshot: its id is its name."""

    snapshot_id = name_field("snapshot_id")


class SnapshotBody(Schema):
    """A snapshot to be taken."""

    name = new_name_field("name")
    description = description_field()


class SnapshotSchema(Schema):
    """A state of a VPS that it can go back to."""

    display_id = String(
        required=True, data_key="displayId", metadata=about("What `{snapshotId}` in a path is: the name.")
    )
    name = String(required=True)
    description = String(required=True, allow_none=True)
    created_at = String(required=True, allow_none=True, data_key="createdAt")
    expires_at = String(
        required=True, allow_none=True, data_key="expiresAt", metadata=about("Null: it stays until it is deleted.")
    )
    includes_memory_state = Boolean(required=True, data_key="includesMemoryState")
    parent_name = String(
        required=True, allow_none=True, data_key="parentName", metadata=about("OwnUp doesn't know it.")
    )


class SnapshotLimitsSchema(Schema):
    """How many snapshots there may be."""

    total_snapshots = Integer(required=True, data_key="totalSnapshots")


class SnapshotGatesSchema(Schema):
    """What can be done to snapshots now."""

    can_create = Nested(GateSchema, required=True, data_key="canCreate")
    can_restore = Nested(GateSchema, required=True, data_key="canRestore")
    can_delete = Nested(GateSchema, data_key="canDelete")


class SnapshotsSchema(Schema):
    """The snapshots of a VPS, and what can be done to them."""

    data = List(Nested(SnapshotSchema), required=True)
    limits = Nested(SnapshotLimitsSchema, required=True)
    available = Boolean(required=True, metadata=about("Whether the VPS can have snapshots."))
    reason = String(required=True, allow_none=True, metadata=about("Why it can't."))
    actions = Nested(SnapshotGatesSchema, required=True)
