"""Where this face lies, and the addresses in its answers: always under the name by which the client reached us."""

from flask import request

COMPUTE = "/v2.1"
IDENTITY = "/identity"


def url(path: str) -> str:
    """Make the full address of a path."""
    return f"{request.url_root.rstrip('/')}{path}"


def compute_url(*parts: str) -> str:
    """Make the full address of something below Nova."""
    return url("/".join((COMPUTE, *parts)))
