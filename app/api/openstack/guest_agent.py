"""Virtuozzo's routes about commands in a guest: run one, list them, show one, cancel one.

The list has every command of the VM that its account has started, whichever face it came through.

Source: Virtuozzo, compute API, executing commands in guest OS and listing guest OS commands. The page about showing a
command is not public: that it has the output in ``result`` is our choice. DELETE and the list's pages are additions.
"""

import uuid
from typing import Any

from app.access import Principal, Scope
from app.api.openstack import guest_agent_bodies as bodies
from app.api.openstack import paging
from app.api.openstack.addresses import COMPUTE
from app.api.openstack.arguments import PageQuery
from app.api.openstack.conventions import ComputeBlueprint, requires
from app.api.openstack.guest_agent_schemas import (
    CommandAnswer,
    CommandsAnswer,
    CommandStartedAnswer,
    ExecBody,
    ShowQuery,
)
from app.api.order_fields import ExecHeaders
from app.api.replay import REPLAY_HEADERS, tell_replay
from app.audit_trail import note_command
from app.core.errors import NotFoundError
from app.order import Order
from app.request_log import request_id
from app.results import Result
from app.services import services

blueprint = ComputeBlueprint(
    "Guest commands", __name__, description="Commands in a guest, through its QEMU guest agent"
)

COMMANDS = f"{COMPUTE}/servers/<server_id>/guest-agent/commands"

_STARTED = {
    "created_at": "2026-02-10T00:00:00Z",
    "updated_at": "2026-02-10T00:00:00Z",
    "uuid": "0b1f6a3e-5c2d-4e8f-9a7b-1c2d3e4f5a6b",
    "type": "exec",
    "instance_uuid": "5d3b5a0c-6f4e-5c1b-9a51-3f7a1c2d4e5f",
    "status": "RUNNING",
    "error": None,
    "result": {"pid": 4242},
}
_ENDED: dict[str, Any] = _STARTED | {
    "status": "SUCCESS",
    "result": {"pid": 4242, "exitcode": 0, "out_truncated": False, "err_truncated": False},
}
_SHOWN = _ENDED | {"result": _ENDED["result"] | {"stdout": "hi\n", "stderr": ""}}


@blueprint.route(COMMANDS, methods=["POST"])
@requires(Scope.WRITE_VM, about_commands=True)
@blueprint.arguments(ExecHeaders(), location="headers", as_kwargs=True)
@blueprint.arguments(ExecBody())
@blueprint.fails(400, 401, 403, 404, 406, 409, 413, 415, 500, 503, 504)
@blueprint.response(200, CommandStartedAnswer, example={"command": _STARTED}, headers=REPLAY_HEADERS)
def run_command(
    order: Order, *, principal: Principal, server_id: str, idempotency_key: str | None = None
) -> dict[str, Any]:
    """Run a program with its arguments in a server, without a shell.

    The answer comes as soon as the guest has told its process id, and doesn't wait for its end. A program that can't be
    started is refused with 409 or, where the guest finds that out by itself, ends with the exit code 127.
    """
    note_command(order.request)
    view = services().server_ids.recall_vm(principal, server_id)
    started = services().commands.start(
        principal, view, order, request_id(), idempotency_key=idempotency_key, on_repeat=tell_replay
    )
    return {"command": bodies.command(services().results.find(principal, view.vm.vmid, started.id).command)}


@blueprint.route(COMMANDS, methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(PageQuery, location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 406, 503)
@blueprint.response(200, CommandsAnswer, example={"commands": [_ENDED]})
def list_commands(principal: Principal, server_id: str, limit: int, marker: str | None) -> dict[str, Any]:
    """List what was done in a server through its guest agent, oldest first, through whichever API."""
    view = services().server_ids.get_vm(principal, server_id)
    limit = min(limit, paging.MAX_PAGE)
    page, more = services().results.list_page(principal, view, after=marker, limit=limit)
    links = paging.next_link("commands", bodies.command_uuid(page[-1])) if more else {}
    return {"commands": [bodies.command(record) for record in page]} | links


@blueprint.route(f"{COMMANDS}/<command_uuid>", methods=["GET"])
@requires(Scope.WRITE_VM, about_commands=True)
@blueprint.arguments(ShowQuery, location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 406, 503)
@blueprint.response(200, CommandAnswer, example={"command": _SHOWN})
def show_command(principal: Principal, server_id: str, command_uuid: str, encoding: str | None) -> dict[str, Any]:
    """Show a command with its output."""
    vmid = services().server_ids.get_vmid(principal, server_id)
    found = services().results.find(principal, vmid, _canonical(command_uuid))
    return {"command": bodies.command_with_output(found, encoding)}


@blueprint.route(f"{COMMANDS}/<command_uuid>", methods=["DELETE"])
@requires(Scope.WRITE_VM, about_commands=True)
@blueprint.fails(400, 401, 403, 404, 406, 503)
@blueprint.response(200, CommandAnswer, description="As it is then: ended, unless its end takes long.")
def cancel_command(principal: Principal, server_id: str, command_uuid: str) -> dict[str, Any]:
    """Kill a command with everything it has started, or break off a file; one that has ended stays as it is."""
    view = services().server_ids.get_vm(principal, server_id)
    record = services().commands.cancel(principal, view, _canonical(command_uuid))
    output = services().results.find(principal, view.vm.vmid, record.id)
    return {"command": bodies.command_with_output(Result(record, output.stdout, output.stderr), None)}


def _canonical(text: str) -> str:
    """Write a UUID in the one way in which records have it.

    Raises:
        NotFoundError: It is none.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise NotFoundError("Command") from None
