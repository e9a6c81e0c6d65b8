"""One id and one log line for every request. Never logs payloads, keys or output."""

import logging
import time
from typing import Any, cast

from flask import Flask, Response, g, request

from app.core import ids

_LOG = logging.getLogger(__name__)
_VM_IDS = frozenset({"vmid", "vps_id", "server_id"})
"""The part of a path that says which VM it is about, in each face's spelling."""
_V2 = "/api/v2/"
"""Below this ids are spelt as HostUp v2 spells them."""


def request_id() -> str:
    """Tell the id of the present request; its answer carries the same one."""
    if "request_id" not in g:
        g.request_id = ids.request_id_v2() if f"{request.path}/".startswith(_V2) else ids.request_id()
    return cast("str", g.request_id)


def note_error(error: Exception) -> None:
    """Keep the error that the present request ends in for those who tell of it."""
    g.error = error


def noted_error() -> Exception | None:
    """Tell the error that the present request ended in."""
    return cast("Exception | None", g.get("error"))


def asked() -> dict[str, Any]:
    """Tell what the present request asks for: its method, and the route that its path is of."""
    rule = request.url_rule
    return {"method": request.method, "route": rule.rule if rule else "-"}


def asker() -> dict[str, str]:
    """Tell who the present request comes from, once that is found out."""
    principal = g.get("principal")
    return {"account": principal.account, "key_id": principal.key_id} if principal else {}


def note_failure(error: Exception, *, expected: bool) -> None:
    """Keep the error behind a 5xx for the request's log line.

    Args:
        error: What happened.
        expected: Whether it is one of the errors OwnUp foresees; of the others the traceback is logged too.
    """
    g.failure = error
    g.failure_expected = expected


def install(app: Flask) -> None:
    """Give every request of an application its id and its log line."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    g.began_s = time.perf_counter()


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = request_id()
    failure = g.get("failure")
    level = logging.ERROR if failure else logging.INFO
    exc_info = failure if failure and not g.failure_expected else None
    _LOG.log(level, "request", extra=_facts(response.status_code, failure), exc_info=exc_info)
    return response


def _facts(status: int, failure: Exception | None) -> dict[str, Any]:
    facts = asked() | {
        "status": status,
        "ms": round((time.perf_counter() - g.began_s) * 1000, 1),
        "request_id": request_id(),
    }
    facts |= asker()
    facts |= {name: value for name, value in (request.view_args or {}).items() if name in _VM_IDS}
    if failure:
        facts |= {"error": type(failure).__name__, "reason": str(failure)}  # not the guest's words, which may be any
    return facts
