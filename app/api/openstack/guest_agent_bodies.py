"""The data of answers about a guest's commands in Virtuozzo's calls, made from records."""

from typing import Any

from app.api import command_bodies
from app.api.openstack.moments import nova_moment
from app.core import ids
from app.core.records import Command, CommandKind, CommandState
from app.results import Result

_STATUSES = {
    CommandState.QUEUED: "PENDING",
    CommandState.RUNNING: "RUNNING",
    CommandState.EXITED: "SUCCESS",
}
"""Every other state is an error: it says of itself what is known."""

_ERROR = "ERROR"


def command_uuid(command: Command) -> str:
    """Tell the id of a command."""
    return command.id


def command(record: Command) -> dict[str, Any]:
    """Make a command as the list has it."""
    status = _STATUSES.get(record.state, _ERROR)
    return {
        "created_at": nova_moment(record.created_at),
        "updated_at": nova_moment(record.updated_at) if record.updated_at else None,
        "uuid": record.id,
        "type": record.kind,
        "instance_uuid": ids.openstack_id(record.vmid),
        "status": status,
        "error": command_bodies.message_of(record) if status == _ERROR else None,
        "result": _result(record),
    }


def command_with_output(found: Result, encoding: str | None) -> dict[str, Any]:
    """Make a command in full."""
    body = command(found.command)
    if body["result"] and found.command.state.ended:
        body["result"] |= {
            "stdout": command_bodies.text_of(found.stdout, encoding),
            "stderr": command_bodies.text_of(found.stderr, encoding),
        } | ({"encoding": encoding} if encoding else {})
    return body


def _result(record: Command) -> dict[str, Any] | None:
    if record.kind is not CommandKind.EXEC:
        return {} if record.state is CommandState.EXITED else None
    if record.pid is None:
        return None
    if not record.state.ended:
        return {"pid": record.pid}
    code = {"exitcode": command_bodies.exit_code(record)} if record.state is CommandState.EXITED else {}
    return {"pid": record.pid} | code | {"out_truncated": record.out_truncated, "err_truncated": record.err_truncated}
