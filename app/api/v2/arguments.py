"""What v2 takes in: paths, query parameters and bodies, each with its limits."""

import base64
import binascii
from typing import Any

from marshmallow import Schema, ValidationError, fields
from marshmallow.fields import String

from app.api import order_fields
from app.api.face import about
from app.api.order_fields import wait_for_agent_field
from app.api.parsing import PlainInteger, StrictBoolean
from app.history import Timeframe

MAX_LINE_CHARS = 4096
"""Source: HostUp v2 docs, POST agent/exec."""
LONGEST_PAGE = 100
DEFAULT_PAGE = 20

_ALIASES = {
    "1h": Timeframe.HOUR,
    "24h": Timeframe.DAY,
    "1d": Timeframe.DAY,
    "7d": Timeframe.WEEK,
    "30d": Timeframe.MONTH,
    "1y": Timeframe.YEAR,
}
"""Source: HostUp v2 docs, GET metrics."""
_TIMEFRAMES = {timeframe.value: timeframe for timeframe in Timeframe} | _ALIASES


class VpsPath(Schema):
    """Path of everything about one VPS."""

    vps_id = String(required=True, metadata=about("Id of the VPS.") | {"example": "vps_01hxa3b4c5d6e7f8g9h0j1k2m3"})


class Cursor(fields.String):
    """Where the next page of a list begins: a vmid, in writing that invites nobody to make one up."""

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Any:
        try:
            vmid = base64.urlsafe_b64decode(value).decode("ascii")
        except (binascii.Error, ValueError):
            vmid = ""
        if not vmid.isdecimal() or dump_cursor(int(vmid)) != value:
            raise ValidationError("must be the nextCursor of the page before")
        return int(vmid)


def dump_cursor(vmid: int) -> str:
    """Write where the page after one that ends with this vmid begins."""
    return base64.urlsafe_b64encode(str(vmid).encode()).decode()


class ListQuery(Schema):
    """Query of a list of VPS."""

    limit = PlainInteger(maximum=LONGEST_PAGE, load_default=DEFAULT_PAGE, metadata=about("How many at most."))
    after = Cursor(
        data_key="cursor", load_default=0, metadata=about("The `nextCursor` of the page before; without it, the first.")
    )
    primary_ip = String(
        data_key="primaryIp",
        metadata=about("Only those with exactly this address. OwnUp knows no addresses, so none has one."),
    )


class TimeframeField(fields.String):
    """A timeframe, by its name or an alias."""

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Any:
        if value not in _TIMEFRAMES:
            raise ValidationError(f"must be one of: {', '.join(_TIMEFRAMES)}")
        return _TIMEFRAMES[value]


class MetricsQuery(Schema):
    """Query of what a VPS has used."""

    timeframe = TimeframeField(
        load_default=Timeframe.HOUR,
        metadata=about("How far back; `hour` by default.") | {"enum": list(_TIMEFRAMES)},
    )


class RestartBody(Schema):
    """How a VPS is restarted."""

    force = StrictBoolean(
        load_default=False,
        error_messages={"null": "must be true or false"},
        metadata=about("Reset it without asking the guest."),
    )


class ExecBody(order_fields.ExecBody):
    """A command to run."""

    line = order_fields.line_field(MAX_LINE_CHARS)
    wait_for_agent_s = wait_for_agent_field("waitForAgent")
