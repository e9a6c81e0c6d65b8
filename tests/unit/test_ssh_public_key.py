"""Public SSH keys are read as OpenSSH writes them, and nothing that OpenSSH couldn't use is taken for one."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ssh_public_key import LONGEST_CHARS, PublicKey

KEYS = json.loads((Path(__file__).parents[1] / "data" / "ssh_public_keys.json").read_text())
"""Keys that ssh-keygen made, except the two of hardware tokens, and what it says of them."""
ED25519 = next(key["line"] for key in KEYS if key["family"] == "ed25519")
BLOB = base64.b64decode(ED25519.split()[1])


def line(name: str, *parts: bytes) -> str:
    blob = b"".join(len(part).to_bytes(4) + part for part in (name.encode(), *parts))
    return f"{name} {base64.b64encode(blob).decode()}"


@pytest.mark.parametrize("known", KEYS, ids=lambda known: known["line"][:30])
def test_key_is_read_and_fingerprinted_as_openssh_does(known: dict[str, Any]):
    key = PublicKey.read(known["line"])
    assert (key.line, key.family, key.sha256, key.md5) == tuple(
        known[name] for name in ("line", "family", "sha256", "md5")
    )


def test_blanks_around_the_parts_do_not_count():
    name, text, *comment = ED25519.split(" ", 2)
    assert PublicKey.read(f"  {name}   {text}  {' '.join(comment)} \n").line == ED25519
    assert PublicKey.read(f"{name} {text}").line == f"{name} {text}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must begin with"),
        ("hello", "must begin with"),
        ("ssh-ed448 AAAA", "must begin with"),
        (f'command="rm" {ED25519}', "must begin with"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "private"),
        (f"{ED25519}\n{ED25519}", "one line"),
        (f"{ED25519}\x00", "one line"),
        (f"{ED25519} \ud800", "one line"),
        (f"{ED25519} {'x' * LONGEST_CHARS}", "one line"),
        ("ssh-ed25519", "is damaged"),
        ("ssh-ed25519 !!!!", "not base64"),
        ("ssh-ed25519 é", "not base64"),
        (f"ssh-rsa {base64.b64encode(BLOB).decode()}", "no such key"),
        (f"ssh-ed25519 {base64.b64encode(BLOB[:-1]).decode()}", "no such key"),
        (f"ssh-ed25519 {base64.b64encode(BLOB + b'x').decode()}", "no such key"),
        (line("ssh-ed25519"), "no such key"),
        (line("ssh-ed25519", b"x" * 31), "no such key"),
        (line("ssh-ed25519", b"x" * 32, b""), "no such key"),
        (line("ssh-rsa", b"\x01\x00\x01", b"\x7f" * 100), "no such key"),
        (line("ssh-rsa", b"\x7f" * 200), "no such key"),
        (line("ssh-dss", b"p", b"q", b"g"), "no such key"),
        (line("ssh-dss", b"p", b"q", b"g", b""), "no such key"),
        (line("ecdsa-sha2-nistp256", b"nistp256"), "no such key"),
        (line("ecdsa-sha2-nistp256", b"nistp384", b"\x04" + b"x" * 64), "no such key"),
        (line("ecdsa-sha2-nistp256", b"nistp256", b"\x02" + b"x" * 32), "no such key"),
        (line("sk-ssh-ed25519@openssh.com", b"x" * 32), "no such key"),
        (line("sk-ssh-ed25519@openssh.com", b"ssh:"), "no such key"),
        (line("sk-ecdsa-sha2-nistp256@openssh.com", b"ssh:"), "no such key"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_public_key_is_refused_without_being_repeated(text: str, words: str):
    with pytest.raises(ValueError, match=words) as refusal:
        PublicKey.read(text)
    assert not text[12:] or text[12:] not in str(refusal.value)


@given(cut=st.integers(0, len(BLOB) - 1))
def test_cut_key_is_refused(cut: int):
    with pytest.raises(ValueError, match="damaged"):
        PublicKey.read(f"ssh-ed25519 {base64.b64encode(BLOB[:cut]).decode()}")


@given(blob=st.binary(max_size=200))
def test_any_bytes_are_a_key_or_refused(blob: bytes):
    for name in ("ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256", "sk-ecdsa-sha2-nistp256@openssh.com"):
        with pytest.raises(ValueError, match="damaged"):
            PublicKey.read(f"{name} {base64.b64encode(line(name).encode() + blob).decode()}")


@given(comment=st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20))
def test_what_is_read_is_read_again_the_same(comment: str):
    once = PublicKey.read(f"{ED25519} {comment}")
    assert PublicKey.read(once.line) == once
