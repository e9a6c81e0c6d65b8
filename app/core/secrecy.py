"""Secrets of a process that what it starts, and what is left of it, would show: its environment and its core file."""

from collections.abc import MutableMapping
from resource import RLIMIT_CORE, getrlimit, setrlimit

from app.core.env import SECRETS


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
