"""Every operation of the store against a real Redis, from threads and from an event loop."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgpack  # type: ignore[import-untyped]
import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.core.errors import IllegalMoveError, NotFoundError, StoreUnavailableError
from app.core.records import (
    COMMAND_MOVES,
    ApiKey,
    Command,
    CommandEnd,
    CommandRequest,
    CommandStart,
    CommandState,
    Job,
    JobKind,
    JobState,
    Node,
    Vm,
    VmStatus,
)
from app.core.store import (
    WAKE_CHANNEL,
    AsyncStore,
    Call,
    Sight,
    Store,
    all_of,
    commands,
    idempotency,
    jobs,
    keys,
    nodes,
    ping,
    vms,
)
from app.core.store import time as clock
from app.core.store.commands import Claim, Result
from app.core.store.idempotency import Reservation
from app.core.store.nodes import Beat
from app.core.store.vms import Reach, VmView
from tests.conftest import RedisServer
from tests.redis_counts import commands_served

NOW = datetime(2026, 2, 10, 12, 30, 15, 123456, tzinfo=UTC)
ACME = Sight("acme")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
VM = Vm(
    vmid=10000,
    name="wéb",
    account="acme",
    node="n1",
    startable=True,
    status=VmStatus.RUNNING,
    running=True,
    agent_available=False,
    agent_message="agent not connected",
    seen_at=NOW,
    cpu=0.1,
    netin_bytes=2**63,
)
NODE = Node(name="n1", worker="w1", vms=2, broken_definitions=1, since=NOW)
COMMAND = Command(
    id="c1",
    vmid=10000,
    account="acme",
    node="n1",
    state=CommandState.QUEUED,
    created_at=NOW,
    deliver_by=NOW,
    key_id="k1",
    request_id="r1",
)
JOB = Job(
    id="start-10000-1",
    vmid=10000,
    account="acme",
    node="n1",
    kind=JobKind.START,
    state=JobState.QUEUED,
    created_at=NOW,
    start_by=NOW,
)
KEY = ApiKey(id="k1", secret_sha256="ab", account="acme", name="ci", scopes=("read:vm", "write:vm"), created_at=NOW)
LINE = CommandRequest(line="printf 'ä\n' | cat")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client)


def ended(state: CommandState, **facts: object) -> CommandEnd:
    return CommandEnd(**({"state": state, "ended_at": NOW} | facts))  # type: ignore[arg-type]


def create(store: Store, command: Command = COMMAND, *, deliver_within_s: float = 10) -> None:
    store.run(commands.create(command, LINE, deliver_within_s=deliver_within_s))


def start(store: Store, command_id: str = "c1", pid: int = 42) -> None:
    store.run(commands.start(command_id, CommandStart(pid=pid, started_at=NOW, agent_identity="life-1")))


class TestCommands:
    def test_created_command_is_read_back_with_a_deadline_by_redis_clock(self, store: Store, client: redis.Redis):
        create(store, deliver_within_s=10)
        found = store.run(commands.find("c1"))
        seconds, micros = client.time()
        assert found is not None
        assert replace(found, deliver_by=NOW) == COMMAND
        assert abs(found.deliver_by.timestamp() - (seconds + micros / 1e6 + 10)) < 2
        assert store.run(commands.list_open("n1")) == ("c1",)

    def test_unknown_command_is_none(self, store: Store):
        assert store.run(commands.find("c1")) is None
        assert store.run(commands.claim("c1")) is None
        assert store.run(commands.read_result(10000, 42)).result is None
        assert store.run(commands.is_undelivered("c1")) is False

    def test_command_is_claimed_once(self, store: Store):
        create(store)
        claim = store.run(commands.claim("c1"))
        assert isinstance(claim, Claim)
        assert claim.request == LINE
        assert claim.command.sent_at is not None
        assert claim.command.state is CommandState.QUEUED
        assert store.run(commands.claim("c1")) is None

    def test_command_past_its_deadline_is_never_claimed(self, store: Store):
        create(store, deliver_within_s=-1)
        assert store.run(commands.claim("c1")) is None
        assert store.run(commands.find("c1")).sent_at is None
        assert store.run(commands.is_undelivered("c1")) is True

    def test_only_an_unclaimed_late_command_is_undelivered(self, store: Store):
        create(store, deliver_within_s=0.2)
        assert store.run(commands.is_undelivered("c1")) is False
        store.run(commands.claim("c1"))
        deadline = time.time() + 0.3
        while time.time() < deadline:
            assert store.run(commands.is_undelivered("c1")) is False

    def test_started_command_is_found_by_pid_and_on_its_vm(self, store: Store):
        create(store)
        store.run(vms.publish(VM))
        start(store)
        result = store.run(commands.read_result(10000, 42)).result
        assert isinstance(result, Result)
        assert (result.stdout, result.stderr) == (b"", b"")
        assert result.command.state is CommandState.RUNNING
        assert (result.command.pid, result.command.started_at, result.command.agent_identity) == (42, NOW, "life-1")
        assert store.run(vms.read(10000)).last_pid == 42
        assert store.run(commands.read_result(10001, 42)).result is None
        assert store.run(commands.list_open("n1")) == ("c1",)

    def test_bulky_output_goes_ahead_and_is_fetched_apart(self, store: Store, client: redis.Redis):
        create(store)
        start(store)
        out, err = secrets.token_bytes(200_000), secrets.token_bytes(100_000)
        end = ended(CommandState.EXITED, exit_code=0, stdout=out, stderr=err)
        *ahead, move = commands.end_in_parts("c1", end, ttl_s=60)
        for call in ahead:
            store.run(call)
        assert 0 < client.ttl("ownup:cmd:c1:parts:new") <= 60
        before = store.run(commands.read_result(10000, 42)).result
        assert (before.command.state, before.stdout, before.whole) == (CommandState.RUNNING, b"", True)
        store.run(move)
        after = store.run(commands.read_result(10000, 42)).result
        assert (after.command.state, after.stdout, after.whole) == (CommandState.EXITED, b"", False)
        whole = store.run(commands.fetch_output(after))
        assert (whole.stdout, whole.stderr, whole.whole) == (out, err, True)
        assert 0 < client.ttl("ownup:cmd:c1:parts") <= 60

    @pytest.mark.parametrize("size_bytes", [2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 5])
    def test_parts_are_put_together_in_their_order(self, store: Store, client: redis.Redis, size_bytes: int):
        create(store)
        start(store)
        out, err = secrets.token_bytes(size_bytes), ZSTD_MAGIC * (size_bytes // 4)
        for call in commands.end_in_parts("c1", ended(CommandState.EXITED, stdout=out, stderr=err), ttl_s=60):
            store.run(call)
        found = store.run(commands.read_result(10000, 42)).result
        whole = store.run(commands.fetch_output(found))
        assert (whole.stdout, whole.stderr, whole.whole) == (out, err, True)
        assert max(map(len, client.hgetall("ownup:cmd:c1:parts").values())) < 2**20 + 1000

    def test_parts_that_are_put_twice_in_a_tangle_are_whole(self, store: Store, client: redis.Redis):
        create(store)
        start(store)
        out = secrets.token_bytes(3 * 2**20)
        end = ended(CommandState.EXITED, stdout=out)
        first, second = (list(commands.end_in_parts("c1", end, ttl_s=60)) for _ in range(2))
        for call in (*first[:3], *second[:2], *first[3:], *second[2:-1]):
            store.run(call)
        with pytest.raises(IllegalMoveError):
            store.run(second[-1])
        whole = store.run(commands.fetch_output(store.run(commands.read_result(10000, 42)).result))
        assert whole.stdout == out
        assert not client.exists("ownup:cmd:c1:parts:new")

    def test_output_that_is_forgotten_meanwhile_is_not_found(self, store: Store, client: redis.Redis):
        create(store)
        start(store)
        for call in commands.end_in_parts(
            "c1", ended(CommandState.EXITED, stdout=secrets.token_bytes(2**20)), ttl_s=60
        ):
            store.run(call)
        found = store.run(commands.read_result(10000, 42)).result
        client.delete("ownup:cmd:c1:parts")
        with pytest.raises(NotFoundError):
            store.run(commands.fetch_output(found))

    @pytest.mark.parametrize("output", [b"", b"x", b"x" * 128, b"x" * 129, ZSTD_MAGIC, ZSTD_MAGIC + b"x" * 500])
    def test_output_comes_back_whole_whether_it_is_compressed_or_not(self, store: Store, output: bytes):
        create(store)
        start(store)
        store.run(commands.end("c1", ended(CommandState.EXITED, stdout=output), ttl_s=60))
        assert store.run(commands.find_result(10000, "c1")).result.stdout == output

    def test_bulky_output_of_a_command_that_has_ended_otherwise_is_dropped(self, store: Store, client: redis.Redis):
        create(store)
        start(store)
        store.run(commands.end("c1", ended(CommandState.LOST), ttl_s=60))
        late = ended(CommandState.EXITED, exit_code=0, stdout=secrets.token_bytes(200_000))
        *ahead, move = commands.end_in_parts("c1", late, ttl_s=60)
        for call in ahead:
            store.run(call)
        with pytest.raises(IllegalMoveError):
            store.run(move)
        assert not list(client.scan_iter("ownup:cmd:c1:parts*"))

    def test_ended_command_keeps_its_output_for_its_time(self, store: Store, client: redis.Redis):
        create(store)
        start(store)
        output = bytes(range(256)) * 20_000
        end = ended(CommandState.EXITED, exit_code=7, stdout=output, stderr=b"x", out_truncated=True, message="m")
        store.run(commands.end("c1", end, ttl_s=60))
        result = store.run(commands.read_result(10000, 42)).result
        assert (result.stdout, result.stderr, result.whole) == (output, b"x", True)
        command = result.command
        assert (command.exit_code, command.signal, command.ended_at, command.message) == (7, None, NOW, "m")
        assert (command.out_truncated, command.err_truncated) == (True, False)
        assert client.strlen("ownup:cmd:c1:out") < len(output) / 10
        for key in ("ownup:cmd:c1", "ownup:cmd:c1:out", "ownup:cmd:c1:err", "ownup:pid:10000:42"):
            assert 0 < client.ttl(key) <= 60
        assert not client.exists("ownup:cmd:c1:request")
        assert store.run(commands.list_open("n1")) == ()

    @pytest.mark.parametrize("state", [state for state in CommandState if state.ended])
    def test_nothing_leaves_an_end(self, store: Store, state: CommandState):
        create(store)
        if state not in COMMAND_MOVES[CommandState.QUEUED]:
            start(store)
        store.run(commands.end("c1", ended(state), ttl_s=60))
        before = store.run(commands.find("c1"))
        with pytest.raises(IllegalMoveError):
            start(store)
        for wanted in (state for state in CommandState if state.ended):
            with pytest.raises(IllegalMoveError):
                store.run(commands.end("c1", ended(wanted), ttl_s=60))
        assert store.run(commands.find("c1")) == before

    @pytest.mark.parametrize("running", [False, True])
    @pytest.mark.parametrize("wanted", [state for state in CommandState if state.ended])
    def test_moves_are_those_of_the_table(self, store: Store, wanted: CommandState, running: bool):  # noqa: FBT001 - a parameter
        create(store)
        if running:
            start(store)
        present = CommandState.RUNNING if running else CommandState.QUEUED
        if wanted in COMMAND_MOVES[present]:
            store.run(commands.end("c1", ended(wanted), ttl_s=60))
            assert store.run(commands.find("c1")).state is wanted
        else:
            with pytest.raises(IllegalMoveError, match=f"is {present} and can't become {wanted}"):
                store.run(commands.end("c1", ended(wanted), ttl_s=60))
            assert store.run(commands.find("c1")).state is present

    def test_move_of_a_gone_command_is_illegal(self, store: Store):
        with pytest.raises(IllegalMoveError, match="gone"):
            start(store)

    def test_recycled_pid_means_the_latest_command(self, store: Store):
        for command_id in ("c1", "c2"):
            create(store, replace(COMMAND, id=command_id))
            start(store, command_id)
        assert store.run(commands.read_result(10000, 42)).result.command.id == "c2"

    def test_news_of_an_end_tell_what_a_reader_would_read(self, store: Store, client: redis.Redis):
        store.run(vms.publish(VM))
        store.run(nodes.beat(NODE))
        create(store)
        start(store)
        with client.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(WAKE_CHANNEL)
            subscription.get_message(timeout=5)
            store.run(commands.end("c1", ended(CommandState.EXITED, exit_code=0, stdout=b"\0\xff\n"), ttl_s=60))
            message = subscription.get_message(timeout=5)
        assert message is not None
        head, _, told = message["data"].partition(b"\n")
        assert head == b"c1 exited 42"
        reach, result = commands.load_told(told)
        assert reach == Reach(VM.running, VM.agent_available)
        assert (reach, result) == store.run(commands.find_result(10000, "c1"))
        assert result is not None
        assert result.stdout == b"\0\xff\n"

    def test_news_of_another_version_tell_nothing(self):
        told = msgpack.packb([[[b"vmid", b"10000"], 1, b"42"], [[b"id", b"c1"], b"", b""]])
        assert commands.load_told(told) == (None, None)

    def test_waiters_are_woken_by_every_move(self, store: Store, client: redis.Redis):
        with client.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(WAKE_CHANNEL)
            subscription.get_message(timeout=5)
            create(store)
            start(store)
            store.run(commands.end("c1", ended(CommandState.LOST), ttl_s=60))
            messages = [subscription.get_message(timeout=5) for _ in range(2)]
            assert [message["data"] for message in messages if message] == [b"c1 running 42", b"c1 lost 42"]
            assert subscription.get_message(timeout=0.05) is None

    def test_id_is_taken_once(self, store: Store):
        assert store.run(commands.create(COMMAND, LINE, deliver_within_s=10)) is True
        other = replace(COMMAND, account="other")
        assert store.run(commands.create(other, CommandRequest(line="false"), deliver_within_s=10)) is False
        claim = store.run(commands.claim("c1"))
        assert (claim.command.account, claim.request) == ("acme", LINE)

    def test_options_come_through(self, store: Store):
        request = CommandRequest(line="cat", stdin='ä\0\n"\\\u2028' * 1000, env={"A": "b=c\n", "_": ""}, cwd="/tmp/ä")
        command = replace(COMMAND, timeout_s=0.25, wait_for_agent_s=300.0)
        store.run(commands.create(command, request, deliver_within_s=10))
        claim = store.run(commands.claim("c1"))
        assert claim.request == request
        assert (claim.command.timeout_s, claim.command.wait_for_agent_s) == (0.25, 300.0)

    def test_empty_options_are_not_absent_ones(self, store: Store):
        request = CommandRequest(line="cat", stdin="", env={}, cwd="/")
        store.run(commands.create(COMMAND, request, deliver_within_s=10))
        assert store.run(commands.claim("c1")).request == request

    def test_kill_of_a_running_command_is_noted_once(self, store: Store):
        create(store)
        start(store)
        noted = store.run(commands.request_kill(10000, 42, ACME))
        assert (noted.id, noted.state) == ("c1", CommandState.RUNNING)
        assert noted.kill_requested_at is not None
        assert store.run(commands.request_kill(10000, 42, ACME)) == noted
        assert store.run(commands.find("c1")) == noted

    def test_kill_of_an_ended_command_changes_nothing(self, store: Store):
        create(store)
        start(store)
        store.run(commands.end("c1", ended(CommandState.EXITED, exit_code=3), ttl_s=60))
        before = store.run(commands.find("c1"))
        assert store.run(commands.request_kill(10000, 42, ACME)) == before
        assert before.kill_requested_at is None

    def test_kill_of_a_foreign_or_unknown_command_is_none(self, store: Store):
        create(store)
        start(store)
        assert store.run(commands.request_kill(10000, 42, Sight("other"))) is None
        assert store.run(commands.request_kill(10001, 42, ACME)) is None
        assert store.run(commands.request_kill(10000, 43, ACME)) is None
        assert store.run(commands.find("c1")).kill_requested_at is None


class TestIdempotency:
    def reserve(self, store: Store, *, account: str = "acme", vmid: int = 1, key: str = "k", command: str = "c1"):
        return store.run(idempotency.reserve(account, vmid, key, fingerprint=f"f-{command}", command_id=command))

    def test_first_one_has_the_key_for_a_day(self, store: Store, client: redis.Redis):
        first = Reservation(fingerprint="f-c1", command_id="c1", recorded=False)
        assert self.reserve(store) == first
        assert self.reserve(store, command="c2") == first
        assert 86390 < client.ttl("ownup:idem:acme:1:k") <= 86400

    def test_key_belongs_to_one_account_and_one_vm(self, store: Store):
        self.reserve(store)
        others = [
            self.reserve(store, account="other", command="c2"),
            self.reserve(store, vmid=2, command="c3"),
            self.reserve(store, key="l", command="c4"),
        ]
        assert [other.command_id for other in others] == ["c2", "c3", "c4"]

    def test_it_is_remembered_that_the_command_was_made(self, store: Store, client: redis.Redis):
        self.reserve(store)
        assert store.run(idempotency.mark_recorded("acme", 1, "k")) is False, "it wasn't"
        store.run(commands.create(replace(COMMAND, id="c1"), CommandRequest(line="true"), deliver_within_s=10))
        assert store.run(idempotency.mark_recorded("acme", 1, "k")) is True
        assert self.reserve(store, command="c2") == Reservation(fingerprint="f-c1", command_id="c1", recorded=True)
        assert client.ttl("ownup:idem:acme:1:k") > 86390

    def test_forgotten_key_stays_forgotten(self, store: Store, client: redis.Redis):
        assert store.run(idempotency.mark_recorded("acme", 1, "k")) is False
        assert client.keys("ownup:idem:*") == []


class TestVms:
    def test_published_vm_is_read_back(self, store: Store):
        store.run(nodes.beat(NODE))
        assert store.run(vms.publish(VM)) is None
        assert store.run(vms.read(10000)) == VmView(VM, node_alive=True, last_pid=None)

    def test_publishing_again_forgets_what_is_not_known_any_more(self, store: Store):
        store.run(vms.publish(VM))
        store.run(vms.publish(replace(VM, cpu=None)))
        assert store.run(vms.read(10000)).vm.cpu is None

    def test_node_that_does_not_beat_is_not_alive(self, store: Store):
        store.run(vms.publish(VM))
        assert store.run(vms.read(10000)).node_alive is False

    def test_unknown_vm_is_none(self, store: Store):
        assert store.run(vms.read(10000)) is None

    def test_lists_hold_the_accounts_vms_by_vmid(self, store: Store):
        store.run(nodes.beat(NODE))
        for vmid, account in ((30, "acme"), (4, "acme"), (5, "other")):
            store.run(vms.publish(replace(VM, vmid=vmid, account=account)))
        views = store.run(vms.list_seen(ACME))
        assert [(view.vm.vmid, view.node_alive) for view in views] == [(4, True), (30, True)]
        assert store.run(vms.list_seen(Sight("nobody"))) == ()

    def test_new_owner_has_it_alone(self, store: Store):
        store.run(vms.publish(VM))
        store.run(vms.publish(replace(VM, account="other")))
        assert store.run(vms.list_seen(ACME)) == ()
        assert len(store.run(vms.list_seen(Sight("other")))) == 1

    def test_vmid_of_a_living_node_can_not_be_taken(self, store: Store):
        store.run(nodes.beat(NODE))
        store.run(vms.publish(VM))
        assert store.run(vms.publish(replace(VM, node="n2"))) == "n1"
        assert store.run(vms.read(10000)).vm.node == "n1"
        store.run(nodes.leave("n1"))
        assert store.run(vms.publish(replace(VM, node="n2"))) is None

    def test_only_its_node_removes_it(self, store: Store):
        store.run(vms.publish(VM))
        store.run(vms.remove(10000, "n2"))
        assert store.run(vms.read(10000)) is not None
        store.run(vms.remove(10000, "n1"))
        assert store.run(vms.read(10000)) is None
        assert store.run(vms.list_seen(ACME)) == ()


class TestNodes:
    def test_node_is_listed_while_it_beats(self, store: Store, client: redis.Redis):
        store.run(nodes.beat(replace(NODE, name="n2")))
        store.run(nodes.beat(NODE))
        assert store.run(nodes.list_alive()) == (NODE, replace(NODE, name="n2"))
        assert 0 < client.ttl("ownup:node:n1") <= nodes.TTL_S
        store.run(nodes.leave("n1"))
        assert [node.name for node in store.run(nodes.list_alive())] == ["n2"]

    def test_beat_tells_whether_the_store_is_new_to_the_node(self, store: Store, client: redis.Redis):
        assert store.run(nodes.beat(NODE)) == Beat(taken_by=None, is_news=True)
        assert store.run(nodes.beat(NODE)) == Beat(taken_by=None, is_news=False)
        client.flushall()
        assert store.run(nodes.beat(NODE)) == Beat(taken_by=None, is_news=True)

    def test_one_worker_speaks_for_a_node_until_it_is_away(self, store: Store):
        other = replace(NODE, worker="w2")
        store.run(nodes.beat(NODE))
        assert store.run(nodes.beat(other)) == Beat(taken_by="w1", is_news=False)
        assert store.run(nodes.list_alive()) == (NODE,)
        assert store.run(nodes.beat(other, instead_of="w1")).taken_by is None
        assert store.run(nodes.list_alive()) == (other,)
        store.run(nodes.leave("n1"))
        assert store.run(nodes.beat(NODE)).taken_by is None


class TestJobs:
    def test_job_goes_from_queued_to_completed(self, store: Store, client: redis.Redis):
        assert store.run(jobs.create(JOB, start_within_s=60)) is True
        queued = store.run(jobs.find(JOB.id))
        assert replace(queued, start_by=NOW) == JOB
        assert store.run(jobs.list_open("n1")) == (JOB.id,)
        running = store.run(jobs.start(JOB.id))
        assert (running.state, running.started_at is None) == (JobState.RUNNING, False)
        store.run(jobs.progress(JOB.id, 30, "waiting"))
        assert (store.run(jobs.find(JOB.id)).progress, store.run(jobs.find(JOB.id)).message) == (30, "waiting")
        store.run(jobs.finish(JOB.id, JobState.COMPLETED, "VM is running", NOW))
        done = store.run(jobs.find(JOB.id))
        assert (done.state, done.progress, done.finished_at) == (JobState.COMPLETED, 100, NOW)
        assert store.run(jobs.list_open("n1")) == ()
        assert 0 < client.ttl(f"ownup:job:{JOB.id}") <= jobs.TTL_S

    def test_id_is_taken_once(self, store: Store):
        assert store.run(jobs.create(JOB, start_within_s=60)) is True
        assert store.run(jobs.create(replace(JOB, account="other"), start_within_s=60)) is False
        assert store.run(jobs.find(JOB.id)).account == "acme"

    def test_job_is_started_once(self, store: Store):
        store.run(jobs.create(JOB, start_within_s=60))
        assert store.run(jobs.start(JOB.id)) is not None
        assert store.run(jobs.start(JOB.id)) is None

    def test_late_or_unknown_job_is_not_started(self, store: Store):
        assert store.run(jobs.start("start-1-1")) is None
        store.run(jobs.create(JOB, start_within_s=-1))
        assert store.run(jobs.start(JOB.id)) is None
        assert store.run(jobs.find(JOB.id)).state is JobState.QUEUED

    def test_ended_job_stays_as_it_ended(self, store: Store):
        store.run(jobs.create(JOB, start_within_s=60))
        store.run(jobs.finish(JOB.id, JobState.FAILED, "no", NOW))
        failed = store.run(jobs.find(JOB.id))
        assert (failed.state, failed.progress) == (JobState.FAILED, 0)
        store.run(jobs.progress(JOB.id, 50, "on it"))
        store.run(jobs.finish(JOB.id, JobState.COMPLETED, "yes", NOW + timedelta(seconds=1)))
        assert store.run(jobs.find(JOB.id)) == failed
        assert store.run(jobs.start(JOB.id)) is None


class TestKeys:
    def test_key_is_read_back_and_replaced_whole(self, store: Store):
        full = replace(KEY, expires_at=NOW, revoked_at=NOW)
        store.run(keys.save(full))
        assert store.run(keys.find("k1")) == full
        store.run(keys.save(KEY))
        assert store.run(keys.find("k1")) == KEY
        assert store.run(keys.find("k2")) is None

    def test_list_is_oldest_first(self, store: Store):
        younger = replace(KEY, id="k0", created_at=NOW + timedelta(days=1))
        store.run(keys.save(younger))
        store.run(keys.save(KEY))
        assert store.run(keys.list_all()) == (KEY, younger)

    def test_account_lists_its_own_that_are_not_revoked(self, store: Store):
        foreign, revoked = replace(KEY, id="k2", account="other"), replace(KEY, id="k3", revoked_at=NOW)
        for key in (KEY, foreign, revoked):
            store.run(keys.save(key))
        assert store.run(keys.list_owned("acme")) == (KEY,)
        assert store.run(keys.list_owned(None)) == (KEY, foreign)
        assert store.run(keys.list_owned("nobody")) == ()
        assert store.run(keys.list_all()) == (KEY, foreign, revoked)
        assert store.run(keys.find_owned("k1", "acme")) == store.run(keys.find_owned("k1", None)) == KEY
        for key_id, account in (("k1", "other"), ("k2", "acme"), ("k3", "acme"), ("k3", None), ("k4", None)):
            assert store.run(keys.find_owned(key_id, account)) is None

    def test_change_is_made_of_what_was_read_or_not_at_all(self, store: Store):
        store.run(keys.save(KEY))
        first, second = replace(KEY, name="first"), replace(KEY, name="second")
        assert store.run(keys.replace(KEY, first))
        assert not store.run(keys.replace(KEY, second))
        assert store.run(keys.find("k1")) == replace(first, version=1)
        assert store.run(keys.replace(replace(first, version=1), second))
        assert not store.run(keys.replace(replace(KEY, id="k2"), second))
        assert store.run(keys.find("k2")) is None

    def test_last_use_is_no_part_of_a_change(self, store: Store):
        store.run(keys.save(KEY))
        store.run(keys.note_use("k1", NOW))
        assert store.run(keys.replace(KEY, replace(KEY, name="new")))
        assert store.run(keys.find("k1")) == replace(KEY, name="new", version=1, last_used_at=NOW)

    def test_revoked_ones_are_remembered_up_to_a_number(self, store: Store, client: redis.Redis):
        total = keys.MOST_OF_AN_ACCOUNT + 3
        for number in range(total):
            revoked = replace(KEY, id=f"k{number}", revoked_at=NOW + timedelta(seconds=number))
            store.run(keys.save(replace(revoked, revoked_at=None)))
            assert store.run(keys.replace(replace(revoked, revoked_at=None), revoked))
        left = store.run(keys.list_all())
        assert {key.id for key in left} == {f"k{number}" for number in range(3, total)}
        assert len(client.keys("ownup:key:*")) == keys.MOST_OF_AN_ACCOUNT
        assert store.run(keys.list_owned("acme")) == ()

    def test_new_key_is_one_too_many(self, store: Store):
        for number in range(keys.MOST_OF_AN_ACCOUNT):
            assert store.run(keys.add(replace(KEY, id=f"k{number}")))
        assert not store.run(keys.add(replace(KEY, id="more")))
        assert store.run(keys.find("more")) is None
        assert store.run(keys.add(replace(KEY, id="more", account="other")))


class TestRunning:
    def test_time_is_that_of_redis(self, store: Store, client: redis.Redis):
        seconds, micros = client.time()
        assert 0 <= store.run(clock()).timestamp() - seconds - micros / 1e6 < 2

    def test_two_calls_are_run_at_once(self, store: Store):
        store.run(keys.save(KEY))
        store.run(vms.publish(VM))
        view, key = store.run_both(vms.read(10000), keys.find("k1"))
        assert view is not None
        assert (view.vm, key) == (VM, KEY)

    def test_several_calls_are_run_at_once_and_one_that_finds_nothing_hides_none(
        self, store: Store, client: redis.Redis
    ):
        number = Call(("INCR", "number"), int)
        nothing = Call(("GET", "nothing"), lambda reply: reply)
        before = commands_served(client)["script"]
        assert store.run(all_of((number, nothing, vms.read(1), number))) == [1, None, None, 2]
        assert commands_served(client)["script"] == before + 1

    def test_one_connection_does_for_calls_that_come_one_after_the_other(self, store: Store, client: redis.Redis):
        store.run(ping())
        before = client.info("clients")["connected_clients"]
        for _ in range(50):
            store.run(ping())
        assert client.info("clients")["connected_clients"] == before

    def test_script_is_sent_in_full_once_and_again_when_redis_has_forgotten_it(self, store: Store, client: redis.Redis):
        client.script_flush()
        before = commands_served(client)["eval"]
        for _ in range(2):
            assert [store.run(vms.read(1)) for _ in range(3)] == [None] * 3
            client.script_flush()
        assert commands_served(client)["eval"] - before == 2

    def test_connection_that_redis_closed_while_it_was_idle_is_replaced(self, own_redis: RedisServer):
        with own_redis.client() as client:
            store = Store(client)
            store.run(keys.save(KEY))
            own_redis.stop()
            own_redis.start()
            assert store.run(keys.find("k1")) == KEY

    def test_redis_that_comes_back_is_used_again(self, own_redis: RedisServer):
        with redis.Redis.from_url(own_redis.url, retry=Retry(NoBackoff(), 0)) as client:
            store = Store(client)
            store.run(ping())
            own_redis.stop()
            for _ in range(2):
                with pytest.raises(StoreUnavailableError):
                    store.run(ping())
            own_redis.start()
            store.run(ping())

    def test_reply_that_comes_too_late_is_nobodys(self, redis_url: str):
        with redis.Redis.from_url(redis_url, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client:
            store = Store(client)
            with pytest.raises(StoreUnavailableError):
                store.run(Call(("BLPOP", "nothing", "0.5"), lambda reply: reply))
            assert store.run(Call(("ECHO", "mine"), bytes)) == b"mine"
            time.sleep(0.6)  # by now the other one has been sent
            assert store.run(Call(("ECHO", "mine too"), bytes)) == b"mine too"

    def test_call_that_redis_refuses_spoils_nothing(self, store: Store):
        with pytest.raises(redis.ResponseError):
            store.run(Call(("NO-SUCH-COMMAND",), lambda reply: reply))
        assert store.run(Call(("ECHO", "mine"), bytes)) == b"mine"

    async def test_event_loop_reads_the_same(self, store: Store, redis_url: str):
        store.run(keys.save(KEY))
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            awaited = AsyncStore(client)
            assert await awaited.run(keys.find("k1")) == KEY
            await awaited.run(ping())

    async def test_absent_redis_is_our_own_error(self):
        retry = Retry(NoBackoff(), 0)
        with redis.Redis(unix_socket_path="/nowhere/redis.sock", retry=retry) as client:
            with pytest.raises(StoreUnavailableError):
                Store(client).run(ping())
            with pytest.raises(StoreUnavailableError):
                Store(client).run_both(ping(), ping())
        async with redis.asyncio.Redis(unix_socket_path="/nowhere/redis.sock") as awaited:
            with pytest.raises(StoreUnavailableError):
                await AsyncStore(awaited).run(ping())
