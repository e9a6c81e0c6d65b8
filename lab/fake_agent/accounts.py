"""The users of the fake agent's guest: passwords and SSH keys in memory, never those of this machine.

It knows no socket and no JSON. There is one user, root, whose home has no SSH keys at first.

Source: QEMU, qga/commands-posix.c and qga/commands-posix-ssh.c; texts as qemu-ga 7.2 gives them.
"""

from collections.abc import Sequence

KEYS_FILE = "/root/.ssh/authorized_keys"


class AccountsError(Exception):
    """The agent says no, in these words."""


class Accounts:
    """What the agent can change of its guest's users.

    Attributes:
        passwords: What was set last, by user: the password itself, or a hash where that was sent.
        keys_file: Root's SSH keys as the file has them; None where there is no file.
    """

    def __init__(self) -> None:
        self.passwords: dict[str, str] = {}
        self.keys_file: str | None = None

    def set_password(self, username: str, password: bytes) -> None:
        """Do what `guest-set-user-password` does.

        Raises:
            AccountsError: No such user, or something is in it that chpasswd's input couldn't hold.
        """
        if b"\n" in password:
            raise AccountsError("forbidden characters in raw password")
        if set(username) & set("\n:"):
            raise AccountsError("forbidden characters in username")
        if username != "root":
            raise AccountsError("child process has failed to set user password")
        self.passwords[username] = password.partition(b"\0")[0].decode(errors="replace")

    def add_keys(self, username: str, keys: Sequence[str], *, reset: bool) -> None:
        """Do what `guest-ssh-add-authorized-keys` does: keep the lines there are, or none, and add the new ones.

        Raises:
            AccountsError: No such user, or one of the keys is no line of such a file.
        """
        for key in keys:
            if key.startswith("#") or "\n" in key:
                raise AccountsError(f"invalid OpenSSH public key: '{key}'")
        _look_up(username)
        lines = self.keys_file.split("\n") if self.keys_file and not reset else []
        for key in keys:
            if key not in lines:
                lines.append(key)
        self.keys_file = "\n".join(lines)

    def get_keys(self, username: str) -> list[str]:
        """Do what `guest-ssh-get-authorized-keys` does: tell the lines that are keys, the last one first.

        Raises:
            AccountsError: No such user, or no such file.
        """
        _look_up(username)
        if self.keys_file is None:
            reason = f"Failed to open file “{KEYS_FILE}”: No such file or directory"
            raise AccountsError(f"failed to read '{KEYS_FILE}': {reason}")
        lines = (line.strip() for line in self.keys_file.split("\n"))
        return [line for line in lines if line and not line.startswith("#")][::-1]


def _look_up(username: str) -> None:
    if username != "root":
        raise AccountsError(f"failed to lookup user '{username}': Success")
