"""One row for each route: how to call it so that nothing but who asks decides, and what it is about."""

from dataclasses import dataclass, field
from typing import Any

from app.access import Scope
from app.core import ids

OWN_VMID, OTHER_VMID, FOREIGN_VMID, MISSING_VMID = 10000, 10001, 20000, 99999
PID = 42
COMMAND_ID = "6f1d1b9a-5c0c-4f6e-9a53-0d4f5d1f3a01"
MISSING_COMMAND_ID = "00000000-0000-4000-8000-000000000000"
JOB_ID = "start-10000-1770681600000"
MISSING_JOB_ID = "start-10000-1770681600001"
SNAPSHOT = "before-upgrade"
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann@laptop"
NEW_SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
NEW_V2_SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIBAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
MISSING_KEY_ID = "0000000000000000"

EXISTING = {
    "vmid": str(OWN_VMID),
    "vps_id": ids.vps_id(OWN_VMID),
    "server_id": ids.openstack_id(OWN_VMID),
    "job_id": JOB_ID,
    "command_uuid": COMMAND_ID,
    "snapshot_id": SNAPSHOT,
}
MISSING = EXISTING | {
    "vmid": str(MISSING_VMID),
    "vps_id": ids.vps_id(MISSING_VMID),
    "server_id": ids.openstack_id(MISSING_VMID),
    "job_id": MISSING_JOB_ID,
    "api_key_id": MISSING_KEY_ID,
    "ssh_key_id": "4711",
    "v2_ssh_key_id": ids.ssh_key_id(4711),
    "flavor_id": "4711",
}
"""What a path is filled with: with what account ``acme`` has, and with what nobody has."""


@dataclass(frozen=True)
class Row:
    """How to call a route.

    Attributes:
        scope: What the key must be allowed to do; ``None``: nothing in particular.
        query: What follows the path.
        json: The body.
        about: ``vm``: what it is about is seen by who sees its VM; ``account``: by who is of its account, whatever its
            VMs; ``list``, ``account list``: it shows what there is to be seen of such things; ``self``: about who asks.
        headers: What is sent beside the key.
        named: What the route calls the variables of its path where it isn't as ``EXISTING`` does.
        raw: The body, if it isn't JSON.
        commands_only: Whether a key that is limited to certain commands may call it.
    """

    scope: Scope | None
    query: str = ""
    json: Any = None
    about: str = "vm"
    headers: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    commands_only: bool = True


READ, WRITE, POWER, BACKUP, ACCOUNT = (
    Scope.READ_VM,
    Scope.WRITE_VM,
    Scope.POWER_VM,
    Scope.BACKUP_VM,
    Scope.WRITE_ACCOUNT,
)
_EXEC = {"command": "true"}
_SSH_KEY = {"named": {"key_id": "ssh_key_id"}, "about": "account"}
_V2_SSH_KEY = {"named": {"key_id": "v2_ssh_key_id"}, "about": "account"}
_API_KEY = {"named": {"key_id": "api_key_id"}, "about": "account"}
_NEW_KEY = {"name": "new", "scopes": ["read:vm"], "is_active": True}
_SETTINGS = {"commands_only": False}
_VPS = "/api/v2/vps/<vps_id>"
_SERVER = "/v2.1/servers/<server_id>"
_AGENT = f"{_SERVER}/guest-agent"

ROWS: dict[tuple[str, str], list[Row]] = {
    # HostUp v1
    ("GET", "/api/vm"): [Row(READ, about="list")],
    ("GET", "/api/vm/<vmid>/status"): [Row(READ)],
    ("POST", "/api/vm/<vmid>/status"): [Row(POWER, json={"action": "restart"})],
    ("GET", "/api/vm/<vmid>/details"): [Row(READ)],
    ("POST", "/api/vm/<vmid>/agent/exec"): [Row(WRITE, json=_EXEC)],
    ("GET", "/api/vm/<vmid>/agent/exec"): [Row(READ), Row(WRITE, query=f"?pid={PID}")],
    ("DELETE", "/api/vm/<vmid>/agent/exec"): [Row(WRITE, query=f"?pid={PID}")],
    ("POST", "/api/vm/<vmid>/hostname"): [Row(WRITE, json={"hostname": "a.example.com"}, **_SETTINGS)],
    ("POST", "/api/vm/<vmid>/reset-password"): [Row(WRITE, json={"password": "correct horse"}, **_SETTINGS)],
    ("POST", "/api/vm/<vmid>/reset-ssh-keys"): [Row(WRITE, json={"keyIds": ["1"]}, **_SETTINGS)],
    ("GET", "/api/vm/<vmid>/snapshots"): [Row(READ)],
    ("POST", "/api/vm/<vmid>/snapshots"): [Row(BACKUP, json={"snapname": "new"})],
    ("DELETE", "/api/vm/<vmid>/snapshots"): [
        Row(BACKUP, query=f"?action={action}&snapname={SNAPSHOT}") for action in ("delete", "rollback")
    ],
    ("GET", "/api/jobs/<job_id>"): [Row(READ)],
    ("GET", "/api/ssh-keys"): [Row(READ, about="account list")],
    ("POST", "/api/ssh-keys"): [Row(ACCOUNT, about="self", json={"name": "a", "public_key": NEW_SSH_KEY})],
    ("DELETE", "/api/ssh-keys/<key_id>"): [Row(ACCOUNT, **_SSH_KEY)],
    ("GET", "/api/keys/scopes"): [Row(ACCOUNT, about="self")],
    ("GET", "/api/keys"): [Row(ACCOUNT, about="list")],
    ("POST", "/api/keys"): [Row(ACCOUNT, about="self", json={"name": "new", "scopes": ["write:account"]})],
    ("PUT", "/api/keys/<key_id>"): [Row(ACCOUNT, json=_NEW_KEY, **_API_KEY)],
    ("POST", "/api/keys/<key_id>/roll"): [Row(ACCOUNT, **_API_KEY)],
    ("DELETE", "/api/keys/<key_id>"): [Row(ACCOUNT, **_API_KEY)],
    # HostUp v2
    ("GET", "/api/v2/vps"): [Row(READ, about="list")],
    **{
        ("GET", f"{_VPS}{below}"): [Row(READ)]
        for below in ("", "/details", "/status", "/metrics", "/disks", "/storage", "/hostname", "/snapshots")
    },
    **{
        ("POST", f"{_VPS}/actions/{action}"): [Row(POWER)]
        for action in ("start", "stop", "shutdown", "restart", "reset")
    },
    ("POST", f"{_VPS}/agent/exec"): [Row(WRITE, json=_EXEC)],
    ("GET", f"{_VPS}/agent/exec"): [Row(READ), Row(WRITE, query=f"?pid={PID}")],
    ("DELETE", f"{_VPS}/agent/exec"): [Row(WRITE, query=f"?pid={PID}")],
    ("PUT", f"{_VPS}/hostname"): [Row(WRITE, json={"hostname": "a.example.com"}, **_SETTINGS)],
    ("GET", f"{_VPS}/ssh-keys"): [Row(READ)],
    ("POST", f"{_VPS}/actions/reset-ssh-keys"): [Row(WRITE, json={"keyIds": [ids.ssh_key_id(1)]}, **_SETTINGS)],
    ("POST", f"{_VPS}/snapshots"): [Row(BACKUP, json={"name": "new"})],
    ("DELETE", f"{_VPS}/snapshots/<snapshot_id>"): [Row(BACKUP)],
    ("POST", f"{_VPS}/snapshots/<snapshot_id>/actions/restore"): [Row(BACKUP)],
    ("GET", "/api/v2/ssh-keys"): [Row(READ, about="account list")],
    ("POST", "/api/v2/ssh-keys"): [Row(ACCOUNT, about="self", json={"name": "a", "publicKey": NEW_V2_SSH_KEY})],
    ("PATCH", "/api/v2/ssh-keys/<key_id>"): [Row(ACCOUNT, json={"name": "b"}, **_V2_SSH_KEY)],
    ("DELETE", "/api/v2/ssh-keys/<key_id>"): [Row(ACCOUNT, **_V2_SSH_KEY)],
    # OpenStack and Virtuozzo
    ("GET", "/v2.1/servers"): [Row(READ, about="list")],
    ("GET", "/v2.1/servers/detail"): [Row(READ, about="list")],
    ("GET", _SERVER): [Row(READ)],
    ("POST", f"{_SERVER}/action"): [
        Row(POWER, json=body) for body in ({"os-start": None}, {"os-stop": None}, {"reboot": {"type": "HARD"}})
    ],
    ("GET", "/v2.1/flavors"): [Row(READ, about="list")],
    ("GET", "/v2.1/flavors/detail"): [Row(READ, about="list")],
    ("GET", "/v2.1/flavors/<flavor_id>"): [Row(READ)],
    ("GET", "/v2.1/flavors/<flavor_id>/os-extra_specs"): [Row(READ)],
    ("POST", f"{_AGENT}/commands"): [
        Row(WRITE, json={"command": {"type": "exec", "arguments": {"command": ["true"]}}})
    ],
    ("GET", f"{_AGENT}/commands"): [Row(READ)],
    ("GET", f"{_AGENT}/commands/<command_uuid>"): [Row(WRITE)],
    ("DELETE", f"{_AGENT}/commands/<command_uuid>"): [Row(WRITE)],
    ("GET", f"{_AGENT}/file-read"): [Row(WRITE, query="?path=/etc/hostname", **_SETTINGS)],
    ("POST", f"{_AGENT}/file-write"): [Row(WRITE, query="?path=/tmp/a", raw=b"a", **_SETTINGS)],
    ("GET", "/identity/v3/auth/tokens"): [Row(None, about="self", headers={"X-Subject-Token": "<token>"})],
    ("DELETE", "/identity/v3/auth/tokens"): [Row(None, about="self", headers={"X-Subject-Token": "<token>"})],
}

PUBLIC = {
    ("POST", "/identity/v3/auth/tokens"),  # a login; the key is in the body
    *(("GET", path) for path in ("/", "/docs", "/docs/assets/<name>", "/docs/errors", "/healthz", "/readyz")),
    *(("GET", f"/openapi/{face}.json") for face in ("v1", "v2", "openstack")),
    *(("GET", path) for path in ("/v2.1", "/v2.1/", "/identity", "/identity/", "/identity/v3", "/identity/v3/")),
}
"""Routes that are open to all: they tell nothing of anybody."""
