"""Tokens: what a client that logs in with an API key gets, and shows from then on instead of the key.

A token is random, says nothing by itself and is stored only as its digest. It counts as long as its key does, and no
longer. Doesn't know how a face spells a login or a token.
"""

import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime

from app.access import Access, Principal, digest
from app.core.errors import NotFoundError, UnauthorizedError
from app.core.store import Store, tokens
from app.core.store.tokens import TokenView
from app.throttle import RouteClass, Throttle
from app.tries import Tries

__all__ = ["Login", "TokenView", "Tokens"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
"""256 random bits. An API key is longer, so the two can't be taken for each other."""


@dataclass(frozen=True, slots=True)
class Login:
    """A login that went well.

    Attributes:
        secret: The token, to be shown once.
        view: What is stored of it, and its key.
    """

    secret: str = field(repr=False)
    view: TokenView


class Tokens:
    """Issues tokens and tells whose they are."""

    def __init__(self, store: Store, access: Access, tries: Tries, throttle: Throttle) -> None:
        self._store = store
        self._access = access
        self._tries = tries
        self._throttle = throttle

    def principal(self, secret: str, address: str | None) -> Principal:
        """Find out who is asking, by a token or by an API key itself, and from where.

        Raises:
            UnauthorizedError: It is neither, or doesn't count any more.
        """
        if _TOKEN.fullmatch(secret) is None:
            return self._access.authenticate(secret, None, address)
        sha256 = digest(secret)
        with self._tries.trying(sha256, address):
            return self._access.principal_of(self._read(sha256).key, address)

    def log_in(self, api_key: str, method: str, account: str | None = None, *, address: str | None) -> Login:
        """Issue a token for an API key.

        Args:
            api_key: The key.
            method: How it was given, in the face's own word.
            account: The account that the client means; ``None`` is the key's own.
            address: Where the client is.

        Raises:
            UnauthorizedError: The key doesn't count, or belongs to another account.
        """
        principal = self._access.authenticate(api_key, None, address)
        sha256 = digest(api_key.strip())
        return self._issue(principal.key_id, sha256, principal.account, method, account, address=address)

    def exchange(self, secret: str, method: str, account: str | None = None, *, address: str | None) -> Login:
        """Issue a token for a token, which lives no longer than that one, or for an API key.

        Args:
            secret: The token or the key.
            method: As in ``log_in``.
            account: As in ``log_in``.
            address: As in ``log_in``.

        Raises:
            UnauthorizedError: It is neither, or doesn't count any more, or belongs to another account.
        """
        if _TOKEN.fullmatch(secret) is None:
            return self.log_in(secret, method, account, address=address)
        sha256 = digest(secret)
        with self._tries.trying(sha256, address):
            view = self._read(sha256)
        key, ends = view.key, view.token.expires_at
        return self._issue(key.id, view.token.key_sha256, key.account, method, account, address=address, not_after=ends)

    def get(self, principal: Principal, secret: str) -> TokenView:
        """Read a token of the same key.

        Raises:
            NotFoundError: There is no such token, or it stands for another key.
        """
        view = self._store.run(tokens.find(digest(secret)))
        if view is None or view.key.id != principal.key_id:
            raise NotFoundError("Token")
        return view

    def revoke(self, principal: Principal, secret: str) -> None:
        """End a token of the same key.

        Raises:
            NotFoundError: There is no such token, or it stands for another key.
        """
        self.get(principal, secret)
        self._store.run(tokens.remove(digest(secret)))

    def _issue(
        self,
        key_id: str,
        key_sha256: str,
        own: str,
        method: str,
        wanted: str | None,
        *,
        address: str | None,
        not_after: datetime | None = None,
    ) -> Login:
        if wanted not in {None, own}:
            raise UnauthorizedError(f"The API key does not belong to {wanted}")
        self._throttle.spend(key_id, RouteClass.EXEC)
        secret = make_secret()
        view = self._store.run(tokens.create(digest(secret), key_id, key_sha256, method, not_after=not_after))
        if view is None:
            raise UnauthorizedError("The API key has expired, or has another secret by now")
        self._access.principal_of(view.key, address)
        return Login(secret, view)

    def _read(self, sha256: str) -> TokenView:
        view = self._store.run(tokens.find(sha256))
        if view is None:
            raise UnauthorizedError("The token is not valid, or has expired")
        return view


def make_secret() -> str:
    """Make a token. Its first character is no dash: ``openstack token revoke`` would take it for an option."""
    secret = secrets.token_urlsafe(32)
    return make_secret() if secret.startswith("-") else secret
