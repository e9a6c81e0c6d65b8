"""Who is asking and what they may do: API keys, scopes, principals.

Knows HostUp's two ways to send a key and how a key is made and checked; doesn't know HTTP statuses or bodies.
"""

import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from app.allowed_ips import is_within
from app.core import ids
from app.core.clock import now
from app.core.errors import ForbiddenError, KeyLimitedError, UnauthorizedError
from app.core.records import ApiKey
from app.core.store import Sight, Store, keys
from app.tries import Tries

_KEY = re.compile(r"ownup_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
SEEN_FOR_S = 1.0
"""How long a key that was right is believed without asking Redis: a revoked one dies that much later at the most."""
_REMEMBERED = 10_000
"""How many keys that were right a process remembers."""
_NOTE_USE_EVERY_S = 60.0

_NO_DIGEST = hashlib.sha256(b"").hexdigest()
_LIMITED_TO_COMMANDS = "it may run certain commands and read what became of them, and do nothing else to a guest"
_LIMITED_TO_A_PART = "it is for certain VMs or commands, and can't change what is there for the whole account"


class Scope(StrEnum):
    """What a key may be allowed to do.

    Source: HostUp v2 docs, scope map for VMs; polling the output of a command needs ``write:vm``. ``admin`` is ours: it
    adds no action to the others, but every account to the key's own.
    """

    READ_VM = "read:vm"
    WRITE_VM = "write:vm"
    POWER_VM = "power:vm"
    BACKUP_VM = "backup:vm"
    WRITE_ACCOUNT = "write:account"
    ADMIN = "admin"


TENANT_SCOPES = tuple(scope for scope in Scope if scope is not Scope.ADMIN)
"""All that a key of one account can need."""


@dataclass(frozen=True)
class Principal:
    """On whose behalf a request is carried out.

    Attributes:
        key_id: The API key.
        account: The account it belongs to.
        scopes: What it may do.
        vmids: The VMs it sees; ``None``: all of its account, or of all accounts for an operator.
        commands: Patterns of the commands it may run; none: any.
        ips: Networks it may be used from; none: from everywhere.
        expires_at: From when on it doesn't count any more.
    """

    key_id: str
    account: str
    scopes: frozenset[str]
    vmids: frozenset[int] | None = None
    commands: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    expires_at: datetime | None = None

    @property
    def is_operator(self) -> bool:
        """Whether it sees the things of every account."""
        return Scope.ADMIN in self.scopes

    @cached_property
    def sight(self) -> Sight:
        """What it may see. One that is limited to certain commands sees those that were started with its key."""
        account = None if self.is_operator else self.account
        return Sight(account, self.vmids, self.key_id if self.commands else None)

    def require(self, scope: Scope) -> None:
        """Insist on a scope.

        Raises:
            ForbiddenError: The key doesn't have it.
        """
        if scope not in self.scopes:
            raise ForbiddenError(scope)

    def require_any_command(self) -> None:
        """Insist that it isn't limited to certain commands: what it asks for could do as much as any command.

        Raises:
            KeyLimitedError: It is.
        """
        if self.commands:
            raise KeyLimitedError(_LIMITED_TO_COMMANDS)

    def require_whole_account(self) -> None:
        """Insist that it isn't limited to certain VMs or commands: what it changes is for all VMs of the account.

        Raises:
            KeyLimitedError: It is.
        """
        if self.vmids is not None or self.commands:
            raise KeyLimitedError(_LIMITED_TO_A_PART)

    @classmethod
    def of(cls, key: ApiKey) -> "Principal":
        """Let a key act."""
        vmids = frozenset(key.allowed_vmids) if key.allowed_vmids else None
        scopes = frozenset(key.scopes)
        return cls(key.id, key.account, scopes, vmids, key.allowed_commands, key.allowed_ips, key.expires_at)


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
        secret_sha256=digest(secret),
        account=account,
        name=name,
        scopes=tuple(scopes),
        created_at=created_at,
        expires_at=expires_at,
    )
    return key, secret


def roll_key(key: ApiKey) -> tuple[ApiKey, str]:
    """Give an API key another secret.

    Returns:
        The record to store, and the secret to show once.
    """
    secret = ids.key_secret(key.id)
    return replace(key, secret_sha256=digest(secret)), secret


@dataclass(frozen=True, slots=True)
class _Seen:
    """A key that was right a moment ago, and until when that may be believed, by the monotonic clock."""

    key: ApiKey
    principal: Principal
    until_s: float
    use_noted_s: float


class Access:
    """Turns the key of a request into a principal."""

    def __init__(
        self,
        store: Store,
        tries: Tries,
        clock: Callable[[], datetime] = now,
        *,
        time_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._tries = tries
        self._clock = clock
        self._time_s = time_s
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def authenticate(
        self, api_key: str | None, authorization: str | None, address: str | None, *, afresh: bool = False
    ) -> Principal:
        """Find out who is asking.

        Source: HostUp v1 docs, authentication: ``X-API-Key: <key>`` or ``Authorization: Bearer <key>``.

        Args:
            api_key: The value of ``X-API-Key``.
            authorization: The value of ``Authorization``.
            address: Where the request comes from.
            afresh: Whether to ask Redis even of a key that was right a moment ago.

        Raises:
            UnauthorizedError: No key, two different ones, or one that is unknown, wrong, revoked, expired, switched
                off, or not to be used from there.
            RateLimitedError: Too many wrong ones came from there.
        """
        secret = _choose(api_key, _bearer(authorization))
        match = _KEY.fullmatch(secret)
        sha256 = digest(secret) if match else ""
        seen = self._seen.get(sha256)
        if seen and not afresh and self._time_s() <= seen.until_s and not self._why_not(seen.key, address):
            return seen.principal
        with self._tries.trying(sha256, address):
            if match is None:
                raise UnauthorizedError("The API key is not valid")
            seen = self._look_up(match[1], sha256)
            self._insist_on_life(seen.key, address)
            return seen.principal

    def _look_up(self, key_id: str, sha256: str) -> "_Seen":
        """Read a key, and remember it for a moment if it is the right one: a wrong key leaves nothing behind.

        Raises:
            UnauthorizedError: It is unknown or wrong.
        """
        asked_s = self._time_s()
        key = self._store.run(keys.find(key_id))
        right = hmac.compare_digest(sha256, key.secret_sha256 if key else _NO_DIGEST)
        before = self._seen.pop(sha256, None)
        if key is None or not right:
            raise UnauthorizedError("The API key is not valid")
        noted_s = before.use_noted_s if before else -_NOTE_USE_EVERY_S
        if asked_s - noted_s >= _NOTE_USE_EVERY_S and key.revoked_at is None:
            noted_s = asked_s
            self._store.run(keys.note_use(key.id, self._clock()))
        return self._remember(sha256, _Seen(key, Principal.of(key), asked_s + SEEN_FOR_S, noted_s))

    def _remember(self, sha256: str, seen: _Seen) -> _Seen:
        self._seen[sha256] = seen
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return seen

    def principal_of(self, key: ApiKey, address: str | None) -> Principal:
        """Let a key act that was read for a token.

        Raises:
            UnauthorizedError: It is revoked, expired, switched off, or not to be used from there.
        """
        self._insist_on_life(key, address)
        return Principal.of(key)

    def _insist_on_life(self, key: ApiKey, address: str | None) -> None:
        reason = self._why_not(key, address)
        if reason:
            raise UnauthorizedError(reason)

    def _why_not(self, key: ApiKey, address: str | None) -> str | None:
        """Tell why a key that is right doesn't count; ``None``: it does."""
        if key.revoked_at is not None:
            return "The API key has been revoked"
        if not key.is_active:
            return "The API key is switched off"
        if key.expires_at is not None and key.expires_at <= self._clock():
            return "The API key has expired"
        if key.allowed_ips and not is_within(address, key.allowed_ips):
            return "The API key may not be used from this address"
        return None


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


def digest(secret: str) -> str:
    """Digest a secret as it is stored. It holds 256 random bits, so a fast hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()
