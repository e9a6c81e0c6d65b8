"""Who may call a view: the decorator that every view under a face carries."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flask import g, request

from app.access import Scope
from app.services import services

View = TypeVar("View", bound=Callable[..., Any])


def requires(scope: Scope, *, with_query: Mapping[str, Scope] | None = None) -> Callable[[View], Any]:
    """Let a view be called only with a key that has the scope; the view gets the ``principal``.

    Args:
        scope: What the key must be allowed to do.
        with_query: Scopes that count instead where the request has these query parameters.
    """
    exceptions = with_query or {}

    def decorate(view: View) -> Any:
        @functools.wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            headers = request.headers
            principal = services().access.authenticate(headers.get("X-API-Key"), headers.get("Authorization"))
            g.principal = principal
            principal.require(next((exceptions[name] for name in exceptions if name in request.args), scope))
            return view(*args, principal=principal, **kwargs)

        guarded.required_scopes = {scope, *exceptions.values()}  # type: ignore[attr-defined]
        return guarded

    return decorate
