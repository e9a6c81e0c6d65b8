"""Secrets where they got by mistake: in a text, in the environment of what we start, in what a crash leaves.

That nobody puts them there is everybody's own business; this is the net below.
"""

import re
from collections.abc import MutableMapping
from resource import RLIMIT_CORE, getrlimit, setrlimit

from app.core.env import SECRETS

_KEY = re.compile(r"(ownup_[0-9a-f]{16}_)[A-Za-z0-9_-]+")


def hide_keys(text: str) -> str:
    """Take the secret part out of whatever looks like an API key: somebody put one into a path, for instance."""
    return _KEY.sub(r"\1(hidden)", text) if "ownup_" in text else text


def forget_secrets(environ: MutableMapping[str, str]) -> None:
    """Take the secrets out of an environment, once they are read.

    Effect: programs that are started from now on don't get them, QEMU above all, which a guest may have taken over.
    """
    for name in SECRETS:
        environ.pop(name, None)


def forbid_core_files() -> None:
    """Let nothing be left of the memory of this process, and of those that it starts, should one crash.

    Effect: the soft limit of core files is 0. Source: core(5); systemd-coredump keeps to it too.
    """
    setrlimit(RLIMIT_CORE, (0, getrlimit(RLIMIT_CORE)[1]))
