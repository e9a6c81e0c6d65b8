"""A command as a caller wants it, before there is a record of it. Knows no face and no store."""

import hashlib
import json
from dataclasses import asdict, dataclass, field

from app.core.records import CommandRequest

LONGEST_WAIT_S = 60
"""How long one request may wait for the end of a command, at most; proxies in between often give up soon after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be run, and for how long.

    Attributes:
        request: What is to be run.
        timeout_s: Run deadline, counted from the start; ``None`` lets it run for ever.
        wait_for_agent_s: How much longer than usual its delivery may take, because the VM is still booting.
        wait_s: How long its end is waited for. No part of what is wanted: orders that differ in it alone are equal.
    """

    request: CommandRequest
    timeout_s: float | None = None
    wait_for_agent_s: float = 0.0
    wait_s: float = field(default=0.0, compare=False)

    def fingerprint(self) -> str:
        """Digest what is wanted: equal orders, and no others, have equal digests.

        What isn't given doesn't count, so that a later version may know more options.
        """
        fields = asdict(self.request) | {"timeout_s": self.timeout_s, "wait_for_agent_s": self.wait_for_agent_s}
        given = {name: value for name, value in fields.items() if value is not None}
        canonical = json.dumps(given, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
