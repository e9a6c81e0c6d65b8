"""What every face takes in to have a command run, read or killed: each field with its limits.

A face whose spelling differs overrides the field that differs. Knows no path and no answer.
"""

import re
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate
from marshmallow.fields import String

from app.api.face import about
from app.api.parsing import PlainInteger, PlainNumber, StrictNumber
from app.core.records import CommandRequest
from app.order import LONGEST_WAIT_S, Order

MAX_LINE_CHARS = 65_536
MAX_STDIN_BYTES = 1_048_576
MAX_ENV_ENTRIES = 256
MAX_ENV_BYTES = 65_536
MAX_CWD_BYTES = 4096
"""Source: Linux, limits.h, PATH_MAX."""
MAX_TIMEOUT_S = 7 * 24 * 3600
MAX_WAIT_FOR_AGENT_S = 300

_ENV_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
"""Source: POSIX.1-2017, Base Definitions, 3.235 Name; a shell can use no other variables."""
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_TIMEOUT_RANGE = f"must be a number of seconds above 0 and up to {MAX_TIMEOUT_S}"
_WAIT_FOR_AGENT_RANGE = f"must be a number of seconds from 0 to {MAX_WAIT_FOR_AGENT_S}"
_WAIT_RANGE = f"must be a number of seconds from 0 to {LONGEST_WAIT_S}"
TEXT_MESSAGES: dict[str, Any] = {"required": "is required", "null": "must be a string", "invalid": "must be a string"}
"""The messages of a field that must be a string."""


def always(message: str) -> dict[str, Any]:
    """Make the messages of a field that says the same whatever is wrong with it."""
    return dict.fromkeys(("null", "invalid", "too_large", "special"), message)


def check_unicode(text: str) -> None:
    """Refuse what has no UTF-8.

    Raises:
        ValidationError: Half a surrogate pair is in it.
    """
    if _HALF_PAIR.search(text):
        raise ValidationError("must not contain lone surrogates: they are no Unicode text")


def check_argument(text: str) -> None:
    """Refuse what no program could be given: as an argument, a variable or a path.

    Raises:
        ValidationError: It can't be written in UTF-8, or holds a NUL.
    """
    check_unicode(text)
    if "\0" in text:
        raise ValidationError("must not contain NUL characters")


def check_line(line: str) -> None:
    """Refuse what no shell could be given.

    Raises:
        ValidationError: The line is blank, or can't be an argument of a program.
    """
    if line and not line.strip():
        raise ValidationError("must not be blank")
    check_argument(line)


def check_stdin(text: str) -> None:
    """Refuse what is too much, or no text.

    Raises:
        ValidationError: It is.
    """
    check_unicode(text)
    if len(text.encode()) > MAX_STDIN_BYTES:
        raise ValidationError(f"must be at most {MAX_STDIN_BYTES:,} bytes long in UTF-8")


def check_cwd(path: str) -> None:
    """Refuse what can't be the absolute path of a directory.

    Raises:
        ValidationError: It can't.
    """
    check_argument(path)
    if not path.startswith("/"):
        raise ValidationError("must be an absolute path: it starts with /")
    if len(path.encode()) > MAX_CWD_BYTES:
        raise ValidationError(f"must be at most {MAX_CWD_BYTES:,} bytes long in UTF-8")


class Variables(fields.Dict):
    """An object of environment variables; each wrong one is named by its own name."""

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if len(value) > MAX_ENV_ENTRIES:
            raise ValidationError(f"must have at most {MAX_ENV_ENTRIES} entries")
        if wrong := {name: [problem] for name, text in value.items() if (problem := _variable_problem(name, text))}:
            raise ValidationError(wrong)
        if sum(len(name) + len(text.encode()) for name, text in value.items()) > MAX_ENV_BYTES:
            raise ValidationError(f"must be at most {MAX_ENV_BYTES:,} bytes long in UTF-8, names and values together")
        return value


def _variable_problem(name: str, value: object) -> str | None:
    if not _ENV_NAME.fullmatch(name):
        return "must have a name of letters, digits and _ that doesn't begin with a digit"
    if not isinstance(value, str):
        return "must be a string"
    try:
        check_argument(value)
    except ValidationError as exc:
        return str(exc.messages[0])
    return None


class ExecQuery(Schema):
    """Query of a command's result."""

    pid = PlainInteger(
        metadata=about("Guest pid of the command, as POST told it. Without it, whether commands can run is told."),
    )
    encoding = String(
        validate=validate.OneOf(["base64"]),
        metadata=about("`base64` gives the bytes of the output; without it they are read as UTF-8."),
    )
    wait_s = PlainNumber(
        data_key="wait",
        load_default=0.0,
        error_messages=always(_WAIT_RANGE),
        validate=validate.Range(0, LONGEST_WAIT_S, error=_WAIT_RANGE),
        metadata=about(
            "With a pid: seconds to wait for the command's end. The answer comes as soon as it has ended, or with what "
            "is known when the time is up."
        ),
    )


class KillQuery(Schema):
    """Query of a kill."""

    pid = PlainInteger(
        required=True,
        error_messages={"required": "is required"},
        metadata=about("Guest pid of the command, as POST told it."),
    )


class ExecHeaders(Schema):
    """Headers of a command to run."""

    idempotency_key = String(
        data_key="Idempotency-Key",
        validate=validate.Regexp("[ -~]{1,255}\\Z", error="must be 1 to 255 printable ASCII characters"),
        metadata=about(
            "A name of your choice for this start. For 24 hours the same key with the same body starts nothing again "
            "and tells the first one's outcome; with another body it is refused (409)."
        )
        | {"pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},  # spaces around a header's value aren't part of it
    )


def line_field(max_chars: int) -> String:
    """Make the field of the line that is to be run."""
    return String(
        data_key="command",
        required=True,
        error_messages=TEXT_MESSAGES,
        validate=[
            validate.Length(1, max_chars, error=f"must be 1 to {max_chars:,} characters long"),
            check_line,
        ],
        metadata=about("One shell line; the guest's shell interprets it.")
        | {"example": "uname -a", "pattern": "^[^\\x00]*[^\\s\\x00][^\\x00]*$"},
    )


def wait_for_agent_field(data_key: str) -> StrictNumber:
    """Make the field of how long a start may wait for the agent, as a face spells it."""
    return StrictNumber(
        data_key=data_key,
        load_default=0.0,
        error_messages=always(_WAIT_FOR_AGENT_RANGE),
        validate=validate.Range(0, MAX_WAIT_FOR_AGENT_S, error=_WAIT_FOR_AGENT_RANGE),
        metadata=about("Seconds the start may wait for the guest agent of a VM that is booting."),
    )


class ExecBody(Schema):
    """A command to run."""

    line = line_field(MAX_LINE_CHARS)
    timeout_s = StrictNumber(
        data_key="timeout",
        error_messages=always(_TIMEOUT_RANGE),
        validate=validate.Range(0, MAX_TIMEOUT_S, min_inclusive=False, error=_TIMEOUT_RANGE),
        metadata=about("Seconds the command may run; then its process group is killed. Without it, for ever.")
        | {"exclusiveMinimum": True},
    )
    stdin = String(
        error_messages=TEXT_MESSAGES,
        validate=check_stdin,
        metadata=about(
            f"Its standard input, at most {MAX_STDIN_BYTES:,} bytes in UTF-8. Without it, none. The whole body has a "
            "limit too, so send what isn't ASCII as it is and not as `\\u` escapes."
        ),
    )
    env = Variables(
        keys=String(),
        values=String(),
        error_messages=always("must be an object whose values are strings"),
        metadata=about("Environment variables to add.") | {"example": {"STAGE": "production"}},
    )
    cwd = String(
        error_messages=TEXT_MESSAGES,
        validate=check_cwd,
        metadata=about("Absolute path of the directory it starts in. Without it, /.")
        | {"example": "/srv/app", "pattern": "^/[^\\x00]*$", "maxLength": MAX_CWD_BYTES},
    )
    wait_for_agent_s = wait_for_agent_field("wait_for_agent")
    wait_s = StrictNumber(
        data_key="wait",
        load_default=0.0,
        error_messages=always(_WAIT_RANGE),
        validate=validate.Range(0, LONGEST_WAIT_S, error=_WAIT_RANGE),
        metadata=about(
            "Seconds to wait for the command's end. The answer comes as soon as it has ended, or with what is known "
            "when the time is up, and has the fields of its result too."
        ),
    )

    @post_load
    def make_order(self, given: dict[str, Any], **_kwargs: Any) -> Order:
        """Make the order of the fields."""
        limits = {name: given.pop(name) for name in ("timeout_s", "wait_for_agent_s", "wait_s") if name in given}
        return Order(request=CommandRequest(**given), **limits)
