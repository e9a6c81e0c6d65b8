"""Virtuozzo's routes about files in a guest: read one, write one. Each makes a record among the guest's commands.

Source: Virtuozzo, compute API, reading files from guest OS and writing files inside guest OS. There, what isn't in
order in the guest is a 409; that a file isn't there is one here too, because 404 is a server that isn't there.
"""

from typing import Any

from flask import Response, after_this_request

from app.access import Principal, Scope
from app.api.openstack import guest_files_stream as stream
from app.api.openstack.addresses import COMPUTE
from app.api.openstack.conventions import ComputeBlueprint, requires
from app.api.openstack.guest_agent_schemas import FileQuery
from app.audit_trail import note
from app.request_log import request_id
from app.services import services

blueprint = ComputeBlueprint("Guest files", __name__, description="Files in a guest, through its QEMU guest agent")

_HEADER = "X-Guest-Agent-Command-UUID"
_HEADER_DOC = {_HEADER: {"description": "The transfer's id among the guest's commands.", "schema": {"type": "string"}}}
_BYTES: dict[str, Any] = {"type": "string", "format": "binary"}


@blueprint.route(f"{COMPUTE}/servers/<server_id>/guest-agent/file-read", methods=["GET"])
@requires(Scope.WRITE_VM)
@blueprint.arguments(FileQuery, location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 406, 409, 413, 500, 503, 504)
@blueprint.response(
    200, _BYTES, content_type="application/octet-stream", description="The file's bytes.", headers=_HEADER_DOC
)
def read_file(principal: Principal, server_id: str, path: str) -> Response:
    """Read a file of a server.

    An answer that is broken off on its way ends without its last chunk, which clients report; the record says why.
    """
    note(file=path)
    view = services().server_ids.get_vm(principal, server_id)
    download = services().files.read(principal, view, path, request_id(), on_record=_tell_uuid)
    return stream.answer(download, services().settings.file_stall_s)


@blueprint.route(f"{COMPUTE}/servers/<server_id>/guest-agent/file-write", methods=["POST"])
@requires(Scope.WRITE_VM)
@blueprint.arguments(FileQuery, location="query", as_kwargs=True)
@blueprint.doc(requestBody={"required": True, "content": {"application/octet-stream": {"schema": _BYTES}}})
@blueprint.fails(400, 401, 403, 404, 406, 409, 413, 500, 503, 504)
@blueprint.response(204, description="The file is there, whole.", headers=_HEADER_DOC)
def write_file(principal: Principal, server_id: str, path: str) -> Response:
    """Write a file of a server: the body's bytes, whatever its content type says; with curl: `--data-binary`.

    It appears whole or not at all, in the place of the file that was there, whose mode and owner it keeps; a symbolic
    link is replaced. A new one has the mode 644.
    """
    note(file=path)
    view = services().server_ids.get_vm(principal, server_id)
    settings = services().settings
    stream.insist_on_length(settings.file_limit_bytes)
    body = stream.read_body(settings.file_limit_bytes, settings.file_stall_s)
    services().files.write(principal, view, path, body, request_id(), on_record=_tell_uuid)
    return Response(status=204)


def _tell_uuid(command_uuid: str) -> None:
    """Let the answer to the present request carry the id of the record, if it is an error too."""

    @after_this_request
    def tell(response: Response) -> Response:
        response.headers[_HEADER] = command_uuid
        return response
