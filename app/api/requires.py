"""Who may call a view: the decorator that every view under a face carries."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from app.access import Principal, Scope
from app.present import present, present_request
from app.services import services
from app.throttle import RouteClass

View = TypeVar("View", bound=Callable[..., Any])

_READING = frozenset({"GET", "HEAD"})
_POWERFUL = frozenset({Scope.POWER_VM, Scope.BACKUP_VM})


def by_key() -> Principal:
    """Find out who is asking, as HostUp does.

    Raises:
        UnauthorizedError: No API key, or one that doesn't count.
    """
    return services().access.authenticate(*_shown())


def by_key_afresh() -> Principal:
    """Find out who is asking, as HostUp does, for what outlives the request: no key counts for a moment too long.

    Raises:
        UnauthorizedError: No API key, or one that doesn't count.
    """
    return services().access.authenticate(*_shown(), afresh=True)


def _shown() -> tuple[str | None, str | None, str | None]:
    """Tell ``X-API-Key``, ``Authorization`` and the address that the present request comes from."""
    request = present_request()
    environ = request.environ  # werkzeug's headers raise and catch an error for each one that isn't there
    return environ.get("HTTP_X_API_KEY"), environ.get("HTTP_AUTHORIZATION"), request.remote_addr


def count(principal: Principal, scope: Scope | None = None) -> None:
    """Count the present request as one of its key's.

    Args:
        principal: Who is asking.
        scope: What the key must be allowed to do.

    Raises:
        RateLimitedError: The key has made as many requests of this class as it may.
    """
    if present_request().method in _READING:
        route_class = RouteClass.READS
    else:
        route_class = RouteClass.POWER if scope in _POWERFUL else RouteClass.EXEC
    services().throttle.spend(principal.key_id, route_class)


def requires(
    scope: Scope,
    *,
    with_query: Mapping[str, Scope] | None = None,
    about_commands: bool = False,
    who: Callable[[], Principal] = by_key,
) -> Callable[[View], Any]:
    """Let a view be called only with a key that has the scope; the view gets the ``principal``.

    Args:
        scope: What the key must be allowed to do.
        with_query: Scopes that count instead where the request has these query parameters.
        about_commands: Whether all the view can do to a guest is to start commands, which are held against the key's
            patterns, or to kill them. Only then a key may call it that is limited to certain commands.
        who: Finds out who is asking.
    """
    exceptions = with_query or {}

    def decorate(view: View) -> Any:
        @functools.wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            principal = present().principal = who()
            count(principal, scope)
            needed = _exception(exceptions) or scope
            principal.require(needed)
            if needed is Scope.WRITE_VM and not about_commands:
                principal.require_any_command()
            return view(*args, principal=principal, **kwargs)

        guarded.required_scopes = {scope, *exceptions.values()}  # type: ignore[attr-defined]
        return guarded

    return decorate


def _exception(by_parameter: Mapping[str, Scope]) -> Scope | None:
    """Tell the scope that counts instead, if the present request has one of these query parameters."""
    given = present_request().args if by_parameter else ()
    return next((scope for name, scope in by_parameter.items() if name in given), None)
