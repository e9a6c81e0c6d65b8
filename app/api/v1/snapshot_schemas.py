"""How v1 spells snapshots, in and out."""

from marshmallow import Schema, validate
from marshmallow.fields import Boolean, Integer, String

from app.api.face import about
from app.api.order_fields import TEXT_MESSAGES
from app.api.snapshot_fields import description_field, name_field, new_name_field

ACTIONS = ["delete", "rollback"]


class SnapshotBody(Schema):
    """A snapshot to be taken."""

    name = new_name_field("snapname")
    description = description_field()


class SnapshotActionQuery(Schema):
    """What is to be done to a snapshot."""

    action = String(
        required=True,
        error_messages=TEXT_MESSAGES,
        validate=validate.OneOf(ACTIONS, error="must be one of: {choices}"),
        metadata=about("`rollback` takes the VM back to the snapshot, `delete` deletes it."),
    )
    name = name_field("snapname")


class SnapshotSchema(Schema):
    """A snapshot; the entry named `current` is the VM as it is now."""

    name = String(required=True)
    description = String(required=True)
    digest = String(metadata=about("Only of `current`: changes when the list changes."))
    running = Integer(metadata=about("Only of `current`: 1 if the VM runs."))
    parent = String(metadata=about("OwnUp doesn't know it."))
    taken_at_s = Integer(data_key="snaptime", metadata=about("When it was taken, in seconds since 1970."))
    includes_memory = Integer(data_key="vmstate", metadata=about("1 if the guest's memory was kept with it."))


class SnapshotActionSchema(Schema):
    """Something that was queued to be done to a snapshot."""

    success = Boolean(required=True)
    job_id = String(required=True, data_key="jobId", metadata=about("Poll GET /api/jobs/{jobId}."))
    action = String(required=True)
    name = String(required=True, data_key="snapname")
    message = String(required=True)


class SnapshotQueuedSchema(SnapshotActionSchema):
    """A snapshot that was queued to be taken."""
