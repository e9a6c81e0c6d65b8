"""How a guest's commands are spelt in Virtuozzo's calls, in and out.

Source: Virtuozzo, compute API, executing commands in guest OS and listing guest OS commands. Standard input,
environment, directory and timeout are additions of ours; so are the output in ``result``, and the pages of the list.
"""

from typing import Any

from marshmallow import Schema, ValidationError, post_load, validate
from marshmallow.fields import Boolean, Integer, List, Nested, String

from app.api import order_fields
from app.api.face import about
from app.api.openstack.schemas import LinkSchema
from app.api.order_fields import check_argument
from app.core.records import CommandKind
from app.order import Order

MAX_ARGUMENTS = 4096
MAX_ARGUMENT_BYTES = 120_000
"""Source: Linux, execve(2), MAX_ARG_STRLEN: 128 KiB."""
MAX_PATH_BYTES = 4096
"""Source: Linux, limits.h, PATH_MAX."""

STATUSES = ("PENDING", "RUNNING", "SUCCESS", "ERROR")

# --- in ---------------------------------------------------------------------------------------------------------------


class Argv(List[str]):
    """A program and its arguments."""

    def __init__(self, **kwargs: Any) -> None:
        each = String(validate=_check_one, error_messages=order_fields.TEXT_MESSAGES)
        range_ = f"must be a list of 1 to {MAX_ARGUMENTS} strings"
        length = validate.Length(1, MAX_ARGUMENTS, error=range_)
        super().__init__(each, validate=length, error_messages={"invalid": range_, "null": range_}, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        argv = tuple(super()._deserialize(value, *args, **kwargs))
        if argv and not argv[0]:
            raise ValidationError("must begin with the name of a program")
        return argv


def _check_one(text: str) -> None:
    check_argument(text)
    if len(text.encode()) > MAX_ARGUMENT_BYTES:
        raise ValidationError(f"must be at most {MAX_ARGUMENT_BYTES:,} bytes long in UTF-8")


class ExecArguments(order_fields.ExecBody):
    """What is to be run, and how."""

    class Meta:
        """What other faces know besides."""

        exclude = ("line", "wait_s", "wait_for_agent_s")

    argv = Argv(
        data_key="command",
        required=True,
        metadata=about("The program, looked up in PATH, and its arguments. No shell interprets them.")
        | {"example": ["uname", "-a"]},
    )


class ExecCommandBody(Schema):
    """A command."""

    type = String(
        required=True,
        validate=validate.OneOf([CommandKind.EXEC.value], error="must be exec; files have routes of their own"),
        metadata=about("`exec`."),
    )
    arguments = Nested(ExecArguments, required=True)


class ExecBody(Schema):
    """A command to run."""

    command = Nested(ExecCommandBody, required=True)

    @post_load
    def _take_order(self, given: dict[str, Any], **_kwargs: Any) -> Order:
        order: Order = given["command"]["arguments"]
        return order


class ShowQuery(Schema):
    """How a command is to be shown."""

    encoding = String(
        validate=validate.OneOf(["base64"]),
        load_default=None,
        metadata=about("`base64` gives the bytes of the output; without it they are read as UTF-8."),
    )


class AbsolutePath(String):
    """The absolute path of a file in a guest; of Windows too."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        path: str = super()._deserialize(value, *args, **kwargs)
        check_argument(path)
        in_windows = path[1:3] in {":\\", ":/"}
        if not (path.startswith("/") or in_windows):
            raise ValidationError("must be an absolute path: it starts with / or, in Windows, with a drive")
        if len(path.encode()) > MAX_PATH_BYTES:
            raise ValidationError(f"must be at most {MAX_PATH_BYTES:,} bytes long in UTF-8")
        if path.endswith("/") or (in_windows and path.endswith("\\")):
            raise ValidationError("must be the path of a file, not of a directory")
        return path


class FileQuery(Schema):
    """Which file."""

    path = AbsolutePath(
        required=True,
        error_messages={"required": "is required"},
        metadata=about("Absolute path in the guest.") | {"example": "/etc/hostname"},
    )


# --- out --------------------------------------------------------------------------------------------------------------


class ResultSchema(Schema):
    """What came of a command, as far as it is known; of a file that arrived there is nothing to say."""

    pid = Integer(metadata=about("Its process id in the guest."))
    exitcode = Integer(metadata=about("Its exit code; 128 and the signal's number where a signal ended it."))
    out_truncated = Boolean(metadata=about("Standard output was longer than what is kept."))
    err_truncated = Boolean(metadata=about("Standard error was longer than what is kept."))


class ResultWithOutputSchema(ResultSchema):
    """What came of a command, with its output."""

    stdout = String(metadata=about("Standard output, as far as it is kept; known once the command has ended."))
    stderr = String(metadata=about("Standard error, likewise."))
    encoding = String(metadata=about("`base64`, where that was asked for."))


class CommandSchema(Schema):
    """A command, or the transfer of a file."""

    created_at = String(required=True)
    updated_at = String(required=True, allow_none=True, metadata=about("When its status last changed; null if never."))
    uuid = String(required=True)
    type = String(required=True, validate=validate.OneOf([kind.value for kind in CommandKind]))
    instance_uuid = String(required=True, metadata=about("The id of the server."))
    status = String(
        required=True,
        validate=validate.OneOf(STATUSES),
        metadata=about("`SUCCESS`: it ran to its end, whatever its exit code. `ERROR`: `error` says what is known."),
    )
    error = String(required=True, allow_none=True, metadata=about("Null unless the status is `ERROR`."))
    result = Nested(ResultSchema, required=True, allow_none=True, metadata=about("Null while nothing is known."))


class CommandWithOutputSchema(CommandSchema):
    """A command, or the transfer of a file, in full."""

    result = Nested(ResultWithOutputSchema, required=True, allow_none=True)


class CommandsAnswer(Schema):
    """Commands, oldest first."""

    commands = List(Nested(CommandSchema), required=True)
    commands_links = List(Nested(LinkSchema), metadata=about("Where the next page is; absent on the last one."))


class CommandStartedAnswer(Schema):
    """A command that was started."""

    command = Nested(CommandSchema, required=True)


class CommandAnswer(Schema):
    """A command, in full."""

    command = Nested(CommandWithOutputSchema, required=True)
