"""Snapshots in the store: QEMU's list, and the notes beside it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import redis

from app.core.clock import now
from app.core.records import Node, Snapshot
from app.core.store import Store, nodes, snapshots, vms
from app.core.store.snapshots import VmSnapshots
from tests.web import RUNNING_VM

OLD = Snapshot(name="old", taken_at=datetime(2026, 2, 9, tzinfo=UTC), includes_memory=False)
NEW = Snapshot(name="new ä", taken_at=datetime(2026, 2, 10, 1, 2, 3, 500_000, tzinfo=UTC), includes_memory=True)
KNOWN = VmSnapshots(vmid=10000, node="node-1", limit=5, snapshots=(OLD, NEW))


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    with redis.Redis.from_url(redis_url) as client:
        yield Store(client)


def beat(store: Store, node: str) -> None:
    store.run(nodes.beat(Node(name=node, worker="w", vms=1, broken_definitions=0, since=now())))


def test_what_nobody_has_told_is_not_known(store: Store) -> None:
    assert store.run(snapshots.read(10000)) is None


def test_what_is_told_is_read(store: Store) -> None:
    store.run(snapshots.publish(KNOWN))
    assert store.run(snapshots.read(10000)) == KNOWN
    unable = replace(KNOWN, obstacle="no disk", snapshots=())
    store.run(snapshots.publish(unable))
    assert store.run(snapshots.read(10000)) == unable


def test_a_note_goes_with_its_snapshot_and_is_gone_with_it(store: Store) -> None:
    store.run(snapshots.publish(KNOWN))
    store.run(snapshots.note(10000, NEW.name, "why ä\n", "k1"))
    store.run(snapshots.note(10000, OLD.name, None, None))
    noted = replace(NEW, description="why ä\n", key_id="k1")
    assert store.run(snapshots.read(10000)) == replace(KNOWN, snapshots=(OLD, noted))
    store.run(snapshots.publish(replace(KNOWN, snapshots=(OLD,))))
    store.run(snapshots.publish(KNOWN))
    assert store.run(snapshots.read(10000)) == KNOWN


def test_another_living_nodes_vm_is_not_told_of(store: Store) -> None:
    beat(store, "node-1")
    store.run(vms.publish(RUNNING_VM))
    store.run(snapshots.publish(KNOWN))
    store.run(snapshots.publish(replace(KNOWN, node="node-2", snapshots=())))
    assert store.run(snapshots.read(10000)) == KNOWN


def test_a_dead_nodes_vm_may_be_anothers(store: Store) -> None:
    store.run(vms.publish(RUNNING_VM))
    moved = replace(KNOWN, node="node-2")
    store.run(snapshots.publish(moved))
    assert store.run(snapshots.read(10000)) == moved


def test_a_vm_that_comes_back_has_its_notes_again(store: Store) -> None:
    store.run(snapshots.publish(KNOWN))
    store.run(snapshots.note(10000, OLD.name, "why", "k1"))
    store.run(snapshots.leave(10000, "node-1"))
    assert store.run(snapshots.read(10000)) is None
    store.run(snapshots.publish(KNOWN))
    found = store.run(snapshots.read(10000))
    assert found is not None
    assert found.snapshots[0].description == "why"


def test_a_node_that_loses_a_vm_to_another_takes_nothing_with_it(store: Store) -> None:
    store.run(vms.publish(replace(RUNNING_VM, node="node-2")))
    moved = replace(KNOWN, node="node-2")
    store.run(snapshots.publish(moved))
    store.run(snapshots.leave(10000, "node-1"))
    assert store.run(snapshots.read(10000)) == moved
