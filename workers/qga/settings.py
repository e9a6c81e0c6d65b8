"""What the agent's RPCs about the settings of a guest take and return: shapes only, no sockets, no time.

Source: QEMU Guest Agent Protocol Reference, guest-get-host-name (since 2.10), guest-set-user-password (2.3),
guest-ssh-get-authorized-keys and guest-ssh-add-authorized-keys (5.2); what is marked *measured* was seen on 7.2.
"""

import base64
from collections.abc import Sequence
from typing import Any

from app.core.errors import AgentProtocolError, AgentRefusedError

_MOST_HOSTNAME_CHARS = 255


def load_hostname(reply: Any) -> str:
    """Read the reply to guest-get-host-name.

    Raises:
        AgentProtocolError: It isn't what qemu-ga sends.
    """
    name = reply.get("host-name") if isinstance(reply, dict) else None
    if not isinstance(name, str):
        raise AgentProtocolError("the agent's reply to guest-get-host-name is malformed")
    return as_text(name)[:_MOST_HOSTNAME_CHARS]


def dump_password(username: str, password: str) -> dict[str, object]:
    """Write the arguments of guest-set-user-password; the password is plain and the guest hashes it.

    Source: base64 keeps no secret, it only lets any bytes pass; a line feed in it is refused (*measured*).
    """
    return {"username": username, "password": base64.b64encode(password.encode()).decode(), "crypted": False}


def dump_ssh_keys(username: str, keys: Sequence[str]) -> dict[str, object]:
    """Write the arguments of guest-ssh-add-authorized-keys that replace all keys of a user.

    The agent joins what it gets by line feeds and ends the file with none, so that the next line that somebody appends
    by hand would spoil the last key (*measured*): an empty line goes last.
    """
    return {"username": username, "keys": [*keys, ""], "reset": True}


def load_ssh_keys(reply: Any) -> list[str]:
    """Read the reply to guest-ssh-get-authorized-keys, in the order of the file; the agent tells the last line first.

    Raises:
        AgentProtocolError: It isn't what qemu-ga sends.
    """
    keys = reply.get("keys") if isinstance(reply, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise AgentProtocolError("the agent's reply to guest-ssh-get-authorized-keys is malformed")
    return [as_text(key) for key in reversed(keys)]


def has_no_file(refusal: AgentRefusedError) -> bool:
    """Tell whether the agent says no because a file isn't there; where it speaks another language, it isn't noticed."""
    return "No such file or directory" in refusal.description


def as_text(text: str) -> str:
    """Take half surrogate pairs out of what an agent sent; JSON lets them pass, UTF-8 doesn't."""
    return text.encode(errors="replace").decode()
