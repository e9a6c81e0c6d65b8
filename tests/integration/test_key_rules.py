"""Whatever a key makes or manages can do no more than itself: held against what keys can really do, action by action.

The rules compare limits. The oracle here knows nothing of that: it asks of two keys, for one action after the other,
whether the one may do what the other one may not.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from app.access import Principal, Scope, issue_key
from app.core.errors import ForbiddenError, NotFoundError
from app.core.records import ApiKey
from app.core.store import Store, keys
from app.keys import Keys, KeySettings, NewKey
from tests.conftest import RedisServer

NOW = datetime(2026, 2, 10, tzinfo=UTC)
ACCOUNTS = ("acme", "other")
VMIDS = (1, 2, 3)
COMMANDS = ("uptime", "/opt/deploy.sh *", "df -h")
NETWORKS = ("0.0.0.0/0", "192.0.2.0/30", "192.0.2.0/31", "192.0.2.2/31", "192.0.2.1/32", "2001:db8::/32", "::/0")
ADDRESSES = ("192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1", "2001:db8::1", "::1")
INSIDE = {
    (address, network) for address in ADDRESSES for network in NETWORKS if ip_address(address) in ip_network(network)
}
MOMENTS = tuple(NOW + timedelta(days=days) for days in (0, 5, 15, 25, 100_000))
ACTIONS = tuple(itertools.product(Scope, ACCOUNTS, VMIDS, ADDRESSES, (*COMMANDS, "rm -r /"), MOMENTS))

some_scopes = st.lists(st.sampled_from(list(Scope)), min_size=1, unique=True).map(tuple)
some_vmids = st.lists(st.sampled_from(VMIDS), max_size=2, unique=True).map(tuple)
some_networks = st.lists(st.sampled_from(NETWORKS), max_size=2, unique=True).map(tuple)
some_commands = st.lists(st.sampled_from(COMMANDS), max_size=2, unique=True).map(tuple)
some_days = st.none() | st.sampled_from([10, 20])
limits = {"allowed_vmids": some_vmids, "allowed_ips": some_networks, "allowed_commands": some_commands}
some_limits = st.fixed_dictionaries({}, optional=limits)
some_facts = st.fixed_dictionaries({"account": st.sampled_from(ACCOUNTS), "scopes": some_scopes, "days": some_days})
wishes = st.builds(
    lambda facts, limited: NewKey(name="wish", **facts, **limited),
    st.fixed_dictionaries({
        "scopes": some_scopes,
        "expires_in_days": some_days,
        "account": st.none() | st.sampled_from(ACCOUNTS),
    }),
    some_limits,
)
changes = st.builds(
    lambda scopes, is_active, limited: KeySettings(name="changed", scopes=scopes, is_active=is_active, **limited),
    some_scopes,
    st.booleans(),
    some_limits,
)


def make_key(facts: dict[str, Any], limited: dict[str, Any]) -> ApiKey:
    days = facts["days"]
    expires_at = None if days is None else NOW + timedelta(days=days)
    return replace(issue_key(facts["account"], "k", facts["scopes"], NOW, expires_at)[0], **limited)


some_keys = st.builds(make_key, some_facts, some_limits)


def may(key: ApiKey, action: tuple[Scope, str, int, str, str, datetime]) -> bool:
    """Tell whether a key that is switched on may do a thing, in the plainest words."""
    scope, account, vmid, address, command, at = action
    if scope not in key.scopes:
        return False
    if account != key.account and "admin" not in key.scopes:
        return False
    if key.allowed_vmids and vmid not in key.allowed_vmids:
        return False
    if key.allowed_ips and not any((address, network) in INSIDE for network in key.allowed_ips):
        return False
    if key.allowed_commands and command not in key.allowed_commands:
        return False
    return key.expires_at is None or at < key.expires_at


def can_do_more(key: ApiKey, than: ApiKey) -> bool:
    return any(may(key, action) and not may(than, action) for action in ACTIONS)


@pytest.fixture(scope="module")
def store(redis_server: RedisServer) -> Iterator[Store]:
    with redis_server.client() as client:
        client.flushall()
        yield Store(client)


def stored(store: Store, key: ApiKey) -> ApiKey:
    store.run(keys.save(key))
    return key


def read(store: Store, key_id: str) -> ApiKey:
    found = store.run(keys.find(key_id))
    assert found is not None
    return found


def outcome(act: Callable[[], Any]) -> Any:
    """Do something; tell what it gave, or the error that refused it."""
    try:
        return act()
    except (ForbiddenError, NotFoundError) as exc:
        return exc


bounded = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@bounded
@given(maker=some_keys, wanted=wishes)
def test_what_a_key_makes_can_do_no_more_than_itself(store: Store, maker: ApiKey, wanted: NewKey):
    made = outcome(lambda: Keys(store, lambda: NOW).create(Principal.of(maker), wanted))
    event("refused" if isinstance(made, ForbiddenError) else "made")
    if isinstance(made, ForbiddenError):
        return
    key, secret = made
    assert read(store, key.id) == key
    assert not can_do_more(key, maker)
    assert key.created_by == maker.id
    assert key.id in secret


@bounded
@given(maker=some_keys, wanted=wishes)
def test_what_lies_within_a_key_can_be_made_by_it(store: Store, maker: ApiKey, wanted: NewKey):
    """The rules aren't kept by refusing everything: what is cut to its maker's measure is always made."""
    fitting = replace(
        wanted,
        account=None,
        expires_in_days=None,
        scopes=tuple(scope for scope in wanted.scopes if scope in maker.scopes) or maker.scopes,
        allowed_vmids=tuple(set(wanted.allowed_vmids) & set(maker.allowed_vmids or wanted.allowed_vmids)),
        allowed_ips=maker.allowed_ips[:1] or wanted.allowed_ips,
        allowed_commands=maker.allowed_commands[:1] or wanted.allowed_commands,
    )
    key, _ = Keys(store, lambda: NOW).create(Principal.of(maker), fitting)
    assert (key.account, key.expires_at) == (maker.account, maker.expires_at)
    assert not can_do_more(key, maker)


@bounded
@given(manager=some_keys, target=some_keys, settings_=changes)
def test_what_a_key_changes_could_and_can_do_no_more_than_itself(
    store: Store, manager: ApiKey, target: ApiKey, settings_: KeySettings
):
    stored(store, target)
    answer = outcome(lambda: Keys(store, lambda: NOW).update(Principal.of(manager), target.id, settings_))
    event("changed" if isinstance(answer, ApiKey) else type(answer).__name__)
    if isinstance(answer, ApiKey):
        assert not can_do_more(target, manager)
        assert not can_do_more(read(store, target.id), manager)
        assert read(store, target.id).secret_sha256 == target.secret_sha256
    else:
        assert read(store, target.id) == target


@bounded
@given(manager=some_keys, target=some_keys, is_roll=st.booleans())
def test_only_what_can_do_no_more_is_rolled_or_deleted(store: Store, *, manager: ApiKey, target: ApiKey, is_roll: bool):
    stored(store, target)
    rules = Keys(store, lambda: NOW)
    act = rules.roll if is_roll else rules.delete
    answer = outcome(lambda: act(Principal.of(manager), target.id))
    event(type(answer).__name__)
    after = read(store, target.id)
    if isinstance(answer, (ForbiddenError, NotFoundError)):
        assert after == target
        assert target.account != manager.account or can_do_more(target, manager) or is_cut_finer(target, manager)
    else:
        assert not can_do_more(target, manager)
        assert (after.revoked_at is None, after.secret_sha256 != target.secret_sha256) == (is_roll, is_roll)


def is_cut_finer(target: ApiKey, manager: ApiKey) -> bool:
    """Tell whether a key without a limit could pass for one with it, since the few things here are all there is."""
    return any(
        getattr(manager, name) and (not getattr(target, name) or name == "allowed_ips") for name in limits
    )  # two halves of a network make a whole one


@bounded
@given(viewer=some_keys, others=st.lists(some_keys, max_size=4))
def test_a_limited_key_sees_only_what_can_do_no_more(store: Store, viewer: ApiKey, others: list[ApiKey]):
    for key in others:
        stored(store, key)
    shown = Keys(store, lambda: NOW).list_seen(Principal.of(viewer))
    if "admin" not in viewer.scopes:
        assert {key.account for key in shown} <= {viewer.account}
    if any(getattr(viewer, name) for name in limits):
        assert not any(can_do_more(key, viewer) for key in shown)
    else:
        mine = {key.id for key in others if "admin" in viewer.scopes or key.account == viewer.account}
        assert mine <= {key.id for key in shown}
    for key in others:
        store.run(keys.replace(key, replace(key, revoked_at=NOW)))


def test_a_key_may_always_roll_and_delete_itself(store: Store):
    for key in (make_key({"account": "acme", "scopes": (Scope.WRITE_ACCOUNT,), "days": 10}, {}),):
        for limited in ({}, {"allowed_vmids": (1,), "allowed_ips": ("::/0",), "allowed_commands": ("uptime",)}):
            own = stored(store, replace(key, **limited))
            rules, principal = Keys(store, lambda: NOW), Principal.of(own)
            rolled, secret = rules.roll(principal, own.id)
            assert own.id in secret
            assert replace(rolled, secret_sha256=own.secret_sha256) == own
            rules.delete(principal, own.id)
            with pytest.raises(NotFoundError):
                rules.delete(principal, own.id)


def test_a_weak_key_that_rolls_while_its_target_is_made_stronger_gets_nothing(store: Store):
    """The judgement is about the key that is changed, not about the one that was there when it began."""
    weak = stored(store, make_key({"account": "acme", "scopes": (Scope.READ_VM,), "days": None}, {}))
    target = stored(store, make_key({"account": "acme", "scopes": (Scope.READ_VM,), "days": None}, {}))

    class Interrupted(Store):
        """Lets somebody else in just before the first change."""

        left = 1

        def run(self, call: Any) -> Any:
            if self.left and call.args[3] == target.id and len(call.args) > 5:
                self.left = 0
                strong = replace(target, scopes=(Scope.READ_VM, Scope.WRITE_VM))
                assert store.run(keys.replace(target, strong))
            return super().run(call)

    interrupted = Interrupted(store._client)
    with pytest.raises(ForbiddenError, match="write:vm"):
        Keys(interrupted, lambda: NOW).roll(Principal.of(weak), target.id)
    assert interrupted.left == 0
    assert read(store, target.id).secret_sha256 == target.secret_sha256
