"""The channel to a guest agent: the same promises over the real qemu-ga and over the fake one."""

import asyncio
import contextlib
import gc
import json
import socket as sockets
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.core.errors import (
    AgentAbsentError,
    AgentError,
    AgentProtocolError,
    AgentRefusedError,
    AgentSilentError,
    AgentUnavailableError,
)
from lab.fake_agent import FakeAgent, hostility, misbehaviour
from workers.qga import wire
from workers.qga.channel import Channel
from workers.qga.window import WINDOW_BYTES

DANGEROUS = (
    "guest-shutdown,guest-set-time,guest-set-user-password,guest-set-vcpus,guest-set-memory-blocks,guest-suspend-disk,"
    "guest-suspend-ram,guest-suspend-hybrid,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,"
    "guest-fstrim,guest-ssh-add-authorized-keys,guest-ssh-remove-authorized-keys"
)
"""What the real agent must not do to the machine the tests run on."""


def make_channel(path, *, sync_timeout_s=2.0, idle_close_s=0.0, on_end=lambda: None):
    return Channel(path, sync_timeout_s=sync_timeout_s, rpc_timeout_s=2.0, idle_close_s=idle_close_s, on_end=on_end)


async def eventually(holds, within_s=5.0):
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what is polled is the world outside of this loop
            await asyncio.sleep(0.005)


async def run(channel, line):
    arguments = wire.dump_exec("/bin/sh", ["-c", line], None)
    pid = wire.load_pid(await channel.call("guest-exec", arguments, timeout_s=5))
    return await poll_to_end(channel, pid)


async def poll_to_end(channel, pid):
    async with asyncio.timeout(20):
        while True:
            status = await channel.exec_status(pid, timeout_s=20)
            if status.exited:
                return status
            await asyncio.sleep(0.002)


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="qga") as name:
        yield Path(name)


@contextlib.asynccontextmanager
async def real_agent(path, blocked=DANGEROUS):
    argv = ["qemu-ga", "-m", "unix-listen", "-p", path, "-t", path.parent, "-b", blocked]
    process = subprocess.Popen(argv)  # noqa: ASYNC220 - the agent listens as soon as its socket is there
    try:
        await eventually(path.exists)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["real", "fake"])
async def socket(request, folder):
    path = folder / "agent"
    peer = real_agent(path) if request.param == "real" else FakeAgent(path, disabled={"guest-shutdown"})
    async with peer:
        yield path


@pytest.fixture
async def channel(socket):
    channel = make_channel(socket)
    yield channel
    await channel.close()


# --- the contract, over both ------------------------------------------------------------------------------------------


async def test_opening_tells_who_the_agent_is(channel):
    facts = await channel.open()
    assert facts.version.startswith("7.")
    assert {"guest-exec", "guest-exec-status", "guest-ping"} <= facts.enabled
    assert not facts.windows
    assert facts.identity is not None
    assert facts.identity.count("/") == 2


async def test_blocked_rpcs_are_not_enabled_and_are_refused(channel):
    assert "guest-shutdown" not in (await channel.open()).enabled
    with pytest.raises(AgentRefusedError) as refusal:
        await channel.call("guest-shutdown", timeout_s=2)
    assert refusal.value.error_class == "CommandNotFound"
    assert "disabled" in refusal.value.description


async def test_an_exit_code_and_both_streams_come_back(channel):
    status = await run(channel, "echo out; echo err >&2; exit 7")
    assert (status.stdout, status.stderr, status.exit_code, status.signal) == (b"out\n", b"err\n", 7, None)


async def test_a_signal_comes_back_instead_of_an_exit_code(channel):
    status = await run(channel, "kill -9 $$")
    assert (status.exit_code, status.signal) == (None, 9)


async def test_a_result_is_told_once(channel):
    arguments = wire.dump_exec("/bin/true", [], None)
    pid = wire.load_pid(await channel.call("guest-exec", arguments, timeout_s=2))
    await poll_to_end(channel, pid)
    with pytest.raises(AgentRefusedError):
        await channel.call("guest-exec-status", {"pid": pid}, timeout_s=2)


async def test_two_full_streams_arrive_whole(channel):
    line = "head -c 16777215 /dev/zero; head -c 16777215 /dev/zero | tr '\\0' x >&2"
    status = await run(channel, line)
    assert (len(status.stdout), len(status.stderr)) == (16777215, 16777215)
    assert not status.out_truncated
    assert not status.err_truncated


async def test_longer_output_is_cut_and_flagged(channel):
    status = await run(channel, "head -c 20000000 /dev/zero")
    assert len(status.stdout) == wire.STREAM_LIMIT_BYTES
    assert status.out_truncated
    assert not status.err_truncated


EXACTLY_FULL = f"head -c {wire.STREAM_LIMIT_BYTES} /dev/zero"


async def test_a_full_stream_is_not_flagged_once_the_agent_has_shown_how_it_flags(channel):
    assert (await run(channel, EXACTLY_FULL)).out_truncated  # to be on the safe side
    assert not (await run(channel, "echo short")).out_truncated
    status = await run(channel, EXACTLY_FULL)
    assert (len(status.stdout), status.out_truncated) == (wire.STREAM_LIMIT_BYTES, False)
    assert (await run(channel, f"{EXACTLY_FULL}; echo more")).out_truncated


async def test_a_program_that_is_not_there_is_refused(channel):
    with pytest.raises(AgentRefusedError) as refusal:
        await channel.call("guest-exec", wire.dump_exec("/nowhere/program", [], None), timeout_s=2)
    assert refusal.value.effect == "refused"


async def test_calls_overlap_and_each_gets_its_own_reply(channel):
    results = await asyncio.gather(*(run(channel, f"echo {number}") for number in range(40)))
    assert [result.stdout for result in results] == [f"{number}\n".encode() for number in range(40)]


async def test_the_identity_outlives_a_reconnect(channel):
    first = (await channel.open()).identity
    await channel.reset()
    assert (await channel.open()).identity == first


async def test_a_second_worker_is_kept_off_the_socket(channel, socket):
    await channel.open()
    second = make_channel(socket)
    with pytest.raises(AgentUnavailableError, match="already used by"):
        await second.open()
    await channel.close()
    await second.open()
    await second.close()


async def test_an_idle_channel_lets_the_socket_go_and_comes_back(socket):
    idle = make_channel(socket, idle_close_s=0.05)
    await idle.open()
    await eventually(lambda: idle.facts is None)
    other = make_channel(socket)
    for _ in range(500):  # the lock goes a moment after the connection
        if await opens(other):
            break
        await asyncio.sleep(0.01)
    await other.close()
    assert (await run(idle, "echo back")).stdout == b"back\n"
    await idle.close()


async def opens(channel) -> bool:
    try:
        await channel.open()
    except AgentUnavailableError as exc:
        if "already used by" in str(exc):
            return False
        raise
    return True


async def test_who_asks_while_an_idle_channel_lets_go_has_the_socket_for_himself(socket):
    asked = []

    def ask():
        if not asked:
            asked.append(asyncio.create_task(idle.call("guest-ping", timeout_s=5)))

    idle = make_channel(socket, idle_close_s=0.5, on_end=ask)
    await idle.open()
    await eventually(lambda: asked)
    assert await asked[0] == {}
    assert not await opens(make_channel(socket))
    await idle.close()


async def test_time_without_a_call_does_not_end_an_attempt_to_open(folder):
    async with FakeAgent(folder / "agent") as agent:
        channel = make_channel(folder / "agent", sync_timeout_s=0.5, idle_close_s=0.1)
        await channel.open()
        agent.go_silent()
        await channel.reset()
        with pytest.raises(AgentUnavailableError):
            await channel.open()
        await channel.close()


async def test_no_socket_means_that_the_vm_is_off(folder):
    with pytest.raises(AgentAbsentError):
        await make_channel(folder / "nobody").open()


# --- agents that misbehave --------------------------------------------------------------------------------------------


async def test_an_attempt_that_nobody_waits_for_any_more_fails_without_a_word(folder):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, complaint: complaints.append(complaint))
    with sockets.socket(sockets.AF_UNIX) as silent:
        silent.bind(str(folder / "silent"))
        silent.listen()
        channel = make_channel(folder / "silent", sync_timeout_s=0.1)
        asking = asyncio.create_task(channel.open())
        peer, _ = await asyncio.to_thread(silent.accept)
        asking.cancel()
        await asyncio.wait([asking, channel._opening])
        peer.close()
    channel._opening = None
    gc.collect()
    await channel.close()
    assert complaints == []


async def test_a_restarted_agent_is_another_one(folder):
    async with FakeAgent(folder / "agent") as agent:
        channel = make_channel(folder / "agent")
        first = (await channel.open()).identity
        agent.restart()
        await channel.reset()
        assert (await channel.open()).identity != first
        await channel.close()


async def test_a_silent_agent_is_unavailable_and_nothing_is_sent(folder):
    async with FakeAgent(folder / "agent") as agent:
        agent.go_silent()
        channel = make_channel(folder / "agent", sync_timeout_s=0.2)
        with pytest.raises(AgentUnavailableError):
            await channel.call("guest-exec", wire.dump_exec("/bin/true", [], None), timeout_s=1)
        agent.speak_again()
        await channel.open()
        assert agent.received("guest-exec") == 0
        await channel.close()


async def test_a_late_reply_never_answers_another_call(folder):
    behaviour = misbehaviour.Script({"guest-ping": misbehaviour.First(1, misbehaviour.Late(0.4))})
    async with FakeAgent(folder / "agent", behaviour=behaviour) as agent:
        channel = make_channel(folder / "agent")
        with pytest.raises(AgentSilentError) as silence:
            await channel.call("guest-ping", timeout_s=0.1)
        assert silence.value.effect == "unknown"
        assert "version" in await channel.call("guest-info", timeout_s=2)
        assert agent.received("guest-ping") == 1
        await channel.close()


async def leave(channel, agent, rpc, arguments=None, *, timeout_s=5.0):
    """Ask, and go as soon as the agent has been asked."""
    asking = asyncio.create_task(channel.call(rpc, arguments, timeout_s=timeout_s))
    await eventually(lambda: agent.received(rpc))
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()


async def test_the_answer_to_a_caller_who_has_gone_makes_room_for_others(folder):
    released = asyncio.Event()
    held = misbehaviour.Script({"guest-exec": misbehaviour.Held(released)})
    async with FakeAgent(folder / "agent", behaviour=held) as agent:
        channel = make_channel(folder / "agent")
        long = wire.dump_exec("/bin/true", ["x" * WINDOW_BYTES], None)  # nobody else may ask beside it
        await leave(channel, agent, "guest-exec", long)
        released.set()
        async with asyncio.timeout(5):
            assert await channel.call("guest-ping", timeout_s=5) == {}
        await channel.close()


async def test_silence_towards_a_caller_who_has_gone_ends_the_session(folder):
    async with FakeAgent(folder / "agent", behaviour=misbehaviour.Script({"guest-ping": misbehaviour.Mute()})) as agent:
        channel = make_channel(folder / "agent")
        await leave(channel, agent, "guest-ping", timeout_s=0.3)
        assert channel.facts is not None
        await eventually(lambda: channel.facts is None)
        await channel.close()


async def test_megabytes_for_an_earlier_client_are_discarded(folder):
    junk = b'{"return": {"buf-b64": "' + b"A" * 11_000_000 + b'"}, "id": "__qmp#00000"}\n'
    behaviour = misbehaviour.Script({"guest-sync-delimited": misbehaviour.First(1, misbehaviour.JunkBefore(junk))})
    async with FakeAgent(folder / "agent", behaviour=behaviour):
        channel = make_channel(folder / "agent")
        assert (await run(channel, "echo mine")).stdout == b"mine\n"
        await channel.close()


@pytest.mark.parametrize("name", ["in-pieces", "in-pairs", "twice"])
async def test_replies_in_pieces_in_pairs_and_twice_are_understood(folder, name):
    async with FakeAgent(folder / "agent") as agent:
        channel = make_channel(folder / "agent")
        await channel.open()
        agent.behaviour = misbehaviour.Script(dict.fromkeys(["guest-info", "guest-ping"], misbehaviour.NAMED[name]()))
        for _ in range(3):
            info, pong = await asyncio.gather(
                channel.call("guest-info", timeout_s=3), channel.call("guest-ping", timeout_s=3)
            )
            assert "version" in info
            assert pong == {}
        await channel.close()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("mute", AgentSilentError),
        ("hang-up-before", AgentSilentError),
        ("hang-up-within", AgentSilentError),
        ("foreign-id", AgentSilentError),
        ("not-an-object", AgentSilentError),
        ("deep-json", AgentSilentError),
        ("error-without-class", AgentProtocolError),
    ],
)
async def test_a_bad_reply_to_guest_exec_is_unknown_and_never_sent_again(folder, name, error):
    bad = misbehaviour.First(1, misbehaviour.NAMED[name]())
    async with FakeAgent(folder / "agent", behaviour=misbehaviour.Script({"guest-exec": bad})) as agent:
        channel = make_channel(folder / "agent")
        await channel.open()
        with pytest.raises(error) as trouble:
            await channel.call("guest-exec", wire.dump_exec("/bin/true", [], None), timeout_s=0.5)
        assert trouble.value.effect == "unknown"
        assert await channel.call("guest-ping", timeout_s=3) == {}
        assert agent.received("guest-exec") == 1
        await channel.close()


async def test_an_old_agent_is_never_taken_at_its_word(folder):
    """It says that output was not cut where it was."""
    behaviour = misbehaviour.Script({"guest-exec-status": misbehaviour.OldTruncationFlags()})
    async with FakeAgent(folder / "agent", behaviour=behaviour):
        channel = make_channel(folder / "agent")
        assert not (await run(channel, "echo short")).out_truncated
        assert (await run(channel, f"{EXACTLY_FULL}; echo more")).out_truncated
        assert not (await run(channel, "echo short; echo short >&2")).err_truncated
        assert (await run(channel, f"{EXACTLY_FULL}; echo more")).out_truncated
        await channel.close()


async def test_what_was_learnt_of_an_agent_is_not_believed_of_the_next(folder):
    async with FakeAgent(folder / "agent") as agent:
        channel = make_channel(folder / "agent")
        assert not (await run(channel, "echo short")).out_truncated
        agent.behaviour = misbehaviour.Script({"guest-exec-status": misbehaviour.OldTruncationFlags()})
        agent.restart()
        await channel.reset()
        assert (await run(channel, f"{EXACTLY_FULL}; echo more")).out_truncated
        await channel.close()


async def test_a_wrong_sync_id_is_no_session(folder):
    behaviour = misbehaviour.Script({"guest-sync-delimited": misbehaviour.WrongSyncId()})
    async with FakeAgent(folder / "agent", behaviour=behaviour):
        channel = make_channel(folder / "agent", sync_timeout_s=0.3)
        with pytest.raises(AgentError):
            await channel.open()
        await channel.close()


async def test_the_end_of_a_session_is_told(folder):
    ended = asyncio.Event()
    async with real_agent(folder / "agent") as process:
        channel = make_channel(folder / "agent", on_end=ended.set)
        await channel.open()
        process.kill()
        async with asyncio.timeout(2):
            await ended.wait()
        assert channel.facts is None
        await channel.close()


async def test_a_socket_that_others_crowd_is_unavailable(folder):
    async with FakeAgent(folder / "agent"):
        with contextlib.ExitStack() as crowd:
            clients = [crowd.enter_context(sockets.socket(sockets.AF_UNIX)) for _ in range(8)]
            for client in clients:
                client.settimeout(0)
                with contextlib.suppress(BlockingIOError):
                    client.connect(str(folder / "agent"))
            with pytest.raises(AgentUnavailableError):
                await make_channel(folder / "agent", sync_timeout_s=0.3).open()


# --- agents that mean harm --------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def synced_once(path, last_words, *, turns):
    """A far end that answers the sync and then, after some turns of the loop, says its last words and hangs up."""

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            request = json.loads((await reader.readuntil(b"}}")).lstrip(b"\xff"))
            writer.write(b'\xff{"return": %d}\n' % request["arguments"]["id"])
            for _ in range(turns):
                await asyncio.sleep(0)
            writer.write(last_words)
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_unix_server(serve, path):
        yield


@pytest.mark.parametrize("last_words", [b"", b"no reply\n"])
async def test_an_agent_that_leaves_as_soon_as_it_is_in_sync_harms_nobody_else(folder, last_words):
    """Whatever is left of such a connection must not hold the number of its socket: the next VM's gets the same one."""
    path = folder / "early"
    async with FakeAgent(folder / "agent"):
        for turns in range(8):
            async with synced_once(path, last_words, turns=turns):
                for _ in range(3):
                    with pytest.raises((AgentUnavailableError, AgentProtocolError, AgentSilentError)):
                        await make_channel(path).call("guest-ping", timeout_s=2)
            path.unlink()
            honest = make_channel(folder / "agent")
            await honest.open()
            await honest.close()


async def test_an_agent_that_breaks_the_protocol_again_is_left_alone_for_a_while(folder):
    """Once can happen to an agent that is restarted in the middle of a request."""
    behaviour = misbehaviour.Script({"guest-ping": hostility.Flood()})
    async with FakeAgent(folder / "agent", behaviour=behaviour) as agent:
        channel = make_channel(folder / "agent")
        for _ in range(2):
            await channel.call("guest-ping", timeout_s=2)
            await eventually(lambda: channel.facts is None)
        with pytest.raises(AgentUnavailableError, match="left alone"):
            await channel.open()
        assert agent.received("guest-info") == 2
        await channel.close()


async def test_events_are_no_replies(folder):
    async with FakeAgent(folder / "agent") as agent:
        channel = make_channel(folder / "agent")
        await channel.open()
        agent.behaviour = misbehaviour.Script({"guest-ping": hostility.EventsForEver()})
        with pytest.raises(AgentSilentError):
            await channel.call("guest-ping", timeout_s=5)
        assert channel.facts is None
        await channel.close()


@pytest.mark.parametrize("junk", [hostility.JunkForEver, hostility.NewlinesForEver])
async def test_junk_without_end_before_the_sync_does_not_hold_up_the_loop(folder, junk):
    argv = [sys.executable, "-m", "lab.fake_agent", "--dir", folder, "--misbehave"]
    name = next(name for name, kind in hostility.HOSTILE.items() if kind is junk)
    agents = subprocess.Popen([*argv, f"guest-sync-delimited={name}"])  # noqa: ASYNC220 - it needs a loop of its own
    try:
        await eventually((folder / "10000.qga").exists)
        loop, longest_s = asyncio.get_running_loop(), 0.0
        opening = asyncio.create_task(make_channel(folder / "10000.qga", sync_timeout_s=1).open())
        while not opening.done():
            before_s = loop.time()
            await asyncio.sleep(0)
            longest_s = max(longest_s, loop.time() - before_s)
        with pytest.raises(AgentError):
            opening.result()
        assert longest_s < 0.5
    finally:
        agents.kill()
        agents.wait()
