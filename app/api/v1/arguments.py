"""What v1 takes in besides commands: paths and bodies."""

from marshmallow import Schema, validate
from marshmallow.fields import String

from app.api.face import about
from app.api.order_fields import TEXT_MESSAGES
from app.api.parsing import PlainInteger, StrictBoolean
from app.core.records import PowerAction

POWER_ACTIONS = [PowerAction.START.value, PowerAction.STOP.value, PowerAction.SHUTDOWN.value, PowerAction.RESTART.value]
"""Source: HostUp v1 docs, POST status; a hard reset is ``restart`` with ``force``."""


class VmPath(Schema):
    """Path of everything about one VM."""

    vmid = PlainInteger(required=True, metadata=about("Number of the VM.") | {"example": 10000})


class PowerBody(Schema):
    """A power action."""

    action = String(
        required=True,
        error_messages=TEXT_MESSAGES,
        validate=validate.OneOf(POWER_ACTIONS, error="must be one of: {choices}"),
        metadata=about("What is to be done. shutdown and restart ask the guest, stop doesn't."),
    )
    force = StrictBoolean(
        load_default=False,
        error_messages={"null": "must be true or false"},
        metadata=about("shutdown: pull the plug when the guest doesn't obey; restart: reset without asking."),
    )
