"""How long the store keeps what may be secret: what is to be run until it has started, output as long as its VM."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import redis

from app.core.records import Command, CommandEnd, CommandRequest, CommandStart, CommandState, Vm, VmStatus
from app.core.store import Store, commands, vms
from tests.canaries import Finder
from tests.redis_contents import everything_in

NOW = datetime(2026, 2, 10, tzinfo=UTC)
VM = Vm(
    vmid=10000,
    name="web",
    account="acme",
    node="n1",
    startable=True,
    status=VmStatus.RUNNING,
    running=True,
    agent_available=True,
    agent_message="",
    seen_at=NOW,
)
COMMAND = Command(
    id="c1", vmid=10000, account="acme", node="n1", state=CommandState.QUEUED, created_at=NOW, deliver_by=NOW
)
ENDS = [CommandState.FAILED, CommandState.EXPIRED, CommandState.CANCELLED, CommandState.UNKNOWN]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis) -> Store:
    store = Store(client)
    assert store.run(vms.publish(VM)) is None
    return store


@pytest.fixture
def finder() -> Finder:
    return Finder()


def create(store: Store, finder: Finder, command: Command = COMMAND, within_s: float = 10) -> None:
    planted = [finder.plant(f"{kind} of {command.id}") for kind in ("line", "stdin", "env")]
    request = CommandRequest(line=planted[0], stdin=planted[1], env={"A": planted[2]})
    assert store.run(commands.create(command, request, deliver_within_s=within_s))


class TestRequests:
    def test_it_expires_by_itself_but_not_before_nobody_may_claim_it(
        self, store: Store, client: redis.Redis, finder: Finder
    ) -> None:
        create(store, finder, within_s=2.5)
        assert 2500 < client.pttl("ownup:cmd:c1:request") <= 4000

    def test_it_goes_as_soon_as_the_command_runs(self, store: Store, client: redis.Redis, finder: Finder) -> None:
        create(store, finder)
        claim = store.run(commands.claim("c1"))
        assert claim.request.stdin is not None
        assert finder.search("claimed", everything_in(client)), "whoever has claimed it may have to ask again"
        store.run(commands.start("c1", CommandStart(pid=7, started_at=NOW)))
        assert finder.search("running", everything_in(client)) == []

    @pytest.mark.parametrize("state", ENDS)
    def test_it_goes_with_every_end(
        self, store: Store, client: redis.Redis, finder: Finder, state: CommandState
    ) -> None:
        create(store, finder)
        store.run(commands.end("c1", CommandEnd(state=state, ended_at=NOW), ttl_s=60))
        assert finder.search("ended", everything_in(client)) == []

    def test_the_start_of_a_file_keeps_nothing_either(self, store: Store, client: redis.Redis) -> None:
        path = CommandRequest(path="/root/f")
        assert store.run(commands.create(COMMAND, path, deliver_within_s=10))
        store.run(commands.claim("c1"))
        store.run(commands.begin("c1", NOW))
        assert not client.exists("ownup:cmd:c1:request")

    def test_a_claim_that_is_made_again_too_late_finds_nothing_to_send(
        self, store: Store, client: redis.Redis, finder: Finder
    ) -> None:
        create(store, finder)
        call = commands.claim("c1")
        assert not store.run(call).late
        client.hset("ownup:cmd:c1", "deliver_by", "1")
        client.delete("ownup:cmd:c1:request")
        again = store.run(call)
        assert again.late
        assert again.request == CommandRequest()


class TestOutputGoesWithItsVm:
    @pytest.mark.parametrize("size_bytes", [1, 300_000])
    def test_of_commands_that_have_ended(self, store: Store, client: redis.Redis, finder: Finder, size_bytes: int):
        end = started(store, finder, size_bytes)
        for call in commands.end_in_parts("c1", end, ttl_s=60):
            store.run(call)
        assert {finding.name for finding in finder.search("before", everything_in(client))} == {"out", "err"}
        store.run(vms.remove(10000, "n1"))
        assert finder.search("after", everything_in(client)) == []
        assert names(client) == set()

    @pytest.mark.parametrize("size_bytes", [1, 300_000])
    def test_of_commands_whose_end_comes_later(
        self, store: Store, client: redis.Redis, finder: Finder, size_bytes: int
    ):
        end = started(store, finder, size_bytes)
        store.run(vms.remove(10000, "n1"))
        assert store.run(commands.find("c1")) is not None
        for call in commands.end_in_parts("c1", end, ttl_s=60):
            store.run(call)
        assert finder.search("after", everything_in(client)) == []
        assert names(client) == set()

    def test_of_commands_that_are_still_queued(self, store: Store, client: redis.Redis, finder: Finder):
        create(store, finder)
        store.run(vms.remove(10000, "n1"))
        store.run(commands.end("c1", CommandEnd(state=CommandState.EXPIRED, ended_at=NOW, stdout=b"x"), ttl_s=60))
        assert names(client) == set()

    def test_but_not_if_another_node_carries_it(self, store: Store, finder: Finder):
        end = started(store, finder, 1)
        store.run(commands.end("c1", end, ttl_s=60))
        store.run(vms.remove(10000, "n2"))
        assert store.run(commands.read_result(10000, 7)).result.stdout == end.stdout

    def test_and_not_that_of_other_vms(self, store: Store, finder: Finder):
        other = replace(COMMAND, id="c2", vmid=10001)
        create(store, finder, other)
        store.run(commands.start("c2", CommandStart(pid=7, started_at=NOW)))
        store.run(commands.end("c2", CommandEnd(state=CommandState.EXITED, ended_at=NOW, stdout=b"x"), ttl_s=60))
        store.run(vms.remove(10000, "n1"))
        assert store.run(commands.read_result(10001, 7)).result.stdout == b"x"

    def test_what_has_expired_leaves_no_trace(self, store: Store, client: redis.Redis, finder: Finder):
        end = started(store, finder, 1)
        store.run(commands.end("c1", end, ttl_s=60))
        client.delete("ownup:cmd:c1")
        store.run(vms.remove(10000, "n1"))
        assert not client.exists("ownup:vm:10000:commands")


def started(store: Store, finder: Finder, size_bytes: int) -> CommandEnd:
    """Start a command; answer the end that it will have."""
    create(store, finder)
    store.run(commands.claim("c1"))
    store.run(commands.start("c1", CommandStart(pid=7, started_at=NOW)))
    out, err = (finder.plant(stream).encode() for stream in ("out", "err"))
    filling = os.urandom(size_bytes)
    return CommandEnd(state=CommandState.EXITED, ended_at=NOW, stdout=out + filling, stderr=err + filling)


def names(client: redis.Redis) -> set[str]:
    return {key.decode() for key in client.scan_iter()}
