"""What tests of the audit trail share: its entries, what ``ownup audit`` says, and ways to tamper with it."""

import json
import random
from dataclasses import replace
from typing import Any

import redis
from click.testing import CliRunner, Result

from app.audit_chain import Seal, canonical
from app.cli import main
from app.core.store.audit import NO_HASH, Link


def entries(client: redis.Redis) -> list[dict[str, Any]]:
    """Read all entries, oldest first."""
    return [json.loads(fields[b"entry"]) for _, fields in client.xrange("ownup:audit")]


def request_ids(client: redis.Redis) -> list[str]:
    return [entry["requestId"] for entry in entries(client)]


def ownup_audit(redis_url: str, *args: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["audit", *args], env={"REDIS_URL": redis_url, **environ})


def assert_whole(redis_url: str, **environ: str) -> str:
    """Have the chain verified; tell what was said."""
    result = ownup_audit(redis_url, "verify", **environ)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


# --- tampering --------------------------------------------------------------------------------------------------------


def tamper_member(links: list[Link], draw: random.Random) -> list[Link]:
    """Give any member of any entry, however deep, another value; or its hash."""
    at = draw.randrange(len(links))
    facts = json.loads(links[at].text)
    name = draw.choice([*facts, "hash"])
    if name == "hash":
        return [*links[:at], replace(links[at], hash=f"{draw.getrandbits(256):064x}"), *links[at + 1 :]]
    inner = facts[name]
    if isinstance(inner, dict):
        facts[name] = inner | {draw.choice(list(inner)): "other"}
    else:
        facts[name] = inner + draw.choice([1, -1]) if isinstance(inner, int) else f"{inner}x"
    return [*links[:at], replace(links[at], text=canonical(facts)), *links[at + 1 :]]


def remove(links: list[Link], draw: random.Random) -> list[Link]:
    at = draw.randrange(len(links))
    return links[:at] + links[at + draw.randint(1, 3) :]


def swap(links: list[Link], draw: random.Random) -> list[Link]:
    one, other = sorted(draw.sample(range(len(links)), 2))
    return [*links[:one], links[other], *links[one + 1 : other], links[one], *links[other + 1 :]]


def duplicate(links: list[Link], draw: random.Random) -> list[Link]:
    at = draw.randrange(len(links) + 1)
    return [*links[:at], draw.choice(links), *links[at:]]


def insert(links: list[Link], draw: random.Random) -> list[Link]:
    """Put an entry in that follows the one before it, with the hash it has without a secret."""
    at = draw.randrange(len(links) + 1)
    prev = links[at - 1].hash if at else NO_HASH
    seq = json.loads(links[min(at, len(links) - 1)].text)["seq"] + (at == len(links))
    text = canonical({"requestId": "made up", "seq": seq, "prev": prev})
    return [*links[:at], Link(text, Seal().hash(text)), *links[at:]]


TAMPERINGS = [tamper_member, remove, swap, duplicate, insert]
