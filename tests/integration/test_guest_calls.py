"""A guest call's road through one worker: sent at most once, its outcome told truly, its secret kept.

The worker's own parts on a real Redis; the guest is the fake agent, which sets its own users' passwords and keys, never
this machine's, and can misbehave.
"""

import asyncio
import base64
import contextlib
import json
import logging
import platform
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from app.core import env, store
from app.core.clock import now
from app.core.queues import ASK_AGENT
from app.core.records import GuestAction, GuestCall, GuestCallState
from app.core.store import guest_calls
from lab.fake_agent import FakeAgent
from lab.fake_agent.exchange import Behaviour, Exchange
from lab.fake_agent.misbehaviour import Falsified, HangUpWithin, Mute, Script
from tests.redis_contents import everything_in
from workers.__main__ import _build, _redis
from workers.settings import WorkerSettings

VMID = 10001
SECRET = "planted: s3cret, with a colon"
CODED = base64.b64encode(SECRET.encode()).decode()
DEFINITION = f'vmid = {VMID}\nname = "a"\naccount = "acme"\n[sockets]\nqga = "agent"\n'


class Worker:
    """A worker without its RQ half, and the web half's view of the store."""

    def __init__(self, perform: Any, client: redis.Redis) -> None:
        self._perform = perform
        self.client = client
        self.store = store.Store(client)

    def create(
        self, action: GuestAction, *, keys: tuple[str, ...] = (), secret: str | None = None, within_s: float = 9
    ) -> str:
        call = GuestCall(
            id=str(uuid.uuid4()),
            vmid=VMID,
            account="acme",
            node="node-1",
            action=action,
            keys=keys,
            state=GuestCallState.QUEUED,
            created_at=now(),
            deliver_by=now(),
        )
        self.store.run(guest_calls.create(call, secret=secret, deliver_within_s=within_s))
        return call.id

    async def perform(self, call_id: str, vmid: int = VMID) -> GuestCall:
        """Perform a call; tell its record then, in which no secret stands."""
        await self._perform(call_id, vmid)
        stored = everything_in(self.client)
        assert SECRET.encode() not in stored
        assert CODED.encode() not in stored
        call = self.store.run(guest_calls.read(call_id))
        assert call is not None
        return call

    async def ask(self, action: GuestAction, **facts: Any) -> GuestCall:
        return await self.perform(self.create(action, **facts))

    async def set_password(self) -> GuestCall:
        return await self.ask(GuestAction.SET_PASSWORD, secret=SECRET)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ownup") as name:
        (Path(name) / "vm.toml").write_text(DEFINITION)
        yield Path(name)


@pytest.fixture
async def agent(folder: Path) -> AsyncIterator[FakeAgent]:
    async with FakeAgent(folder / "agent") as agent:
        yield agent


@pytest.fixture
async def worker(folder: Path, redis_url: str) -> AsyncIterator[Worker]:
    environ = {"REDIS_URL": redis_url, "VM_DIR": str(folder), "SPOOL_DIR": str(folder / "spool")}
    quick = {"AGENT_SYNC_TIMEOUT_S": "0.5", "AGENT_RPC_TIMEOUT_S": "0.5", "AGENT_PROBE_S": "60"}
    settings = env.load(WorkerSettings, environ | quick)
    with redis.Redis.from_url(redis_url) as client:
        async with _redis(settings, tries=2) as asking:
            redis_store = store.AsyncStore(asking)
            parts = _build(settings, redis_store, asking)
            await parts.registry.scan()
            try:
                yield Worker(parts.rq_worker._jobs[ASK_AGENT], client)
            finally:
                await parts.watcher.close()
                await parts.registry.close()
                await redis_store.close()


@pytest.fixture(autouse=True)
def no_secret_in_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    lines = " ".join(str(vars(record)) + record.getMessage() for record in caplog.records)
    assert SECRET not in lines
    assert CODED not in lines


# --- what each action does --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("agent")
async def test_hostname_is_the_guests(worker: Worker):
    call = await worker.ask(GuestAction.GET_HOSTNAME)
    assert (call.state, call.value, call.message) == (GuestCallState.DONE, {"hostname": platform.node()}, None)


async def test_password_arrives_as_it_is(worker: Worker, agent: FakeAgent):
    call = await worker.set_password()
    assert (call.state, call.value) == (GuestCallState.DONE, {})
    assert agent.accounts.passwords == {"root": SECRET}


async def test_keys_replace_those_that_were_there_and_end_with_a_line_feed(worker: Worker, agent: FakeAgent):
    agent.accounts.keys_file = "ssh-rsa OLD\n"
    call = await worker.ask(GuestAction.SET_SSH_KEYS, keys=("ssh-rsa AAAA ann", "ssh-rsa BBBB bob"))
    assert (call.state, call.value) == (GuestCallState.DONE, {})
    assert agent.accounts.keys_file == "ssh-rsa AAAA ann\nssh-rsa BBBB bob\n"


async def test_keys_are_told_in_the_order_of_the_file(worker: Worker, agent: FakeAgent):
    agent.accounts.keys_file = "ssh-rsa AAAA ann\n# a comment\nssh-rsa BBBB bob\n"
    call = await worker.ask(GuestAction.GET_SSH_KEYS)
    assert call.value == {"keys": ["ssh-rsa AAAA ann", "ssh-rsa BBBB bob"]}


@pytest.mark.usefixtures("agent")
async def test_guest_without_a_file_of_keys_has_none(worker: Worker):
    call = await worker.ask(GuestAction.GET_SSH_KEYS)
    assert (call.state, call.value) == (GuestCallState.DONE, {"keys": []})


# --- not done ---------------------------------------------------------------------------------------------------------


async def test_refusal_is_told_in_the_agents_words(worker: Worker, agent: FakeAgent):
    call = await worker.ask(GuestAction.SET_PASSWORD, secret="two\nlines")
    assert (call.state, call.value) == (GuestCallState.FAILED, None)
    assert call.message == "guest-set-user-password: forbidden characters in raw password"
    assert agent.accounts.passwords == {}


async def test_rpc_that_the_guest_does_not_offer_is_not_sent(worker: Worker, agent: FakeAgent):
    agent.disabled.add("guest-set-user-password")
    call = await worker.set_password()
    assert call.state is GuestCallState.FAILED
    assert "guest-set-user-password is disabled in the guest" in (call.message or "")
    assert agent.received("guest-set-user-password") == 0


async def test_without_an_agent_nothing_is_done(worker: Worker):
    call = await worker.set_password()
    assert (call.state, call.message) == (GuestCallState.FAILED, "the VM's agent socket is not there: the VM is off")


async def test_vm_that_this_node_does_not_carry(worker: Worker, agent: FakeAgent):
    call = await worker.perform(worker.create(GuestAction.SET_PASSWORD, secret=SECRET), vmid=7)
    assert (call.state, call.message) == (GuestCallState.FAILED, "this node no longer carries the VM")
    assert agent.accounts.passwords == {}


async def test_call_that_comes_late_is_not_sent(worker: Worker, agent: FakeAgent):
    call = await worker.perform(worker.create(GuestAction.SET_PASSWORD, secret=SECRET, within_s=-0.5))
    assert call.state is GuestCallState.EXPIRED
    assert agent.accounts.passwords == {}


async def test_call_without_its_secret_is_not_sent(worker: Worker, agent: FakeAgent):
    call = await worker.ask(GuestAction.SET_PASSWORD)
    assert (call.state, call.message) == (
        GuestCallState.FAILED,
        "The data store went away at the wrong moment; nothing was done",
    )
    assert agent.received("guest-set-user-password") == 0


async def test_windows_has_another_administrator(worker: Worker, agent: FakeAgent):
    agent.behaviour = Script({"guest-get-osinfo": SaysWindows()})
    call = await worker.ask(GuestAction.SET_SSH_KEYS, keys=("ssh-rsa AAAA",))
    assert "'Administrator'" in (call.message or "")


class SaysWindows(Falsified):
    """Says that the guest runs Windows."""

    def falsified(self, body: dict[str, Any]) -> object:
        return body | {"return": {"id": "mswindows"}}


# --- at most once, and never a lie ------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", [Mute, HangUpWithin])
async def test_change_without_a_reply_may_have_been_done_and_is_not_repeated(
    worker: Worker, agent: FakeAgent, behaviour: type[Behaviour]
):
    agent.behaviour = Script({"guest-set-user-password": behaviour()})
    call_id = worker.create(GuestAction.SET_PASSWORD, secret=SECRET)
    call = await worker.perform(call_id)
    assert call.state is GuestCallState.UNKNOWN
    assert (call.message or "").startswith("It may have been done: ")
    assert (await worker.perform(call_id)).state is GuestCallState.UNKNOWN
    assert agent.received("guest-set-user-password") == 1
    assert agent.accounts.passwords == {"root": SECRET}


async def test_question_without_a_reply_has_done_nothing(worker: Worker, agent: FakeAgent):
    agent.behaviour = Script({"guest-get-host-name": Mute()})
    call = await worker.ask(GuestAction.GET_HOSTNAME)
    assert call.state is GuestCallState.FAILED
    assert "no reply" in (call.message or "")


@pytest.mark.parametrize("reply", [None, [], {}, {"host-name": 1}, {"host-name": None}])
async def test_reply_that_is_none_is_not_believed(worker: Worker, agent: FakeAgent, reply: object):
    agent.behaviour = Script({"guest-get-host-name": Says(reply)})
    call = await worker.ask(GuestAction.GET_HOSTNAME)
    assert (call.state, call.value) == (GuestCallState.FAILED, None)


@pytest.mark.parametrize("reply", [None, {}, {"keys": "a"}, {"keys": [1]}])
async def test_keys_that_are_none_are_not_believed(worker: Worker, agent: FakeAgent, reply: object):
    agent.accounts.keys_file = "ssh-rsa AAAA"
    agent.behaviour = Script({"guest-ssh-get-authorized-keys": Says(reply)})
    assert (await worker.ask(GuestAction.GET_SSH_KEYS)).state is GuestCallState.FAILED


class Says(Falsified):
    """Returns what it is told to."""

    def __init__(self, value: object) -> None:
        self._value = value

    def falsified(self, body: dict[str, Any]) -> object:
        return body | {"return": self._value}


async def test_what_no_utf8_can_hold_does_not_break_the_record(worker: Worker, agent: FakeAgent):
    agent.behaviour = Script({"guest-get-host-name": Says({"host-name": "a\ud800b" + "c" * 300})})
    call = await worker.ask(GuestAction.GET_HOSTNAME)
    assert call.value == {"hostname": "a?b" + "c" * 252}
    agent.behaviour = Script({"guest-get-host-name": Refuses("half a pair: \ud800")})
    call = await worker.ask(GuestAction.GET_HOSTNAME)
    assert call.message == "guest-get-host-name: half a pair: ?"


async def test_agent_that_repeats_the_secret_is_not_quoted(worker: Worker, agent: FakeAgent):
    agent.behaviour = Script({"guest-set-user-password": Refuses(f"I don't like {SECRET}, nor {CODED}")})
    call = await worker.set_password()
    assert call.message == "guest-set-user-password: I don't like (hidden), nor (hidden)"


class Refuses(Behaviour):
    """Says no, in these words."""

    def __init__(self, words: str) -> None:
        self._words = words

    async def attend(self, exchange: Exchange) -> None:
        error = {"class": "GenericError", "desc": self._words}
        await exchange.port.write(json.dumps({"error": error, "id": exchange.request_id}).encode() + b"\n")


@pytest.mark.usefixtures("agent")
async def test_many_calls_at_once_have_their_own_outcomes(worker: Worker):
    hostname, keys = worker.create(GuestAction.GET_HOSTNAME), worker.create(GuestAction.GET_SSH_KEYS)
    found = await asyncio.gather(*(worker.perform(call_id) for call_id in (hostname, keys)))
    assert [set(call.value or {}) for call in found] == [{"hostname"}, {"keys"}]


@pytest.mark.usefixtures("agent")
async def test_redis_that_is_away_meanwhile_is_sat_out(worker: Worker):
    call_id = worker.create(GuestAction.GET_HOSTNAME)
    with contextlib.suppress(redis.ConnectionError):
        worker.client.client_kill_filter(_type="normal", skipme=True)
    assert (await worker.perform(call_id)).state is GuestCallState.DONE
