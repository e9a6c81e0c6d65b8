"""Who is asking and what they may do: API keys, scopes, principals.

Knows HostUp's two ways to send a key and how a key is made and checked; doesn't know HTTP statuses or bodies.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.core import ids
from app.core.clock import now
from app.core.errors import ForbiddenError, UnauthorizedError
from app.core.records import ApiKey
from app.core.store import Store, keys

_KEY = re.compile(r"ownup_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
SEEN_FOR_S = 1.0
"""How long a key that was right is believed without asking Redis: a revoked one dies that much later at the most."""

_NO_DIGEST = hashlib.sha256(b"").hexdigest()


class Scope(StrEnum):
    """What a key may be allowed to do.

    Source: HostUp v2 docs, scope map for VMs; polling the output of a command needs ``write:vm``.
    """

    READ_VM = "read:vm"
    WRITE_VM = "write:vm"
    POWER_VM = "power:vm"


@dataclass(frozen=True, slots=True)
class Principal:
    """On whose behalf a request is carried out.

    Attributes:
        key_id: The API key.
        account: The account whose VMs it sees.
        scopes: What it may do.
    """

    key_id: str
    account: str
    scopes: frozenset[str]

    def require(self, scope: Scope) -> None:
        """Insist on a scope.

        Raises:
            ForbiddenError: The key doesn't have it.
        """
        if scope not in self.scopes:
            raise ForbiddenError(scope)


def issue_key(
    account: str, name: str, scopes: Iterable[str], created_at: datetime, expires_at: datetime | None
) -> tuple[ApiKey, str]:
    """Make a new API key.

    Returns:
        The record to store, and the secret to show once.
    """
    key_id = ids.key_id()
    secret = ids.key_secret(key_id)
    key = ApiKey(
        id=key_id,
        secret_sha256=_digest(secret),
        account=account,
        name=name,
        scopes=tuple(scopes),
        created_at=created_at,
        expires_at=expires_at,
    )
    return key, secret


@dataclass(frozen=True, slots=True)
class _Seen:
    """A key that was right a moment ago, and until when that may be believed, by the monotonic clock."""

    key: ApiKey
    principal: Principal
    until_s: float


class Access:
    """Turns the key of a request into a principal."""

    def __init__(
        self, store: Store, clock: Callable[[], datetime] = now, *, time_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._time_s = time_s
        self._seen: dict[str, _Seen] = {}

    def authenticate(self, api_key: str | None, authorization: str | None) -> Principal:
        """Find out who is asking.

        Source: HostUp v1 docs, authentication: ``X-API-Key: <key>`` or ``Authorization: Bearer <key>``.

        Args:
            api_key: The value of ``X-API-Key``.
            authorization: The value of ``Authorization``.

        Raises:
            UnauthorizedError: No key, two different ones, or one that is unknown, wrong, revoked or expired.
        """
        secret = _choose(api_key, _bearer(authorization))
        match = _KEY.fullmatch(secret)
        if match is None:
            raise UnauthorizedError("The API key is not valid")
        digest = _digest(secret)
        seen = self._seen.get(digest)
        if seen is None or seen.until_s < self._time_s():
            seen = self._look_up(match[1], digest)
        self._insist_on_life(seen.key)
        return seen.principal

    def _look_up(self, key_id: str, digest: str) -> "_Seen":
        """Read a key, and remember it for a moment if it is the right one: a wrong key leaves nothing behind.

        Raises:
            UnauthorizedError: It is unknown or wrong.
        """
        until_s = self._time_s() + SEEN_FOR_S
        key = self._store.run(keys.find(key_id))
        right = hmac.compare_digest(digest, key.secret_sha256 if key else _NO_DIGEST)
        if key is None or not right:
            self._seen.pop(digest, None)
            raise UnauthorizedError("The API key is not valid")
        seen = self._seen[digest] = _Seen(key, Principal(key.id, key.account, frozenset(key.scopes)), until_s)
        return seen

    def _insist_on_life(self, key: ApiKey) -> None:
        if key.revoked_at is not None:
            raise UnauthorizedError("The API key has been revoked")
        if key.expires_at is not None and key.expires_at <= self._clock():
            raise UnauthorizedError("The API key has expired")


def _choose(api_key: str | None, bearer: str | None) -> str:
    given = {key.strip() for key in (api_key, bearer) if key is not None}
    if not given:
        raise UnauthorizedError("Send an API key as X-API-Key or as Authorization: Bearer")
    if len(given) > 1:
        raise UnauthorizedError("X-API-Key and Authorization carry two different keys")
    return given.pop()


def _bearer(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token if scheme.lower() == "bearer" else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
