"""API keys as keys see and manage them: who sees which, who may make, change, roll and delete which.

One rule stands above all: whatever a key makes, changes or rolls can do no more than the key itself, so that nobody
gets further by it. Knows no HTTP; operators at the command line are above the rule.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypedDict

from app.access import Principal, Scope, issue_key, roll_key
from app.allowed_ips import are_within
from app.core import ids
from app.core.clock import now
from app.core.errors import ForbiddenError, InvalidRequestError, KeyLimitedError, NotFoundError, Problem
from app.core.records import ApiKey
from app.core.store import Store, keys
from app.core.store.keys import MOST_OF_AN_ACCOUNT

MAX_LIFE_DAYS = 36_500

_TOO_MANY = f"has {MOST_OF_AN_ACCOUNT} API keys, which is as many as it may have; delete one first"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What a key is to be like; as ``ApiKey`` where nothing else is said.

    Attributes:
        name: What it is for.
        scopes: What it may do.
        description: More about it.
        is_test: Whether it is for trying things out.
        expires_in_days: How long it counts; ``None``: as long as the key that makes it.
        allowed_ips: Empty: those of the key that makes it.
        allowed_vmids: Empty: those of the key that makes it.
        allowed_commands: Empty: those of the key that makes it.
        account: Whose it is; ``None``: of the account of the key that makes it.
    """

    name: str
    scopes: Iterable[str]
    description: str | None = None
    is_test: bool = False
    expires_in_days: int | None = None
    allowed_ips: Iterable[str] = ()
    allowed_vmids: Iterable[int] = ()
    allowed_commands: Iterable[str] = ()
    account: str | None = None


class KeySettings(TypedDict, total=False):
    """What can be changed of a key; what isn't there stays."""

    name: str
    description: str | None
    scopes: tuple[str, ...]
    is_active: bool
    allowed_ips: tuple[str, ...]
    allowed_vmids: tuple[int, ...]
    allowed_commands: tuple[str, ...]


@dataclass(frozen=True)
class Keys:
    """Keeps API keys on behalf of API keys.

    Attributes:
        store: Where records are.
        clock: The time.
    """

    store: Store
    clock: Callable[[], datetime] = field(default=now)

    def list_seen(self, principal: Principal) -> tuple[ApiKey, ...]:
        """Read all keys that the principal sees, oldest first."""
        owned = self.store.run(keys.list_owned(principal.sight.account))
        return tuple(key for key in owned if _sees(principal, key))

    def create(self, principal: Principal, wanted: NewKey) -> tuple[ApiKey, str]:
        """Make a key.

        Returns:
            What is stored of it, and its secret, to be shown once.

        Raises:
            ForbiddenError: It could do more than the principal.
            InvalidRequestError: The account has as many keys as it may.
        """
        key, secret = _make(principal, wanted, self.clock())
        _insist_on_no_more(principal, key)
        if not self.store.run(keys.add(key)):
            raise InvalidRequestError(Problem("account", _TOO_MANY))
        return key, secret

    def update(self, principal: Principal, key_id: str, settings: KeySettings) -> ApiKey:
        """Change what a key is called and what it may do.

        Raises:
            NotFoundError: There is no such key, or the principal doesn't see it.
            ForbiddenError: It can do more than the principal, or could then.
            InvalidRequestError: It has expired and can't be switched on again.
        """

        def make(key: ApiKey) -> ApiKey:
            changed = replace(key, **settings)
            _insist_on_no_more(principal, changed)
            if changed.is_active and not key.is_active and has_expired(key, self.clock()):
                raise InvalidRequestError(Problem("is_active", "must be false: this API key has expired"))
            return changed

        return self._change(principal, key_id, make)

    def roll(self, principal: Principal, key_id: str) -> tuple[ApiKey, str]:
        """Give a key another secret; the old one, and all tokens issued for it, don't count any more.

        Returns:
            What is stored of it, and its secret, to be shown once.

        Raises:
            NotFoundError: There is no such key, or the principal doesn't see it.
            ForbiddenError: It can do more than the principal.
        """
        issued = ""

        def make(key: ApiKey) -> ApiKey:
            nonlocal issued
            rolled, issued = roll_key(key)
            return rolled

        return self._change(principal, key_id, make), issued

    def delete(self, principal: Principal, key_id: str) -> None:
        """Withdraw a key, at once and for good.

        Raises:
            NotFoundError: There is no such key, or the principal doesn't see it.
            ForbiddenError: It can do more than the principal.
        """
        self._change(principal, key_id, lambda key: replace(key, revoked_at=self.clock()))

    def _change(self, principal: Principal, key_id: str, make: Callable[[ApiKey], ApiKey]) -> ApiKey:
        return change(self.store, lambda: self._get(principal, key_id), make)

    def _get(self, principal: Principal, key_id: str) -> ApiKey:
        """Read a key that is to be changed.

        Raises:
            NotFoundError: There is no such key, or the principal doesn't see it.
        """
        account = principal.sight.account
        key = self.store.run(keys.find_owned(key_id, account)) if ids.is_key_id(key_id) else None
        if key is None or not _sees(principal, key):
            raise NotFoundError("API key")
        _insist_on_no_more(principal, key)
        return key


def change(store: Store, read: Callable[[], ApiKey], make: Callable[[ApiKey], ApiKey]) -> ApiKey:
    """Change a key as it is now: where somebody else changes it at the same time, all is judged anew.

    Args:
        store: Where it is.
        read: Reads it, and judges whether it may be changed.
        make: Makes what it is to be.
    """
    while True:  # each further round means that somebody else's change was made
        key = read()
        changed = make(key)
        if changed == key or store.run(keys.replace(key, changed)):
            return changed


def has_expired(key: ApiKey, at: datetime) -> bool:
    """Tell whether a key's time is over."""
    return key.expires_at is not None and key.expires_at <= at


def excess(key: ApiKey, principal: Principal) -> ForbiddenError | None:
    """Tell in what a key can do more than a principal; ``None``: in nothing."""
    if not principal.is_operator and key.account != principal.account:
        return ForbiddenError(Scope.ADMIN)
    lacking = next((scope for scope in key.scopes if scope not in principal.scopes), None)
    if lacking is not None:
        return ForbiddenError(lacking)
    limit = next(_exceeded(key, principal), None)
    return None if limit is None else KeyLimitedError(f"it can make and manage only keys that {limit}")


def _exceeded(key: ApiKey, principal: Principal) -> Iterator[str]:
    """Tell which limits of a principal a key doesn't have; one without a limit has none that could lie within."""
    if principal.vmids is not None and not (key.allowed_vmids and principal.vmids.issuperset(key.allowed_vmids)):
        yield "see no other VMs than it does (allowed_vmids)"
    if principal.ips and not (key.allowed_ips and are_within(key.allowed_ips, principal.ips)):
        yield "count from no other addresses than it does (allowed_ips)"
    if principal.commands and not (key.allowed_commands and set(key.allowed_commands) <= set(principal.commands)):
        yield "run no other commands than it does (allowed_commands)"
    if principal.expires_at is not None and (key.expires_at is None or key.expires_at > principal.expires_at):
        yield "expire no later than it does (expires_in_days)"


def _insist_on_no_more(principal: Principal, key: ApiKey) -> None:
    error = excess(key, principal)
    if error is not None:
        raise error


def _sees(principal: Principal, key: ApiKey) -> bool:
    """Tell whether a key of an account is shown: to one that is limited, only what is limited at least as much."""
    is_limited = principal.vmids is not None or principal.ips or principal.commands
    return not is_limited or excess(key, principal) is None


def _make(principal: Principal, wanted: NewKey, created_at: datetime) -> tuple[ApiKey, str]:
    expires_at = principal.expires_at
    if wanted.expires_in_days is not None:
        expires_at = created_at + timedelta(days=wanted.expires_in_days)
    account = principal.account if wanted.account is None else wanted.account
    key, secret = issue_key(account, wanted.name, wanted.scopes, created_at, expires_at)
    limited = replace(
        key,
        description=wanted.description,
        is_test=wanted.is_test,
        allowed_ips=tuple(wanted.allowed_ips) or principal.ips,
        allowed_vmids=tuple(wanted.allowed_vmids) or tuple(sorted(principal.vmids or ())),
        allowed_commands=tuple(wanted.allowed_commands) or principal.commands,
        created_by=principal.key_id,
    )
    return limited, secret
