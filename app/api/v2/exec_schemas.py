"""How v2 spells what it tells of a guest's commands."""

from marshmallow import fields
from marshmallow.fields import Boolean, Integer, String

from app.api.face import AnswerSchema, about
from app.core.records import CommandState


class ExecStartedSchema(AnswerSchema):
    """A command that has its pid. With `wait` in the body also all that its result has, as far as it is known."""

    pid = Integer(required=True, metadata=about("Its process id in the guest."))
    poll_url = String(required=True, data_key="pollUrl", metadata=about("GET it to read the command's result."))
    exited = Boolean(metadata=about("Whether nothing more will come. True for every end, whatever it was."))
    exit_code = Integer(
        allow_none=True,
        data_key="exitCode",
        metadata=about(
            "Null while the command runs; 128 + signal if a signal ended it; -1 if it has none of its own: see state."
        ),
    )
    signal = Integer(metadata=about("The signal that ended it; absent otherwise."))
    stdout = String()
    stderr = String()
    encoding = String(metadata=about("`base64` if that was asked for; absent otherwise."))
    out_truncated = Boolean(data_key="outTruncated", metadata=about("Present, and true, if stdout was cut."))
    err_truncated = Boolean(data_key="errTruncated", metadata=about("Present, and true, if stderr was cut."))
    available = Boolean(metadata=about("Whether the guest agent takes commands now."))
    running = Boolean(data_key="vmRunning", metadata=about("Whether the VPS runs now."))
    state = fields.Enum(CommandState, by_value=String, metadata=about("How far the command has come, or how it ended."))
    message = String()


class ExecSchema(ExecStartedSchema):
    """The result of a command; without a pid in the query only `available`, `reason` and `vmRunning`."""

    class Meta:
        """Whoever reads a result knows where from."""

        exclude = ("poll_url",)

    pid = Integer()
    reason = String(allow_none=True, metadata=about("Why no command can be run; null if one can."))


class KillSchema(AnswerSchema):
    """A command whose kill was asked for."""

    pid = Integer(required=True)
    exited = Boolean(required=True, metadata=about("Whether it has ended, by the kill or by itself before."))
    exit_code = Integer(required=True, allow_none=True, data_key="exitCode", metadata=about("As its result has it."))
    signal = Integer(metadata=about("As its result has it."))
    state = fields.Enum(
        CommandState, by_value=String, required=True, metadata=about("`cancelled` if the kill ended it.")
    )
    message = String(required=True)
