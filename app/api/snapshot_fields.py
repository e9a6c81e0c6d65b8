"""What every face takes in about snapshots, each field with its limits. Knows no path and no answer."""

import re

from marshmallow import ValidationError, validate
from marshmallow.fields import String

from app.api.face import about
from app.api.order_fields import TEXT_MESSAGES, check_unicode

NAME_PATTERN = "[A-Za-z0-9_-]{1,40}"
"""Source: HostUp v2 docs, POST snapshots."""
MAX_DESCRIPTION_CHARS = 1000

_LONGEST_NAME_CHARS = 255
_NUMBER = re.compile("[1-9][0-9]{0,5}")
_NAME_RULE = "must be 1 to 40 letters, digits, _ or -"


def new_name_field(data_key: str) -> String:
    """Make the field of the name that a new snapshot is to have."""
    return String(
        data_key=data_key,
        required=True,
        error_messages=TEXT_MESSAGES,
        validate=[validate.Regexp(f"{NAME_PATTERN}\\Z", error=_NAME_RULE), _check_name],
        metadata=about("Name of the new snapshot: neither `current` nor a number of up to six digits.")
        | {"example": "before-update", "pattern": f"^(?!current$|{_NUMBER.pattern}$){NAME_PATTERN}$"},
    )


def name_field(data_key: str) -> String:
    """Make the field of the name of a snapshot that is there, perhaps not made by OwnUp."""
    return String(
        data_key=data_key,
        required=True,
        error_messages=TEXT_MESSAGES,
        validate=validate.Length(1, _LONGEST_NAME_CHARS, error=f"must be 1 to {_LONGEST_NAME_CHARS} characters long"),
        metadata=about("Name of the snapshot.") | {"example": "before-update"},
    )


def description_field() -> String:
    """Make the field of what is to be remembered of a new snapshot; nothing, if it is null or not there."""
    too_long = f"must be at most {MAX_DESCRIPTION_CHARS:,} characters long"
    return String(
        load_default=None,
        error_messages=TEXT_MESSAGES,
        validate=[validate.Length(max=MAX_DESCRIPTION_CHARS, error=too_long), check_unicode],
        metadata=about("What you want to remember of it."),
    )


def _check_name(name: str) -> None:
    """Refuse names that mean something else.

    QEMU looks for a snapshot by its own number of it first, and its numbers count up from 1.

    Raises:
        ValidationError: This one does.
    """
    if _NUMBER.fullmatch(name):
        raise ValidationError("must not be a number of up to six digits: QEMU would take it for its own number of one")
    if name == "current":
        raise ValidationError("must not be current: that is the name of what the VM is now")
