"""How a face tells that an Idempotency-Key stood for a command that had been started before."""

from typing import Any

from flask import Response, after_this_request

_HEADER = "Idempotency-Replayed"

REPLAY_HEADERS: dict[str, Any] = {
    _HEADER: {
        "description": "`true` if an earlier request with this Idempotency-Key has started the command.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
"""For the OpenAPI document."""


def tell_replay() -> None:
    """Mark the answer to the present request."""

    @after_this_request
    def mark(response: Response) -> Response:
        response.headers[_HEADER] = "true"
        return response
