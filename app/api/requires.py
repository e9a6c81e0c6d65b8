"""Who may call a view: the decorator that every view under a face carries."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flask import g, request

from app.access import Principal, Scope
from app.services import services

View = TypeVar("View", bound=Callable[..., Any])


def by_key() -> Principal:
    """Find out who is asking, as HostUp does.

    Raises:
        UnauthorizedError: No API key, or one that doesn't count.
    """
    return services().access.authenticate(request.headers.get("X-API-Key"), request.headers.get("Authorization"))


def requires(
    scope: Scope, *, with_query: Mapping[str, Scope] | None = None, who: Callable[[], Principal] = by_key
) -> Callable[[View], Any]:
    """Let a view be called only with a key that has the scope; the view gets the ``principal``.

    Args:
        scope: What the key must be allowed to do.
        with_query: Scopes that count instead where the request has these query parameters.
        who: Finds out who is asking.
    """
    exceptions = with_query or {}

    def decorate(view: View) -> Any:
        @functools.wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            principal = g.principal = who()
            principal.require(next((exceptions[name] for name in exceptions if name in request.args), scope))
            return view(*args, principal=principal, **kwargs)

        guarded.required_scopes = {scope, *exceptions.values()}  # type: ignore[attr-defined]
        return guarded

    return decorate
