"""The rights of the worker's process: given up for good before it meets a guest.

Knows Linux's users, groups and prctl. Doesn't know what the worker needs them for.
"""

import ctypes
import grp
import os
import pwd
from dataclasses import dataclass

from app.core.errors import SettingsError

_PR_SET_NO_NEW_PRIVS = 38
"""Source: prctl(2)."""
_PRIVATE = 0o077


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, and the groups it is in."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def restrict(run_as: str) -> None:
    """Go on as another user for good, with files that are nobody else's business, and no way to more rights.

    Effect: of the whole process, which must not have threads yet. Programs that it starts can't gain rights either,
    by setuid bits for instance.

    Args:
        run_as: ``user`` or ``user:group``; empty to stay who we are.

    Raises:
        SettingsError: It isn't root, there is no such user or group, or that user can't read OwnUp and Python.
    """
    if run_as:
        _become(_identity(run_as))
    _forbid_new_privileges()
    os.umask(_PRIVATE)


def _identity(run_as: str) -> Identity:
    """Look a user up.

    Raises:
        SettingsError: There is no such user or group.
    """
    user_name, _, group_name = run_as.partition(":")
    try:
        user = pwd.getpwnam(user_name)
    except KeyError as exc:
        raise SettingsError(f"RUN_AS={run_as!r}: there is no user {user_name!r}") from exc
    try:
        gid = grp.getgrnam(group_name).gr_gid if group_name else user.pw_gid
    except KeyError as exc:
        raise SettingsError(f"RUN_AS={run_as!r}: there is no group {group_name!r}") from exc
    return Identity(user_name, user.pw_uid, gid, tuple(os.getgrouplist(user_name, gid)))


def _become(identity: Identity) -> None:
    """Change user and groups, real, effective and saved: the last step takes the right to come back.

    Raises:
        SettingsError: We may not, we could come back, or we couldn't go on.
    """
    if not _is(identity):
        _change(identity)
    for path in (os.__file__, __file__):  # much of both is loaded later, when it is needed
        if not os.access(path, os.R_OK):
            raise SettingsError(f"RUN_AS={identity.name!r}: this user can't read {path}")


def _change(identity: Identity) -> None:
    """Change user and groups.

    Raises:
        SettingsError: We may not, or we could come back.
    """
    try:
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except PermissionError as exc:
        raise SettingsError(f"RUN_AS={identity.name!r}: only root can become somebody else") from exc
    if identity.uid != 0 and _can_come_back():
        raise SettingsError(f"RUN_AS={identity.name!r}: the rights of root could be taken back")


def _is(identity: Identity) -> bool:
    return os.getresuid() == (identity.uid,) * 3 and os.getresgid() == (identity.gid,) * 3


def _can_come_back() -> bool:
    try:
        os.setresuid(-1, 0, -1)
    except PermissionError:
        return False
    return True


def _forbid_new_privileges() -> None:
    """Forbid this process and all that it starts to gain rights by starting a program.

    Raises:
        SettingsError: The kernel doesn't.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise SettingsError(f"no_new_privs can't be set: {os.strerror(ctypes.get_errno())}")
