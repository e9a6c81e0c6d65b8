"""Two questions of an operator or a load balancer: does this process live, and can it do its work?"""

from http import HTTPStatus
from typing import Any

from flask import Blueprint, request

from app.api.requires import by_key, count
from app.core.errors import StoreUnavailableError
from app.core.records import Node
from app.core.store import nodes
from app.present import present
from app.services import services

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> dict[str, Any]:
    """Tell that this process answers; nothing else is asked."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> tuple[dict[str, Any], HTTPStatus]:
    """Tell whether Redis answers and at least one node listens; an operator is told which.

    Raises:
        UnauthorizedError: There is an API key, and it doesn't count.
    """
    try:
        alive = services().store.run(nodes.list_alive())
        shown = alive if _asks_operator() else None
    except StoreUnavailableError:
        return _answer(redis=False, missing=["redis"])
    return _answer(redis=True, missing=[] if alive else ["node"], shown=shown)


def _asks_operator() -> bool:
    if not any(name in request.headers for name in ("X-API-Key", "Authorization")):
        return False
    principal = present().principal = by_key()
    count(principal)
    return principal.is_operator


def _answer(
    *, redis: bool, missing: list[str], shown: tuple[Node, ...] | None = None
) -> tuple[dict[str, Any], HTTPStatus]:
    body: dict[str, Any] = {"status": "unavailable" if missing else "ready", "redis": redis, "missing": missing}
    if shown is not None:
        body["nodes"] = [
            {"name": node.name, "vms": node.vms, "brokenDefinitions": node.broken_definitions} for node in shown
        ]
    return body, HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
