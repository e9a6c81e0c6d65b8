"""A memory of bounded size. Doesn't know what it holds."""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Remembers what was put last, by name, and no more of it than so much. Each method is safe between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: OrderedDict[str, T] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._things

    def find(self, name: str) -> T | None:
        """Find what has a name."""
        return self._things.get(name)

    def put(self, name: str, thing: T) -> T:
        """Remember a thing instead of what had its name; the oldest one is forgotten for it."""
        self.drop(name)
        self._things[name] = thing
        if len(self._things) > self._most:
            self._things.popitem(last=False)
        return thing

    def drop(self, name: str) -> None:
        """Forget what has a name."""
        self._things.pop(name, None)
