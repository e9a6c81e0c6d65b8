"""What a reader may see of the store, judged inside Redis: what lies beyond it looks as if it weren't there.

A thing that isn't shown is answered by the very same steps as one that doesn't exist, so that the two can't be told
apart by the time it takes.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Sight:
    """Whose things, of which VMs, a reader may see; everything by default, which is what workers do.

    Attributes:
        account: The things of this account; ``None``: of every account.
        vmids: Of these VMs; ``None``: of all.
        key_id: Of commands, those that were started with this API key; ``None``: all.
    """

    account: str | None = None
    vmids: frozenset[int] | None = None
    key_id: str | None = None

    @cached_property
    def text(self) -> str:
        """The argument that ``sees`` reads."""
        given: dict[str, Any] = {}
        if self.account is not None:
            given["account"] = self.account
        if self.vmids is not None:
            given["vmids"] = {str(vmid): True for vmid in self.vmids}
        if self.key_id is not None:
            given["key"] = self.key_id
        return json.dumps(given)


EVERYTHING = Sight()


def sees(argument: int) -> str:
    """Write the start of a script that has a ``Sight`` as its argument of this number.

    It binds ``sight`` and ``sees(account, vmid, key)``; ``key`` is left out for what isn't a command.
    """
    return f"""
local sight = cjson.decode(ARGV[{argument}])
local function sees(account, vmid, key)
  return account and (not sight.account or sight.account == account)
    and (not sight.vmids or (vmid and sight.vmids[vmid])) and (not sight.key or key == nil or sight.key == key)
end
"""
