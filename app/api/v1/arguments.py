"""What v1 takes in: paths, query parameters, headers and bodies, each with its limits."""

import re
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate
from marshmallow.fields import String

from app.api.parsing import PlainInteger, PlainNumber, StrictBoolean, StrictNumber
from app.core.records import CommandRequest, PowerAction
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
_TEXT: dict[str, Any] = {"required": "is required", "null": "must be a string", "invalid": "must be a string"}


def _about(description: str) -> dict[str, str]:
    return {"description": description}


def _always(message: str) -> dict[str, Any]:
    return dict.fromkeys(("null", "invalid", "too_large", "special"), message)


def _check_unicode(text: str) -> None:
    """Refuse what has no UTF-8.

    Raises:
        ValidationError: Half a surrogate pair is in it.
    """
    if _HALF_PAIR.search(text):
        raise ValidationError("must not contain lone surrogates: they are no Unicode text")


def _check_argument(text: str) -> None:
    """Refuse what no program could be given: as an argument, a variable or a path.

    Raises:
        ValidationError: It can't be written in UTF-8, or holds a NUL.
    """
    _check_unicode(text)
    if "\0" in text:
        raise ValidationError("must not contain NUL characters")


def _check_line(line: str) -> None:
    """Refuse what no shell could be given.

    Raises:
        ValidationError: The line is blank, or can't be an argument of a program.
    """
    if line and not line.strip():
        raise ValidationError("must not be blank")
    _check_argument(line)


def _check_stdin(text: str) -> None:
    """Refuse what is too much, or no text.

    Raises:
        ValidationError: It is.
    """
    _check_unicode(text)
    if len(text.encode()) > MAX_STDIN_BYTES:
        raise ValidationError(f"must be at most {MAX_STDIN_BYTES:,} bytes long in UTF-8")


def _check_cwd(path: str) -> None:
    """Refuse what can't be the absolute path of a directory.

    Raises:
        ValidationError: It can't.
    """
    _check_argument(path)
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
        _check_argument(value)
    except ValidationError as exc:
        return str(exc.messages[0])
    return None


class VmPath(Schema):
    """Path of everything about one VM."""

    vmid = PlainInteger(required=True, metadata=_about("Number of the VM.") | {"example": 10000})


class ExecQuery(Schema):
    """Query of a command's result."""

    pid = PlainInteger(
        metadata=_about("Guest pid of the command, as POST told it. Without it, whether commands can run is told."),
    )
    encoding = String(
        validate=validate.OneOf(["base64"]),
        metadata=_about("`base64` gives the bytes of the output; without it they are read as UTF-8."),
    )
    wait_s = PlainNumber(
        data_key="wait",
        load_default=0.0,
        error_messages=_always(_WAIT_RANGE),
        validate=validate.Range(0, LONGEST_WAIT_S, error=_WAIT_RANGE),
        metadata=_about(
            "With a pid: seconds to wait for the command's end. The answer comes as soon as it has ended, or with what "
            "is known when the time is up."
        ),
    )


class KillQuery(Schema):
    """Query of a kill."""

    pid = PlainInteger(
        required=True,
        error_messages={"required": "is required"},
        metadata=_about("Guest pid of the command, as POST told it."),
    )


class ExecHeaders(Schema):
    """Headers of a command to run."""

    idempotency_key = String(
        data_key="Idempotency-Key",
        validate=validate.Regexp("[ -~]{1,255}\\Z", error="must be 1 to 255 printable ASCII characters"),
        metadata=_about(
            "A name of your choice for this start. For 24 hours the same key with the same body starts nothing again "
            "and tells the first one's outcome; with another body it is refused (409)."
        ),
    )


class ExecBody(Schema):
    """A command to run."""

    line = String(
        data_key="command",
        required=True,
        error_messages=_TEXT,
        validate=[
            validate.Length(1, MAX_LINE_CHARS, error=f"must be 1 to {MAX_LINE_CHARS:,} characters long"),
            _check_line,
        ],
        metadata=_about("One shell line; the guest's shell interprets it.") | {"example": "uname -a"},
    )
    timeout_s = StrictNumber(
        data_key="timeout",
        error_messages=_always(_TIMEOUT_RANGE),
        validate=validate.Range(0, MAX_TIMEOUT_S, min_inclusive=False, error=_TIMEOUT_RANGE),
        metadata=_about("Seconds the command may run; then its process group is killed. Without it, for ever."),
    )
    stdin = String(
        error_messages=_TEXT,
        validate=_check_stdin,
        metadata=_about(
            f"Its standard input, at most {MAX_STDIN_BYTES:,} bytes in UTF-8. Without it, none. The whole body has a "
            "limit too, so send what isn't ASCII as it is and not as `\\u` escapes."
        ),
    )
    env = Variables(
        keys=String(),
        values=String(),
        error_messages=_always("must be an object whose values are strings"),
        metadata=_about("Environment variables to add.") | {"example": {"STAGE": "production"}},
    )
    cwd = String(
        error_messages=_TEXT,
        validate=_check_cwd,
        metadata=_about("Absolute path of the directory it starts in. Without it, /.") | {"example": "/srv/app"},
    )
    wait_for_agent_s = StrictNumber(
        data_key="wait_for_agent",
        load_default=0.0,
        error_messages=_always(_WAIT_FOR_AGENT_RANGE),
        validate=validate.Range(0, MAX_WAIT_FOR_AGENT_S, error=_WAIT_FOR_AGENT_RANGE),
        metadata=_about("Seconds the start may wait for the guest agent of a VM that is booting."),
    )
    wait_s = StrictNumber(
        data_key="wait",
        load_default=0.0,
        error_messages=_always(_WAIT_RANGE),
        validate=validate.Range(0, LONGEST_WAIT_S, error=_WAIT_RANGE),
        metadata=_about(
            "Seconds to wait for the command's end. The answer comes as soon as it has ended, or with what is known "
            "when the time is up, and has the fields of its result too."
        ),
    )

    @post_load
    def make_order(self, given: dict[str, Any], **_kwargs: Any) -> Order:
        """Make the order of the fields."""
        limits = {name: given.pop(name) for name in ("timeout_s", "wait_for_agent_s", "wait_s") if name in given}
        return Order(request=CommandRequest(**given), **limits)


class PowerBody(Schema):
    """A power action."""

    action = fields.Enum(
        PowerAction,
        by_value=String,
        required=True,
        error_messages=_TEXT | {"unknown": "must be one of: {choices}"},
        metadata=_about("What is to be done. shutdown and restart ask the guest, stop doesn't."),
    )
    force = StrictBoolean(
        load_default=False,
        error_messages={"null": "must be true or false"},
        metadata=_about("shutdown: pull the plug when the guest doesn't obey; restart: reset without asking."),
    )
