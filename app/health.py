"""Two questions of an operator or a load balancer: does this process live, and can it do its work?"""

from http import HTTPStatus
from typing import Any

from flask import Blueprint

from app.core.errors import StoreUnavailableError
from app.core.records import Node
from app.core.store import nodes
from app.services import services

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> dict[str, Any]:
    """Tell that this process answers; nothing else is asked."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> tuple[dict[str, Any], HTTPStatus]:
    """Tell whether Redis answers and at least one node listens."""
    try:
        alive = services().store.run(nodes.list_alive())
    except StoreUnavailableError:
        return _answer(redis=False, alive=(), missing=["redis"])
    return _answer(redis=True, alive=alive, missing=[] if alive else ["node"])


def _answer(*, redis: bool, alive: tuple[Node, ...], missing: list[str]) -> tuple[dict[str, Any], HTTPStatus]:
    body = {
        "status": "unavailable" if missing else "ready",
        "redis": redis,
        "nodes": [{"name": node.name, "vms": node.vms, "brokenDefinitions": node.broken_definitions} for node in alive],
        "missing": missing,
    }
    return body, HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
