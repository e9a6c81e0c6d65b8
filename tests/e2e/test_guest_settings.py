"""Settings of a guest, in a real VM: what is set over HTTP is what the guest has then; a password is nowhere else."""

import secrets
from base64 import b64encode

import pytest
import redis
import requests

from tests.e2e.conftest import Client, Stack
from tests.redis_contents import everything_in

pytestmark = pytest.mark.timeout(240)  # one of the tests also waits for the stack to start, one for its end

ANN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann@laptop"
BOB = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBYniikuG4fEuemuKIuil8zCb9YK8jLEhvIPhBMEqg6Q bob"
SHADOW = "cut -d: -f2 /etc/shadow"
KEYS_FILE = "/root/.ssh/authorized_keys"


def hostname(client: Client, vmid: int) -> str:
    told: str = client.read(f"/api/vm/{vmid}/details")["hostname"]
    return told


def set_hostname(client: Client, vmid: int, name: str) -> dict[str, object]:
    response = client.post(f"/api/vm/{vmid}/hostname", hostname=name)
    assert response.status_code == 200, response.text
    data: dict[str, object] = response.json()["data"]
    return data


def keep(client: Client, line: str) -> str:
    """Keep an SSH key for the account, unless it does; tell its id."""
    client.post("/api/ssh-keys", name="k", public_key=line)
    return next(str(key["id"]) for key in client.read("/api/ssh-keys")["ssh_keys"] if key["key"] == line)


def test_hostname_changes_in_the_guest_and_is_kept_for_its_next_boots(client: Client, vmids: tuple[int, ...]) -> None:
    vmid, neighbour, _ = vmids
    before = client.output(vmid, "hostname").strip()
    assert hostname(client, vmid) == before
    data = set_hostname(client, vmid, "Web-7.Example.com")
    assert (data["hostname"], data["normalized"]) == ("web-7.example.com", True)
    assert client.output(vmid, "hostname; cat /etc/hostname; uname -n") == "web-7.example.com\n" * 3
    assert hostname(client, vmid) == "web-7.example.com"
    assert hostname(client, neighbour) == client.output(neighbour, "hostname").strip() != "web-7.example.com"
    assert set_hostname(client, vmid, before)["normalized"] is False


def test_hostname_that_the_guest_cannot_take_leaves_it_as_it_was(client: Client, vmid: int) -> None:
    before = client.output(vmid, "hostname; cat /etc/hostname 2>&1")
    too_long = f"{'a' * 60}.example.com"
    response = client.post(f"/api/vm/{vmid}/hostname", hostname=too_long)
    assert (response.status_code, response.json()["message"]) == (500, "Failed to change hostname")
    assert "Invalid argument" in response.json()["details"][0]["message"]
    assert client.output(vmid, "hostname; cat /etc/hostname 2>&1") == before


def test_hostname_that_cannot_be_kept_is_taken_back(client: Client, vmid: int) -> None:
    before = client.output(vmid, "mount --bind /etc /etc && mount -o remount,ro,bind /etc && hostname")
    try:
        response = client.post(f"/api/vm/{vmid}/hostname", hostname="other")
        assert (response.status_code, client.output(vmid, "hostname")) == (500, before)
        assert "Read-only" in response.json()["details"][0]["message"]
    finally:
        client.output(vmid, "umount /etc")


def test_password_is_in_the_guests_shadow_and_nowhere_else(stack: Stack, client: Client, vmid: int) -> None:
    planted = f"planted-{secrets.token_hex(16)}: with a colon, an é and 'quotes' "
    before = client.output(vmid, SHADOW).strip()
    response = client.post(f"/api/vm/{vmid}/reset-password", password=planted)
    assert response.status_code == 200, response.text
    assert response.json()["data"]["message"] == "Password reset"
    after = client.output(vmid, SHADOW).strip()
    assert after != before
    assert after.startswith("$6$")
    with redis.Redis.from_url(stack.redis_url) as store:
        stored = everything_in(store)
    mark = planted.partition(":")[0]
    coded = b64encode(planted.encode()).decode()
    for place in (stored.decode(errors="replace"), stack.printed(), stack.console(vmid), response.text):
        assert mark not in place
        assert coded not in place
    # Only now may it go through a command, to see that the hash is of this password and no other.
    salt = after.split("$")[2]
    hashed = client.post(
        f"/api/vm/{vmid}/agent/exec", command=f"mkpasswd -m sha512 -P 0 -S {salt}", stdin=f"{planted}\n", wait=20
    )
    assert hashed.json()["data"]["stdout"].strip() == after


def test_second_password_replaces_the_first(client: Client, vmid: int) -> None:
    hashes = set()
    for password in ("one", "another", "one"):
        assert client.post(f"/api/vm/{vmid}/reset-password", password=password).status_code == 200
        hashes.add(client.output(vmid, SHADOW))
    assert len(hashes) == 3


def test_refused_password_says_why_and_changes_nothing(client: Client, vmid: int) -> None:
    before = client.output(vmid, SHADOW)
    client.output(vmid, "mount --bind /bin/false /bin/chpasswd")
    try:
        response = client.post(f"/api/vm/{vmid}/reset-password", password="planted")
        assert (response.status_code, response.json()["message"]) == (500, "Failed to reset password")
        assert "failed to set user password" in response.json()["details"][0]["message"]
    finally:
        client.output(vmid, "umount /bin/chpasswd")
    assert client.output(vmid, SHADOW) == before


def test_ssh_keys_are_in_the_guest_and_replace_what_was_there(client: Client, vmid: int) -> None:
    ann, bob = keep(client, ANN), keep(client, BOB)
    client.output(vmid, f"mkdir -p /root/.ssh && echo ssh-rsa OLD >{KEYS_FILE}")
    response = client.post(f"/api/vm/{vmid}/reset-ssh-keys", keyIds=[ann, bob])
    assert response.status_code == 200, response.text
    assert response.json()["data"]["keyCount"] == 2
    assert client.output(vmid, f"cat {KEYS_FILE}") == f"{ANN}\n{BOB}\n"
    assert client.output(vmid, f"stat -c %a:%U {KEYS_FILE}") == "600:root\n"
    assert client.post(f"/api/vm/{vmid}/reset-ssh-keys", keyIds=[bob]).status_code == 200
    assert client.output(vmid, f"cat {KEYS_FILE}") == f"{BOB}\n"


def test_guest_without_a_folder_for_keys_gets_one(client: Client, vmid: int) -> None:
    client.output(vmid, "rm -rf /root/.ssh")
    assert client.post(f"/api/vm/{vmid}/reset-ssh-keys", keyIds=[keep(client, ANN)]).status_code == 200
    assert client.output(vmid, f"cat {KEYS_FILE}; stat -c %a:%U /root/.ssh") == f"{ANN}\n700:root\n"


def test_what_one_face_sets_the_other_one_tells(stack: Stack, client: Client, vmid: int) -> None:
    before = hostname(client, vmid)
    vps = f"{stack.url}/api/v2/vps/{next(vm['vpsId'] for vm in client.read('/api/vm') if vm['vmid'] == vmid)}"
    with requests.Session() as http:
        http.headers["Authorization"] = f"Bearer {stack.key}"
        put = http.put(f"{vps}/hostname", json={"hostname": "App-01"}, timeout=20)
        assert (put.status_code, put.json()["hostname"], put.json()["hostnameNormalized"]) == (200, "app-01", True)
        assert hostname(client, vmid) == http.get(f"{vps}/hostname", timeout=20).json()["hostname"] == "app-01"
        client.output(vmid, "rm -rf /root/.ssh")
        assert http.get(f"{vps}/ssh-keys", timeout=20).json() == {"sshKeys": []}
        assert client.post(f"/api/vm/{vmid}/reset-ssh-keys", keyIds=[keep(client, BOB)]).status_code == 200
        (key,) = http.get(f"{vps}/ssh-keys", timeout=20).json()["sshKeys"]
        assert (key["publicKey"], key["keyType"], key["name"]) == (BOB, "ed25519", "k")
        http.post(f"{vps}/actions/reset-ssh-keys", json={"keyIds": [key["id"]]}, timeout=20).raise_for_status()
        assert http.put(f"{vps}/hostname", json={"hostname": before}, timeout=20).json()["hostname"] == before


def test_frozen_agent_has_no_hostname_and_a_change_may_be_done_or_not(
    stack: Stack, client: Client, vmids: tuple[int, ...]
) -> None:
    vmid = vmids[1]
    before = client.output(vmid, SHADOW)
    stack.freeze(vmid, "qemu-ga", thaw_after_s=12)
    assert hostname(client, vmid) is None
    response = client.post(f"/api/vm/{vmid}/reset-password", password="planted")
    assert (response.status_code, response.json()["message"]) == (500, "Failed to reset password")
    assert "may have been done" in response.json()["details"][0]["message"]
    client.wait_available(vmid)
    print("done after all:", client.output(vmid, SHADOW) != before)
