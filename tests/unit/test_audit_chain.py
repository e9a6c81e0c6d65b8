"""The chain of the audit trail: one text for one entry, one hash for one text, and no tampering that isn't found."""

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import audit_chain
from app.audit_chain import Damage, Finding, Seal, Verifier, canonical
from app.core.store.audit import NO_HASH, Head, Link
from tests.audit_trail import TAMPERINGS

SEALS = [Seal(), Seal("a secret")]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FACTS = st.dictionaries(st.text().filter(lambda name: name not in {"seq", "prev", "hash"}), VALUES, max_size=4)

Trail = tuple[list[Link], Head]


def make_trail(seal: Seal, count: int, *, kept: int = 1000) -> Trail:
    links: list[Link] = []
    head = Head()
    for number in range(count):
        facts = {"requestId": f"r{number}", "who": {"keyId": "k", "account": "acme"}, "what": {"vmid": 10000 + number}}
        new, head = seal.link(head, [facts], max_entries=kept)
        links += new
    return links[-kept:], head


def find(seal: Seal, links: list[Link], head: Head | None, *, first: int | None = None) -> tuple[Finding, ...]:
    verifier = Verifier(seal, head.first if head else first)
    verifier.follow_all(links)
    return verifier.end(head)


def kinds(findings: tuple[Finding, ...]) -> list[tuple[int, int, Damage]]:
    return [(finding.first, finding.last, finding.damage) for finding in findings]


@given(FACTS)
def test_an_entry_has_one_text_whatever_the_order_of_its_members(facts: dict[str, object]):
    text = canonical(facts)
    assert canonical(dict(reversed(facts.items()))) == text == canonical(json.loads(text))
    assert text.isascii()


@pytest.mark.parametrize("seal", SEALS)
@given(entries=st.lists(FACTS, max_size=5), kept=st.integers(1, 4))
def test_what_was_written_is_whole_and_says_what_it_was_told(seal: Seal, entries: list[dict[str, object]], kept: int):
    links, head = seal.link(Head(), entries, max_entries=kept)
    assert find(seal, list(links[-kept:]), head) == ()
    for seq, (facts, link) in enumerate(zip(entries, links, strict=True), 1):
        entry = audit_chain.read(link)
        assert {name: entry[name] for name in facts} == facts
        assert (entry["seq"], entry["hash"]) == (seq, link.hash)
        assert entry["prev"] == (links[seq - 2].hash if seq > 1 else NO_HASH)
        assert audit_chain.load(audit_chain.dump(link)) == link


@pytest.mark.parametrize("seal", SEALS)
def test_entries_that_were_written_one_by_one_are_those_that_were_written_together(seal: Seal):
    entries = [{"requestId": str(number)} for number in range(5)]
    together, head = seal.link(Head(), entries, max_entries=3)
    alone, at = [], Head()
    for facts in entries:
        new, at = seal.link(at, [facts], max_entries=3)
        alone += new
    assert (tuple(alone), at) == (together, head)
    assert head.first == 3


def test_a_secret_makes_other_hashes_and_is_needed_to_verify():
    (plain, _), (links, head) = make_trail(Seal(), 3), make_trail(Seal("a secret"), 3)
    assert not {link.hash for link in plain} & {link.hash for link in links}
    assert find(Seal("a secret"), links, head) == ()
    for wrong in (Seal(), Seal("another")):
        assert {finding.damage for finding in find(wrong, links, head)} == {Damage.CHANGED}


def test_who_can_write_the_store_and_has_no_secret_makes_no_chain_that_counts():
    seal, forger = Seal("a secret"), Seal()
    links, head = make_trail(seal, 5)
    forged, forged_head = forger.link(Head(), [{"requestId": "x"}] * 5, max_entries=1000)
    assert find(seal, list(forged), forged_head)
    shorter = forger.seal_of(4, links[3].hash, 1)
    assert find(seal, links[:4], Head(4, links[3].hash, 1, shorter)) != ()
    assert find(seal, links[1:], replace(head, first=2)) != ()


# --- each kind of damage is told by its name --------------------------------------------------------------------------


def changed(link: Link) -> Link:
    return replace(link, text=link.text.replace("acme", "evil"))


@pytest.mark.parametrize("seal", SEALS)
@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (lambda links: [*links[:4], changed(links[4]), *links[5:]], [(5, 5, Damage.CHANGED)]),
        (lambda links: [changed(links[0]), *links[1:]], [(1, 1, Damage.CHANGED)]),
        (lambda links: [*links[:-1], changed(links[-1])], [(10, 10, Damage.CHANGED)]),
        (lambda links: [*links[:4], replace(links[4], hash=NO_HASH), *links[5:]], [(5, 5, Damage.CHANGED)]),
        (lambda links: [*links[:4], Link("no JSON", ""), *links[5:]], [(5, 5, Damage.CHANGED)]),
        (lambda links: [*links[:4], Link("[" * 100_000, ""), *links[5:]], [(5, 5, Damage.CHANGED)]),
        (lambda links: [*links[:4], *links[7:]], [(5, 7, Damage.REMOVED)]),
        (lambda links: links[1:], [(1, 1, Damage.REMOVED)]),
        (lambda links: links[:-2], [(9, 10, Damage.REMOVED)]),
        (lambda _: [], [(1, 10, Damage.REMOVED)]),
        (lambda links: [*links[:4], links[2], *links[4:]], [(3, 3, Damage.ADDED)]),
        (lambda links: [*links, links[-1]], [(10, 10, Damage.ADDED)]),
        (lambda links: [*links[:4], links[5], links[4], *links[6:]], [(5, 5, Damage.ORDER)]),
        (lambda links: [*links[1:], links[0]], [(1, 1, Damage.ORDER)]),
    ],
)
def test_damage_is_told(seal: Seal, tamper: Callable[[list[Link]], list[Link]], told: list[tuple[int, int, Damage]]):
    links, head = make_trail(seal, 10)
    assert kinds(find(seal, tamper(links), head)) == told


def test_an_entry_that_was_made_up_with_a_right_hash_of_its_own_is_found():
    seal = Seal()
    links, head = make_trail(seal, 5)
    made_up, _ = seal.link(Head(2, links[1].hash, 1), [{"requestId": "made up"}], max_entries=1000)
    assert kinds(find(seal, [*links[:2], *made_up, *links[3:]], head)) == [(3, 4, Damage.CHANGED)]
    added, _ = seal.link(head, [{"requestId": "made up"}], max_entries=1000)
    assert kinds(find(seal, [*links, *added], head)) == [(6, 6, Damage.ADDED)]


def test_a_head_that_was_moved_or_is_gone_is_found():
    seal = Seal()
    links, head = make_trail(seal, 5)
    for wrong in (replace(head, seal=""), replace(head, first=2), replace(head, hash=NO_HASH), Head()):
        assert find(seal, links, wrong), wrong


def test_a_file_may_begin_anywhere_and_is_whole_from_there_on():
    seal = Seal("a secret")
    links, _ = make_trail(seal, 10)
    lines = [audit_chain.dump(link) for link in links]
    assert find(seal, [audit_chain.load(line) for line in lines[4:]], None) == ()
    for wrong in (lines[4].replace("acme", "evil"), lines[4].replace(":", ": "), f"{lines[4]} ", "{}", ""):
        found = find(seal, [audit_chain.load(line) for line in (lines[3], wrong, lines[5])], None)
        assert kinds(found) == [(5, 5, Damage.CHANGED)], wrong


# --- any tampering ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seal", SEALS)
@pytest.mark.parametrize("tamper", TAMPERINGS)
@settings(max_examples=100, deadline=None)
@given(draw=st.randoms(use_true_random=False), count=st.integers(2, 30), kept=st.integers(2, 30))
def test_every_tampering_is_found(
    seal: Seal, tamper: Callable[[list[Link], random.Random], list[Link]], draw: random.Random, count: int, kept: int
):
    links, head = make_trail(seal, count, kept=kept)
    assert find(seal, links, head) == ()
    assert find(seal, tamper(links, draw), head) != ()
