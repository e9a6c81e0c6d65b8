"""Which requests become entries of the audit trail, and what those say. Never stdin, env, passwords, keys or output.

An entry is made of every request that shows a key and isn't a plain read, however it ends, and of every refusal of a
key. A view notes what its path doesn't tell; a read whose view notes something is no plain one.
"""

import hashlib
import re
import shlex
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, has_request_context
from werkzeug.exceptions import HTTPException

from app.core.errors import OwnUpError, RateLimitedError, StoreUnavailableError
from app.core.records import CommandRequest
from app.core.secrecy import hide_keys
from app.core.store import Call
from app.present import Fact, present, present_request
from app.request_log import asked, asker, noted_error, request_id
from app.services import services
from app.settings import AuditCommands, Switch

MAX_COMMAND_CHARS = 4096
"""How much of a command an entry shows."""

_PLAIN = {"GET", "HEAD"}
_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_KEY_HEADERS = ("X-API-Key", "Authorization", "X-Auth-Token")
_KEY_ID = re.compile(r"ownup_([0-9a-f]{16})_")


def install(app: Flask) -> None:
    """Let the requests of an application become entries of the trail."""
    app.before_request(_begin)
    app.after_request(_end)


def note(**facts: Fact) -> None:
    """Note what an entry of the present request says besides its path; never a secret."""
    known = present()
    known.facts = {**(known.facts or {}), **facts}


def note_command(wanted: CommandRequest) -> None:
    """Note which command the present request is about: its digest, and itself where ``AUDIT_COMMANDS`` says so."""
    shown = wanted.line if wanted.argv is None else shlex.join(wanted.argv)
    text = wanted.line if wanted.argv is None else "\0".join(wanted.argv)
    note(commandSha256=hashlib.sha256(text.encode(errors="replace")).hexdigest())
    if services().settings.audit_commands is AuditCommands.FULL:
        note(command=shown[:MAX_COMMAND_CHARS])


def note_login(method: str, secret: str) -> None:
    """Note that the present request shows its key in its body, and in which way."""
    note(login=method)
    present().shown = secret


def intent() -> tuple[Call[bool], ...]:
    """Make the calls that note what the present request is about to do, in case its entry never comes."""
    if not has_request_context() or not _is_no_plain_read():
        return ()
    return (services().audit.note_intent(_facts()),)


def _begin() -> None:
    present().began_at = services().clock()


def _end(response: Response) -> Response:
    if _counts(response.status_code):
        services().audit.write({**_facts(), "outcome": {"status": response.status_code, "error": _error_code()}})
    return response


def _counts(status: int) -> bool:
    known = present()
    if isinstance(known.error, RateLimitedError):
        return False
    if status in _REFUSED:
        return bool(_shown())
    is_known = known.principal is not None or (isinstance(known.error, StoreUnavailableError) and bool(_shown()))
    return is_known and _is_no_plain_read()


def _is_no_plain_read() -> bool:
    if present_request().method not in _PLAIN or present().facts is not None:
        return True
    return services().settings.audit_reads is Switch.ON


def _shown() -> str:
    """Tell the key or token that the present request shows."""
    in_body = present().shown
    if in_body is not None:
        return in_body
    headers = present_request().headers
    return next((headers[name] for name in _KEY_HEADERS if name in headers), "")


def _facts() -> dict[str, Any]:
    known = present()
    path = {name: hide_keys(str(value)) for name, value in (present_request().view_args or {}).items()}
    return {
        "when": known.began_at.isoformat(timespec="milliseconds"),
        "requestId": request_id(),
        "who": _who(),
        "what": asked() | {"path": path, "vmid": _find_vmid()} | dict(known.facts or {}),
    }


def _who() -> dict[str, Any]:
    """Tell who asks; of a key that doesn't count, or isn't looked at yet, only what it claims to be."""
    known = asker()
    who = {"keyId": known.get("key_id"), "account": known.get("account"), "address": present_request().remote_addr}
    if not known and (claimed := _KEY_ID.search(_shown())):
        who["claimedKeyId"] = claimed[1]
    return who


def _find_vmid() -> int | None:
    """Tell which VM the present request is about, as far as that has been found out."""
    path, principal = present_request().view_args or {}, present().principal
    if str(path.get("vmid", "")).isdecimal():
        return int(path["vmid"])
    for variable, public_ids in (("vps_id", services().vps_ids), ("server_id", services().server_ids)):
        if variable in path and principal:
            return public_ids.recall(principal, path[variable])
    return None


def _error_code() -> str | None:
    """Name the error that the present request ended in, in our own word whatever the face's is."""
    error = noted_error()
    if isinstance(error, HTTPException) and error.code:
        return HTTPStatus(error.code).name.lower()
    if error is None or isinstance(error, OwnUpError):
        return error.code if error else None
    return OwnUpError.code
