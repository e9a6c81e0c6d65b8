"""How this face cuts a list into pages: ``marker``, ``limit`` and the link to the next page.

Source: Nova, API guide, paginated collections.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import request

from app.api.openstack.addresses import url
from app.core.errors import InvalidRequestError, Problem

MAX_PAGE = 1000
"""Source: Nova, configuration, ``[api] max_limit``."""

T = TypeVar("T")


def after(items: Sequence[T], marker: str | None, id_of: Callable[[T], str]) -> Sequence[T]:
    """Take what follows the item whose id is the marker; all where there is no marker.

    Raises:
        InvalidRequestError: No item has the marker's id.
    """
    if marker is None:
        return items
    for index, item in enumerate(items):
        if id_of(item) == marker:
            return items[index + 1 :]
    raise InvalidRequestError(Problem("marker", f"{marker} is not in the list"))


def first(items: Sequence[T], limit: int) -> Sequence[T]:
    """Take one page."""
    return items[: min(limit, MAX_PAGE)]


def next_links(name: str, items: Sequence[T], page: Sequence[T], id_of: Callable[[T], str]) -> dict[str, Any]:
    """Make the member of an answer that leads to the page after this one; nothing where there is none.

    Args:
        name: Of the list.
        items: What the page was taken from.
        page: The page.
        id_of: Tells the id of an item.
    """
    return {} if len(page) == len(items) else next_link(name, id_of(page[-1]))


def next_link(name: str, last_id: str) -> dict[str, Any]:
    """Make the member of an answer that leads to what follows the item with this id."""
    query = urlencode(request.args.to_dict() | {"marker": last_id})
    return {f"{name}_links": [{"rel": "next", "href": f"{url(request.path)}?{query}"}]}
