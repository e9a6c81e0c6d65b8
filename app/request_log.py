"""One id and one log line for every request. Never logs payloads, keys or output."""

import logging
import time
from typing import Any

from flask import Flask, Response

from app.core import ids, logs
from app.present import Present, present, present_request

_LOG = logging.getLogger(__name__)
_VM_IDS = frozenset({"vmid", "vps_id", "server_id"})
"""The part of a path that says which VM it is about, in each face's spelling."""
_V2 = "/api/v2/"
"""Below this ids are spelt as HostUp v2 spells them."""


def request_id() -> str:
    """Tell the id of the present request; its answer carries the same one."""
    known = present()
    if known.request_id is None:
        is_v2 = f"{present_request().path}/".startswith(_V2)
        known.request_id = ids.request_id_v2() if is_v2 else ids.request_id()
    return known.request_id


def note_error(error: Exception) -> None:
    """Keep the error that the present request ends in for those who tell of it."""
    present().error = error


def noted_error() -> Exception | None:
    """Tell the error that the present request ended in."""
    return present().error


def asked() -> dict[str, Any]:
    """Tell what the present request asks for: its method, and the route that its path is of."""
    request = present_request()
    rule = request.url_rule
    return {"method": request.method, "route": rule.rule if rule else "-"}


def asker() -> dict[str, str]:
    """Tell who the present request comes from, once that is found out."""
    principal = present().principal
    return {"account": principal.account, "key_id": principal.key_id} if principal else {}


def note_failure(error: Exception, *, expected: bool) -> None:
    """Keep the error behind a 5xx for the request's log line.

    Args:
        error: What happened.
        expected: Whether it is one of the errors OwnUp foresees; of the others the traceback is logged too.
    """
    known = present()
    known.failure, known.failure_expected = error, expected


def install(app: Flask) -> None:
    """Give every request of an application its id and its log line, and a place for what is known of it."""
    app.app_ctx_globals_class = Present
    app.after_request(_end)


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = request_id()
    known = present()
    facts = _facts(known, response.status_code)
    if known.failure:
        _LOG.error("request", extra=facts, exc_info=None if known.failure_expected else known.failure)
    else:
        logs.tell(_LOG, "request", facts)
    return response


def _facts(known: Present, status: int) -> dict[str, Any]:
    facts = {
        **asked(),
        "status": status,
        "ms": round((time.perf_counter() - known.began_s) * 1000, 1),
        "request_id": known.request_id,
        **asker(),
    }
    facts |= {name: value for name, value in (present_request().view_args or {}).items() if name in _VM_IDS}
    if known.failure:  # not the guest's words, which may be any
        facts |= {"error": type(known.failure).__name__, "reason": str(known.failure)}
    return facts
