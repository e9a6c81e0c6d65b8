"""The present request, and what is known of it so far: one typed object for all that has to do with it.

Flask's ``request`` and ``g`` stand for whatever request is present, and look it up at every attribute; so often that
it takes a tenth of a small request. Who needs more than one attribute looks it up here, once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, cast

from flask import Flask, Request, current_app, g, request
from flask.ctx import _AppCtxGlobals

from app.access import Principal

if TYPE_CHECKING:
    from werkzeug.local import LocalProxy

Fact = str | int | bool | Sequence[str] | None


class Present(_AppCtxGlobals):
    """What is known of the present request.

    Attributes:
        request_id: Its id, once somebody has asked for it.
        began_s: When it began, by the performance counter.
        began_at: When it began.
        principal: On whose behalf it is carried out, once that is found out.
        error: The error that it ended in.
        failure: The error behind a 5xx.
        failure_expected: Whether that is one of the errors OwnUp foresees.
        facts: What its entry in the audit trail says besides its path; ``None`` where nothing was noted.
        shown: The key that it shows in its body.
    """

    __setattr__ = object.__setattr__  # type: ignore[assignment] # Flask's own way does the same, in Python

    request_id: str | None = None
    began_at: datetime
    principal: Principal | None = None
    error: Exception | None = None
    failure: Exception | None = None
    failure_expected: bool = True
    facts: Mapping[str, Fact] | None = None
    shown: str | None = None

    def __init__(self) -> None:
        """Begin a request."""
        self.began_s = time.perf_counter()


# What the proxies are asked by themselves: werkzeug's documented way, without a function of ours around it.
present: Callable[[], Present] = cast("LocalProxy[Present]", g)._get_current_object  # noqa: SLF001
"""Get what is known of the present request; ``request_log.install`` makes an application keep it."""
present_request: Callable[[], Request] = cast("LocalProxy[Request]", request)._get_current_object  # noqa: SLF001
"""Get the present request itself."""
present_app: Callable[[], Flask] = cast("LocalProxy[Flask]", current_app)._get_current_object  # noqa: SLF001
"""Get the application that serves the present request."""
