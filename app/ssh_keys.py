"""The public SSH keys an account keeps, to be put into its guests. Knows the store; asks no node and no guest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.access import Principal
from app.core import ids
from app.core.clock import now
from app.core.errors import NotFoundError, SshKeyRefusedError
from app.core.records import SshKey
from app.core.store import Store, ssh_keys
from app.ssh_public_key import PublicKey

LIMIT = 100
"""How many keys an account may keep."""


@dataclass(frozen=True)
class SshKeys:
    """Keeps the keys of accounts.

    Attributes:
        store: Where records are.
        clock: The time.
    """

    store: Store
    clock: Callable[[], datetime] = field(default=now)

    def list_owned(self, principal: Principal) -> tuple[SshKey, ...]:
        """Read all keys of the principal's account, by number."""
        return self.store.run(ssh_keys.list_owned(principal.account))

    def get(self, principal: Principal, key_id: int | str) -> SshKey:
        """Read one key.

        Raises:
            NotFoundError: There is no such key, or it belongs to another account.
        """
        (key,) = self.get_many(principal, [key_id])
        return key

    def get_many(self, principal: Principal, key_ids: Sequence[int | str]) -> tuple[SshKey, ...]:
        """Read some keys, each once.

        Args:
            principal: Whose keys they are.
            key_ids: Their numbers, or HostUp v2's ids of them.

        Raises:
            NotFoundError: One of them isn't there, or belongs to another account.
        """
        owned: dict[int | str, SshKey] = {}
        for key in self.list_owned(principal):
            owned[key.id] = owned[ids.ssh_key_id(key.id)] = key
        if not owned.keys() >= set(key_ids):
            raise NotFoundError("SSH key")
        return tuple(owned[key_id] for key_id in dict.fromkeys(key_ids))

    def add(self, principal: Principal, name: str, line: str) -> SshKey:
        """Keep a key.

        Args:
            principal: Who keeps it.
            name: What it is called.
            line: The key, as ``PublicKey.read`` takes it.

        Raises:
            KeyLimitedError: The principal is limited to certain VMs or commands.
            SshKeyRefusedError: The account has it already, or has as many as it may.
        """
        principal.require_whole_account()
        if len(self.list_owned(principal)) >= LIMIT:
            raise SshKeyRefusedError(f"An account may keep {LIMIT} SSH keys; remove one first")
        public_key = PublicKey.read(line)
        key = SshKey(id=0, account=principal.account, name=name, public_key=public_key.line, created_at=self.clock())
        key_id = self.store.run(ssh_keys.add(key, public_key.sha256))
        if key_id is None:
            raise SshKeyRefusedError("Your account has this SSH key already")
        return self.get(principal, key_id)

    def rename(self, principal: Principal, key_id: int | str, name: str) -> SshKey:
        """Give a key another name.

        Raises:
            KeyLimitedError: The principal is limited to certain VMs or commands.
            NotFoundError: There is no such key, or it belongs to another account.
        """
        principal.require_whole_account()
        key = self.get(principal, key_id)
        self.store.run(ssh_keys.rename(key.account, _fingerprint(key), name))
        return self.get(principal, key_id)

    def remove(self, principal: Principal, key_id: int | str) -> None:
        """Forget a key. Guests that have it keep it.

        Raises:
            KeyLimitedError: The principal is limited to certain VMs or commands.
            NotFoundError: There is no such key, or it belongs to another account.
        """
        principal.require_whole_account()
        key = self.get(principal, key_id)
        self.store.run(ssh_keys.remove(key.account, _fingerprint(key)))


def _fingerprint(key: SshKey) -> str:
    return PublicKey.read(key.public_key).sha256
