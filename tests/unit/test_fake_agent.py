"""The fake agent, first side by side with the real qemu-ga, then what only the fake one can be made to do.

The real one runs in its unix-listen mode: there it shows its own protocol, but not QEMU's port in front of it.
"""

import asyncio
import base64
import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lab.fake_agent import FakeAgent, misbehaviour
from lab.fake_agent.chardev import CHUNK_BYTES, Chardev
from lab.fake_agent.exchange import Behaviour
from lab.fake_agent.json_stream import JsonStream

DEADLINE_S = 10
SILENCE_S = 0.1
SERVED_BY_US = (
    *("ping", "sync", "sync-delimited", "info", "get-osinfo", "shutdown", "exec", "exec-status"),
    *("file-open", "file-read", "file-seek", "file-close", "get-host-name", "ssh-get-authorized-keys"),
)
# A real agent acts on the very machine it runs on.
DANGEROUS = (
    "guest-shutdown,guest-set-time,guest-set-user-password,guest-set-vcpus,guest-set-memory-blocks,guest-suspend-disk,"
    "guest-suspend-ram,guest-suspend-hybrid,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,"
    "guest-fstrim,guest-ssh-add-authorized-keys,guest-ssh-remove-authorized-keys,guest-file-write"
)
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Client:
    """A raw client: bytes out, lines in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_unix_connection(self._path, limit=2**26)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), DEADLINE_S)

    async def line(self) -> bytes:
        return await asyncio.wait_for(self.reader.readline(), DEADLINE_S)

    async def ask(self, rpc: str, **arguments: Any) -> None:
        await self.send(asked(rpc, **arguments))

    async def reply(self) -> Any:
        return json.loads(await self.line())

    async def call(self, rpc: str, **arguments: Any) -> Any:
        await self.ask(rpc, **arguments)
        return await self.reply()

    async def get(self, rpc: str, **arguments: Any) -> Any:
        return (await self.call(rpc, **arguments))["return"]

    async def is_silent(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.readexactly(1), SILENCE_S)
        except TimeoutError:
            return True
        return False

    async def run(self, *argv: str, **options: Any) -> dict[str, Any]:
        """Run a program to its end and return its status, with the output decoded."""
        path, *arg = argv
        pid = (await self.get("guest-exec", **{"path": path, "arg": arg, "capture-output": True} | options))["pid"]
        return decoded(await self.ended(pid))

    async def ended(self, pid: int) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                status: dict[str, Any] = await self.get("guest-exec-status", pid=pid)
                if status["exited"]:
                    return status
                await asyncio.sleep(0.01)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.005)


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


async def listens(path: Path) -> bool:
    try:
        async with Client(path):
            return True
    except FileNotFoundError:
        return False


def asked(rpc: str, **arguments: Any) -> bytes:
    return json.dumps({"execute": rpc, "arguments": arguments}).encode()


def decoded(status: dict[str, Any]) -> dict[str, Any]:
    return {key: base64.b64decode(value) if key.endswith("-data") else value for key, value in status.items()}


def sh(script: str) -> tuple[str, str, str]:
    return ("/bin/sh", "-c", script)


@pytest.fixture(scope="module")
def qemu_ga(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The real one, in a process group of its own, unable to do harm."""
    place = tmp_path_factory.mktemp("qemu-ga")
    path = place / "qga"
    command: list[str | Path]
    command = ["qemu-ga", "-m", "unix-listen", "-p", path, "-b", DANGEROUS, "-t", place, "-f", place / "pid"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, process_group=0)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not path.exists():
            assert process.poll() is None, "qemu-ga does not start"
            assert time.monotonic() < deadline, "qemu-ga does not listen"
        yield path
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeAgent]:
    async with FakeAgent(tmp_path / "fake.qga", disabled=["guest-shutdown"]) as agent:
        yield agent


@pytest.fixture
def both(qemu_ga: Path, fake: FakeAgent) -> tuple[Path, Path]:
    return qemu_ga, fake.path


@pytest.fixture(params=["qemu-ga", "fake agent"])
def peer(request: pytest.FixtureRequest, both: tuple[Path, Path]) -> Path:
    """One, then the other: what holds for this is a truth about qemu-ga."""
    return both[["qemu-ga", "fake agent"].index(request.param)]


@pytest.fixture
async def client(peer: Path) -> AsyncIterator[Client]:
    async with Client(peer) as connected:
        await connected.send(b"\xff" + asked("guest-sync", id=1))  # an unclosed object of an earlier test
        assert [await connected.reply(), await connected.reply()][1] == {"return": 1}
        yield connected


# --- the same answers as the real one ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "request_",
    [
        {"execute": "guest-ping"},
        {"execute": "guest-ping", "id": 7},
        {"execute": "guest-ping", "id": None},
        {"execute": "guest-ping", "id": {"a": ["nested"]}},
        {"execute": "guest-ping", "arguments": {}},
        {"execute": "guest-ping", "arguments": {"x": 1}, "id": 7},
        {"execute": "guest-ping", "arguments": []},
        {"execute": "guest-ping", "x": 1, "id": 7},
        {"execute": 1},
        {"arguments": {}},
        {},
        [],
        "text",
        {"execute": "guest-nonsense", "id": 1},
        {"execute": "guest-shutdown", "id": 1},
        {"execute": "guest-sync", "arguments": {"id": 2**63 - 1}},
        {"execute": "guest-sync", "arguments": {"id": -(2**63)}},
        {"execute": "guest-sync", "arguments": {"id": 2**63}},
        {"execute": "guest-sync", "arguments": {"id": -(2**63) - 1}},
        {"execute": "guest-sync", "arguments": {"id": 1.5}},
        {"execute": "guest-sync", "arguments": {"id": "1"}},
        {"execute": "guest-sync", "arguments": {"id": True}},
        {"execute": "guest-sync"},
        {"execute": "guest-get-osinfo"},
        {"execute": "guest-get-host-name"},
        {"execute": "guest-get-host-name", "arguments": {"x": 1}},
        {"execute": "guest-ssh-get-authorized-keys"},
        {"execute": "guest-ssh-get-authorized-keys", "arguments": {"username": 1}},
        {"execute": "guest-ssh-get-authorized-keys", "arguments": {"username": "no-such-user"}},
        {"execute": "guest-exec"},
        {"execute": "guest-exec", "arguments": {"path": 1}},
        {"execute": "guest-exec", "arguments": {"path": "/nonsense"}},
        {"execute": "guest-exec", "arguments": {"path": "nonsense"}},
        {"execute": "guest-exec", "arguments": {"path": "/etc"}},
        {"execute": "guest-exec", "arguments": {"path": "/etc/passwd"}},
        {"execute": "guest-exec", "arguments": {"path": "true", "arg": "x"}},
        {"execute": "guest-exec", "arguments": {"path": "true", "arg": ["a", 1]}},
        {"execute": "guest-exec", "arguments": {"path": "true", "arg": ["a" * 140_000]}},
        {"execute": "guest-exec", "arguments": {"path": "true", "arg": None}},
        {"execute": "guest-exec", "arguments": {"path": "true", "env": ["PATH=/nonsense"]}},
        {"execute": "guest-exec", "arguments": {"path": "true", "input-data": "!!!"}},
        {"execute": "guest-exec", "arguments": {"path": "true", "capture-output": "merged"}},
        {"execute": "guest-exec", "arguments": {"path": "true", "x": 1}},
        {"execute": "guest-exec-status", "arguments": {"pid": 1}},
        {"execute": "guest-exec-status", "arguments": {"pid": "1"}},
        {"execute": "guest-exec-status"},
        {"execute": "guest-file-open", "arguments": {"path": "/nonsense"}},
        {"execute": "guest-file-open", "arguments": {"path": "/etc/passwd", "mode": "nonsense"}},
        {"execute": "guest-file-read", "arguments": {"handle": 1}},
        {"execute": "guest-file-read", "arguments": {"handle": 1, "count": "1"}},
        {"execute": "guest-file-seek", "arguments": {"handle": 1, "offset": 0, "whence": 0}},
        {"execute": "guest-file-seek", "arguments": {"handle": 1, "offset": 0, "whence": None}},
        {"execute": "guest-file-seek", "arguments": {"handle": 1, "offset": 0}},
        {"execute": "guest-file-close", "arguments": {"handle": 1}},
    ],
    ids=lambda request: json.dumps(request)[:70],
)
async def test_it_answers_as_qemu_ga_does(request_: Any, both: tuple[Path, Path]):
    async with Client(both[0]) as real, Client(both[1]) as fake:
        for client in (real, fake):
            await client.send(json.dumps(request_).encode())
        assert await fake.reply() == await real.reply()


PIECES = st.sampled_from([
    *(
        b"\xff",
        b"\xfe",
        b"\x00",
        b"\x7f",
        b"@",
        b"!",
        b"\xc3\x28",
        b"\n",
        b" ",
        b"\t",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
    ),
    *(
        b"null",
        b"not json at all",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b'"text"',
        b'"',
        b"\\",
        b"12 ",
        b"-",
        b'"a\\"b"',
    ),
    *(b'{"execute": "guest-ping"}', b'{"execute": "guest-ping", "id": 1}', b'{"execute": ', b'{"a" 1}', b'{"a": 1,}'),
])


@given(pieces=st.lists(PIECES, max_size=12))
@example(pieces=[b"not json at all\n"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_it_takes_junk_for_as_many_messages_as_qemu_ga_does(pieces: list[bytes], both: tuple[Path, Path]):
    answers = []
    for path in both:
        async with Client(path) as client:
            await client.send(b"".join(pieces) + b"\n\xff" + asked("guest-sync-delimited", id=5))
            answers.append([kind async for kind in kinds_up_to_the_sentinel(client)])
    assert answers[0] == answers[1]


@given(pieces=st.lists(PIECES, max_size=12))
@example(pieces=[b"-12 "])
@example(pieces=[b"null "])
def test_how_the_bytes_arrive_makes_no_difference(pieces: list[bytes]):
    text = b"".join(pieces)
    by_byte = JsonStream()
    assert list(JsonStream().feed(text)) == [value for byte in text for value in by_byte.feed(bytes([byte]))]


async def kinds_up_to_the_sentinel(client: Client) -> AsyncIterator[str]:
    while not (line := await client.line()).startswith(b"\xff"):
        yield "error" if b'"error"' in line else "return"


# --- the same behaviour as the real one -------------------------------------------------------------------------------
async def test_a_leading_ff_yields_an_error_without_id_and_then_the_sentinel(client: Client):
    await client.send(
        b"\xff" + json.dumps({"execute": "guest-sync-delimited", "arguments": {"id": 5}, "id": "x"}).encode()
    )
    error = await client.reply()
    assert error.keys() == {"error"}
    assert error["error"]["class"] == "GenericError"
    line = await client.line()
    assert line[:1] == b"\xff"
    assert json.loads(line[1:]) == {"return": 5, "id": "x"}


async def test_an_unclosed_object_swallows_later_clients_until_an_ff_comes(peer: Path):
    async with Client(peer) as first:
        await first.send(b'{"execute": "guest-ping", "arguments": {')
    async with Client(peer) as second:
        await second.ask("guest-ping")
        assert await second.is_silent()
    async with Client(peer) as third:
        await third.send(b"\xff" + asked("guest-sync", id=3))
        assert "error" in await third.reply()
        assert await third.reply() == {"return": 3}


async def test_a_request_may_come_in_pieces_and_two_in_one(client: Client):
    for byte in asked("guest-sync", id=1):
        await client.send(bytes([byte]))
    assert await client.reply() == {"return": 1}
    await client.send(asked("guest-sync", id=2) + asked("guest-sync", id=3))
    assert [await client.reply(), await client.reply()] == [{"return": 2}, {"return": 3}]


async def test_a_second_client_waits_in_silence_and_is_served_when_the_first_left(peer: Path):
    async with Client(peer) as first, Client(peer) as second:
        await second.ask("guest-sync", id=2)
        await first.ask("guest-sync", id=1)
        assert await first.reply() == {"return": 1}
        assert await second.is_silent()
        first.writer.close()
        assert await second.reply() == {"return": 2}


async def test_info_lists_what_is_enabled(client: Client):
    info = await client.get("guest-info")
    commands = {command["name"]: command for command in info["supported_commands"]}
    for name in SERVED_BY_US:
        assert commands[f"guest-{name}"] == {
            "name": f"guest-{name}",
            "enabled": name != "shutdown",
            "success-response": name != "shutdown",
        }
    assert info["version"].split(".")[0] == "7"


async def test_exec_gives_code_stdout_and_stderr(client: Client):
    status = await client.run(*sh("echo out; echo err >&2; exit 7"))
    assert status == {
        "exited": True,
        "exitcode": 7,
        "out-data": b"out\n",
        "out-truncated": False,
        "err-data": b"err\n",
        "err-truncated": False,
    }


async def test_a_signal_stands_in_place_of_the_code(client: Client):
    assert await client.run(*sh("kill -9 $$")) == {"exited": True, "signal": 9}


async def test_output_is_thrown_away_unless_asked_for(client: Client):
    assert await client.run(*sh("echo out; exit 3"), **{"capture-output": False}) == {"exited": True, "exitcode": 3}


async def test_env_replaces_the_environment(client: Client):
    assert (await client.run("env", env=["A=1", "B=x=y"]))["out-data"] == b"A=1\nB=x=y\n"
    assert "out-data" not in await client.run("env", env=[])
    assert b"PATH=" in (await client.run("env"))["out-data"]


async def test_arguments_go_to_the_program_as_they_are(client: Client):
    assert (await client.run("printf", "%s|", "$HOME", "a b", "*"))["out-data"] == b"$HOME|a b|*|"


async def test_input_data_is_stdin_and_ends(client: Client):
    data = os.urandom(300_000)
    status = await client.run("cat", **{"input-data": base64.b64encode(data).decode()})
    assert status["out-data"] == data
    stdin = await client.run("readlink", "/proc/self/fd/0", **{"input-data": ""})
    assert stdin["out-data"].startswith(b"pipe:")


async def test_stdin_is_empty_unless_given(client: Client):
    assert (await client.run("readlink", "/proc/self/fd/0"))["out-data"] == b"/dev/null\n"


async def test_the_pid_is_the_programs_own_and_it_leads_no_group(client: Client):
    pid = (await client.get("guest-exec", path="/bin/sh", arg=["-c", "echo $$"], **{"capture-output": True}))["pid"]
    assert decoded(await client.ended(pid))["out-data"] == b"%d\n" % pid
    own, group = (await client.run(*sh("ps -o pid=,pgid= -p $$")))["out-data"].split()
    assert own != group


async def test_a_result_is_told_once(client: Client):
    pid = (await client.get("guest-exec", path="true"))["pid"]
    await client.ended(pid)
    assert (await client.call("guest-exec-status", pid=pid))["error"]["class"] == "GenericError"


async def test_a_result_waits_for_later_clients(peer: Path):
    async with Client(peer) as first:
        pid = (await first.get("guest-exec", path="echo", arg=["hi"], **{"capture-output": True}))["pid"]
    async with Client(peer) as second:
        assert decoded(await second.ended(pid))["out-data"] == b"hi\n"


async def test_a_program_has_not_exited_while_a_grandchild_holds_its_output(client: Client, tmp_path: Path):
    os.mkfifo(tmp_path / "gate")
    script = f"echo early; (read _ < {tmp_path}/gate; echo late) & exit 0"
    pid = (await client.get("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True}))["pid"]
    await until(lambda: not is_there(pid))
    assert await client.get("guest-exec-status", pid=pid) == {"exited": False}
    (tmp_path / "gate").write_text("open\n")
    assert decoded(await client.ended(pid))["out-data"] == b"early\nlate\n"


@pytest.mark.parametrize(("size_bytes", "cut"), [(2**24, False), (2**24 + 1, True), (2**25, True)])
async def test_the_first_16_mib_are_kept_and_the_program_never_blocks(client: Client, size_bytes: int, *, cut: bool):
    status = await client.run(*sh(f"printf head; head -c {size_bytes - 4} /dev/zero; echo end >&2"))
    assert (status["exitcode"], status["err-data"], status["err-truncated"]) == (0, b"end\n", False)
    assert (len(status["out-data"]), status["out-data"][:4], status["out-truncated"]) == (2**24, b"head", cut)


async def test_files_are_read_by_handle(client: Client, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    handle = await client.get("guest-file-open", path=str(path), mode="rb")
    assert await client.get("guest-file-read", handle=handle, count=4) == chunk(b"0123", eof=False)
    assert await client.get("guest-file-read", handle=handle) == chunk(b"456789", eof=True)
    with path.open("ab") as file:
        file.write(b"more")
    assert await client.get("guest-file-read", handle=handle, count=4) == chunk(b"more", eof=False)
    assert await client.get("guest-file-seek", handle=handle, offset=-3, whence="end") == {"position": 11, "eof": False}
    assert await client.get("guest-file-read", handle=handle) == chunk(b"ore", eof=True)
    assert await client.get("guest-file-close", handle=handle) == {}
    assert "error" in await client.call("guest-file-close", handle=handle)


async def test_a_handle_outlives_its_client_and_its_number_is_not_used_again(peer: Path):
    async with Client(peer) as first:
        handle = await first.get("guest-file-open", path="/etc/passwd")
    async with Client(peer) as second:
        assert (await second.get("guest-file-read", handle=handle, count=1))["count"] == 1
        await second.get("guest-file-close", handle=handle)
        assert await second.get("guest-file-open", path="/etc/passwd") == handle + 1
        await second.get("guest-file-close", handle=handle + 1)


@pytest.mark.parametrize(
    ("rpc", "arguments"),
    [
        ("guest-file-read", {"count": -1}),
        ("guest-file-read", {"count": 48 * 2**20 + 1}),
        ("guest-file-seek", {"offset": -1, "whence": 0}),
        ("guest-file-seek", {"offset": 0, "whence": 9}),
        ("guest-file-seek", {"offset": 0, "whence": "nonsense"}),
    ],
)
async def test_a_wrong_place_in_a_file_is_refused_alike(rpc: str, arguments: dict[str, Any], both: tuple[Path, Path]):
    answers = []
    for path in both:
        async with Client(path) as client:
            handle = await client.get("guest-file-open", path="/etc/passwd")
            answers.append(await client.call(rpc, handle=handle, **arguments))
            await client.get("guest-file-close", handle=handle)
    assert "error" in answers[0]
    assert answers[0] == answers[1]


async def test_a_directory_opens_but_cannot_be_read(client: Client):
    handle = await client.get("guest-file-open", path="/etc")
    assert (await client.call("guest-file-read", handle=handle))["error"]["desc"].endswith("Is a directory")
    await client.get("guest-file-close", handle=handle)


async def test_a_read_goes_on_where_the_kernel_gives_less_at_a_time(client: Client):
    handle = await client.get("guest-file-open", path="/proc/kallsyms")
    assert (await client.get("guest-file-read", handle=handle, count=100_000))["count"] == 100_000
    await client.get("guest-file-close", handle=handle)


async def test_a_fifo_without_a_writer_holds_nobody_up(client: Client, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    handle = await client.get("guest-file-open", path=str(tmp_path / "fifo"))
    assert await client.get("guest-file-read", handle=handle) == chunk(b"", eof=True)
    await client.get("guest-file-close", handle=handle)


async def test_the_agent_and_the_boot_can_be_told_by_their_files(client: Client):
    before, _, after = (await content(client, "/proc/self/stat")).rpartition(") ")
    fields = after.split()
    assert before.split(" (")[0].isdigit()
    assert before.endswith("qemu-ga")
    assert fields[19].isdigit()
    assert len(fields) == 50
    assert len(await content(client, BOOT_ID)) == 37


def chunk(data: bytes, *, eof: bool) -> dict[str, Any]:
    return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": eof}


async def content(client: Client, path: str) -> str:
    handle = await client.get("guest-file-open", path=path)
    read = await client.get("guest-file-read", handle=handle)
    await client.get("guest-file-close", handle=handle)
    return base64.b64decode(read["buf-b64"]).decode()


# --- QEMU's port, which a unix-listening agent does not have ----------------------------------------------------------
async def test_a_reply_to_a_client_that_left_goes_to_the_next(fake: FakeAgent):
    fake.go_silent()
    async with Client(fake.path) as first:
        await first.ask("guest-sync", id=1)
    async with Client(fake.path) as second:
        await second.ask("guest-sync", id=2)
        fake.speak_again()
        assert [await second.reply(), await second.reply()] == [{"return": 1}, {"return": 2}]


async def test_what_a_client_did_not_read_of_a_long_reply_goes_to_the_next(fake: FakeAgent):
    async with Client(fake.path) as first:
        handle = await first.get("guest-file-open", path="/dev/zero")
        await first.ask("guest-file-read", handle=handle, count=2**23)
        await first.reader.readexactly(100)
    async with Client(fake.path) as second:
        await second.ask("guest-sync", id=2)
        rest = await second.line()
        assert rest.endswith(b'"eof": false}}\n')
        assert len(rest) > 2**23
        assert await second.reply() == {"return": 2}


async def test_a_client_that_ended_its_stream_has_left_even_if_a_long_reply_waits_for_it(tmp_path: Path):
    async with Chardev(tmp_path / "port") as port:
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "port"))
            writing = asyncio.create_task(port.write(b"x" * 2**20))
            await until(lambda: port.clients_served == 1)
            first.shutdown(socket.SHUT_WR)
            async with Client(tmp_path / "port") as second:
                await asyncio.wait_for(second.reader.readexactly(2**19), DEADLINE_S)
                await writing


async def test_what_is_written_while_nobody_knows_that_the_client_left_is_not_lost(tmp_path: Path):
    async with Chardev(tmp_path / "port") as port:
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "port"))
            await until(lambda: port.clients_served == 1)
        writing = asyncio.create_task(port.write(b"owed"))
        async with Client(tmp_path / "port") as second:
            assert await asyncio.wait_for(second.reader.readexactly(4), DEADLINE_S) == b"owed"
        await writing


async def test_a_long_reply_lets_other_agents_of_the_process_have_their_turns(tmp_path: Path):
    turns = itertools.count()

    async def take_turns() -> None:
        while True:
            next(turns)
            await asyncio.sleep(0)

    async with Chardev(tmp_path / "port") as port, Client(tmp_path / "port"):
        await until(lambda: port.clients_served == 1)
        other = asyncio.create_task(take_turns())
        await port.write(b"x" * 4 * CHUNK_BYTES)
        other.cancel()
        assert next(turns) >= 4


async def test_without_an_agent_all_is_silence_until_one_starts(fake: FakeAgent):
    fake.stop()
    async with Client(fake.path) as gone:
        await gone.ask("guest-sync", id=1)
    async with Client(fake.path) as stays:
        await stays.ask("guest-sync", id=2)
        assert await stays.is_silent()
        fake.start()
        assert await stays.reply() == {"return": 2}


async def test_a_client_that_wrote_more_than_the_port_takes_can_leave(fake: FakeAgent):
    fake.go_silent()
    async with Client(fake.path) as first:
        first.writer.write(asked("guest-ping") + b'"' + b"x" * 2**23)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first.writer.drain(), SILENCE_S)
        first.writer.transport.abort()
    async with Client(fake.path) as second:
        await second.send(b"\xff" + asked("guest-sync", id=2))
        fake.speak_again()
        assert [(await second.reply()).keys() for _ in range(3)] == [{"return"}, {"error"}, {"return"}]


async def test_two_clients_may_wait_and_the_third_is_told_to_try_again(fake: FakeAgent):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4)]
        async with Client(fake.path) as served:
            await served.get("guest-ping")
            for waiting in clients:
                waiting.settimeout(0)
            assert [waiting.connect_ex(str(fake.path)) for waiting in clients[:3]] == [0, 0, errno.EAGAIN]


async def test_a_restart_keeps_the_connection_and_forgets_programs_files_and_half_requests(fake: FakeAgent):
    async with Client(fake.path) as client:
        pid = (await client.get("guest-exec", path="true"))["pid"]
        handle = await client.get("guest-file-open", path="/proc/self/stat")
        identity, boot = await content(client, "/proc/self/stat"), await content(client, BOOT_ID)
        await client.send(b'{"execute": ')
        assert await client.is_silent()
        fake.restart()
        assert await client.get("guest-ping") == {}
        assert "error" in await client.call("guest-exec-status", pid=pid)
        assert "error" in await client.call("guest-file-read", handle=handle)
        assert await client.get("guest-file-open", path="/etc/passwd") > handle
        again = await content(client, "/proc/self/stat")
        assert (again.split()[0], again.split()[21]) != (identity.split()[0], identity.split()[21])
        assert await content(client, BOOT_ID) == boot


async def test_what_an_agent_had_not_answered_dies_with_it(fake: FakeAgent):
    fake.go_silent()
    async with Client(fake.path) as client:
        await client.ask("guest-sync", id=1)
        assert await client.is_silent()
        await client.ask("guest-sync", id=2)  # this one it has not even read
        assert await client.is_silent()
        fake.restart()
        assert await client.get("guest-sync", id=3) == 3


async def test_an_agent_that_dies_closes_its_files(fake: FakeAgent):
    async with Client(fake.path) as client:
        few = open_files()
        for _ in range(20):
            await client.get("guest-file-open", path="/etc/passwd")
        assert open_files() == few + 20
        fake.restart()
        await until(lambda: open_files() == few)


async def test_a_program_that_writes_after_its_agent_died_meets_a_broken_pipe(fake: FakeAgent, tmp_path: Path):
    gate, survived = tmp_path / "gate", tmp_path / "survived"
    os.mkfifo(gate)
    async with Client(fake.path) as client:
        arg = ["-c", f"read _ < {gate}; echo late; mkdir {survived}"]
        pid = (await client.get("guest-exec", path="/bin/sh", arg=arg, **{"capture-output": True}))["pid"]
        fake.restart()
        assert await client.get("guest-ping") == {}
        gate.write_text("open\n")
        await until(lambda: not is_there(pid))
    assert not survived.exists()


async def test_a_reboot_looks_like_the_boot_before_but_for_its_id_and_ends_all_programs(fake: FakeAgent):
    async with Client(fake.path) as client:
        pid = (await client.get("guest-exec", path="sleep", arg=["60"]))["pid"]
        identity, boot = await content(client, "/proc/self/stat"), await content(client, BOOT_ID)
        await fake.reboot()
        assert await content(client, "/proc/self/stat") == identity
        assert await content(client, BOOT_ID) != boot
        assert "error" in await client.call("guest-exec-status", pid=pid)
        assert not is_there(pid)


async def test_pids_may_begin_anew_with_each_run(tmp_path: Path):
    path = tmp_path / "reusing.qga"
    async with FakeAgent(path, reuse_pids=True) as agent, Client(path) as client:
        old = [(await client.get("guest-exec", path="true"))["pid"] for _ in range(2)]
        agent.restart()
        assert "error" in await client.call("guest-exec-status", pid=old[0])
        status = await client.run("echo", "new")
        assert status["out-data"] == b"new\n"
        assert (await client.get("guest-exec", path="true"))["pid"] == old[1] == old[0] + 1
        assert old[0] > 2**22, "no program of this machine has such a number"


async def test_a_silent_agent_answers_late_and_in_order(fake: FakeAgent):
    fake.go_silent()
    async with Client(fake.path) as client:
        await client.send(asked("guest-sync", id=1) + asked("guest-sync", id=2))
        assert await client.is_silent()
        fake.speak_again()
        assert [await client.reply(), await client.reply()] == [{"return": 1}, {"return": 2}]


async def test_an_rpc_can_be_disabled_and_enabled_at_any_time(fake: FakeAgent):
    async with Client(fake.path) as client:
        fake.disabled.add("guest-exec")
        refused = await client.call("guest-exec", path="true")
        assert refused["error"] == {"class": "CommandNotFound", "desc": "Command guest-exec has been disabled"}
        fake.disabled.clear()
        assert (await client.get("guest-exec", path="true"))["pid"]


async def test_an_argument_that_no_program_can_take_is_refused(fake: FakeAgent):
    async with Client(fake.path) as client:
        assert "null byte" in (await client.call("guest-exec", path="true", arg=["a\0b"]))["error"]["desc"]


async def test_a_shutdown_is_written_down_and_not_answered(fake: FakeAgent):
    fake.disabled.clear()
    async with Client(fake.path) as client:
        await client.send(asked("guest-shutdown") + asked("guest-shutdown", mode="reboot"))
        assert await client.get("guest-ping") == {}
        assert fake.shutdowns == ["powerdown", "reboot"]


async def test_it_counts_what_it_was_asked_done_or_not(fake: FakeAgent):
    fake.disabled.add("guest-exec")
    async with Client(fake.path) as client:
        await client.call("guest-exec", path="true")
        await client.send(b"\xff[]")
        assert [await client.reply(), await client.reply()]
    assert (fake.received("guest-exec"), fake.received("guest-ping")) == (1, 0)


async def test_it_leaves_no_program_behind_and_no_socket(tmp_path: Path):
    path, started = tmp_path / "brief.qga", tmp_path / "started"
    async with FakeAgent(path) as agent, Client(path) as client:
        forgotten = (await client.get("guest-exec", path="sleep", arg=["60"]))["pid"]
        agent.restart()
        group = (await client.get("guest-exec", path="setsid", arg=sh(f"sleep 60 & mkdir {started}; sleep 60")))["pid"]
        await until(started.exists)
    assert not is_there(forgotten)
    await until(lambda: is_gone(group))
    assert not await listens(path)


async def test_it_takes_the_place_of_a_stale_socket_and_can_be_left_while_clients_wait(tmp_path: Path):
    path = tmp_path / "stale.qga"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with FakeAgent(path):
        served, waiting = Client(path), Client(path)
        await served.__aenter__()
        await waiting.__aenter__()
        assert await served.get("guest-ping") == {}
    for client in (served, waiting):
        with contextlib.suppress(ConnectionError):
            assert await client.line() == b""
        await client.__aexit__()


# --- misbehaviour, each kind ------------------------------------------------------------------------------------------
@contextlib.asynccontextmanager
async def misbehaving(path: Path, how: Behaviour, rpc: str = "guest-sync") -> AsyncIterator[tuple[FakeAgent, Client]]:
    async with FakeAgent(path, behaviour=misbehaviour.Script({rpc: how})) as agent, Client(path) as client:
        yield agent, client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bad.qga"


async def test_deaf_does_nothing_and_mute_does_it_in_silence(path: Path, tmp_path: Path):
    for how, done in ((misbehaviour.Deaf(), False), (misbehaviour.Mute(), True)):
        async with misbehaving(path, how, "guest-exec") as (agent, client):
            proof = tmp_path / type(how).__name__
            await client.ask("guest-exec", path="mkdir", arg=[str(proof)])
            assert await client.get("guest-ping") == {}, "other RPCs are not concerned"
            assert agent.received("guest-exec") == 1
            if done:
                await until(proof.exists)
        assert proof.exists() is done


async def test_late_and_held_answer_in_the_end(path: Path):
    released = asyncio.Event()
    async with misbehaving(path, misbehaviour.Held(released)) as (_, client):
        await client.ask("guest-sync", id=1)
        assert await client.is_silent()
        released.set()
        assert await client.reply() == {"return": 1}
    async with misbehaving(path, misbehaviour.Late(delay_s=2 * SILENCE_S)) as (_, client):
        await client.ask("guest-sync", id=1)
        assert await client.is_silent()
        assert await client.reply() == {"return": 1}


async def test_first_misbehaves_so_many_times(path: Path):
    async with misbehaving(path, misbehaviour.First(2, misbehaviour.Deaf())) as (_, client):
        await client.send(asked("guest-sync", id=1) + asked("guest-sync", id=2) + asked("guest-sync", id=3))
        assert await client.reply() == {"return": 3}


async def test_a_star_stands_for_all_other_rpcs(path: Path):
    parts = {"*": misbehaviour.Deaf(), "guest-sync": misbehaviour.Twice()}
    async with FakeAgent(path, behaviour=misbehaviour.Script(parts)), Client(path) as client:
        await client.send(asked("guest-ping") + asked("guest-sync", id=1))
        assert [await client.reply(), await client.reply()] == [{"return": 1}] * 2


async def test_a_reply_may_come_in_pieces(path: Path):
    async with misbehaving(path, misbehaviour.InPieces(pause_s=0.01)) as (_, client):
        await client.ask("guest-sync", id=123456789)
        first = await client.reader.read(2**16)
        assert 0 < len(first) < 10
        assert json.loads(first + await client.line()) == {"return": 123456789}


async def test_two_replies_may_come_in_one_read(path: Path):
    async with misbehaving(path, misbehaviour.InPairs()) as (_, client):
        await client.ask("guest-sync", id=1)
        assert await client.is_silent()
        await client.ask("guest-sync", id=2)
        assert await client.reader.read(2**16) == b'{"return": 1}\n{"return": 2}\n'


@pytest.mark.parametrize(
    ("how", "sent"),
    [
        (misbehaviour.HangUpBefore(), b""),
        (misbehaviour.HangUpWithin(), b'{"retur'),
        (misbehaviour.HangUpAfter(), b'{"return": 1}\n'),
        (misbehaviour.JunkBefore(b"junk\n"), b'junk\n{"return": 1}\n'),
        (misbehaviour.JunkBefore(), b'{"return": {"pid": 103}, "id": "__qmp#00000"}\n{"return": 1}\n'),
        (misbehaviour.Twice(), b'{"return": 1}\n{"return": 1}\n'),
        (misbehaviour.WrongSyncId(), b'{"return": 2}\n'),
        (misbehaviour.ErrorWithoutClass(), b'{"error": {"desc": "something went wrong"}, "id": null}\n'),
        (misbehaviour.NotAnObject(), b'[{"return": 1}]\n'),
        (misbehaviour.ForeignId(), b'{"return": 1, "id": "nobody-asked"}\n'),
        (misbehaviour.DeepJson(3), b'{"return": [[[]]], "id": null}\n'),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_it_sends_this_instead_of_the_reply(path: Path, how: Behaviour, sent: bytes):
    async with misbehaving(path, how) as (_, client):
        await client.ask("guest-sync", id=1)
        if isinstance(how, (misbehaviour.HangUpBefore, misbehaviour.HangUpWithin, misbehaviour.HangUpAfter)):
            assert await asyncio.wait_for(client.reader.read(), DEADLINE_S) == sent
        else:
            assert await asyncio.wait_for(client.reader.readexactly(len(sent)), DEADLINE_S) == sent
            assert await client.is_silent()


@pytest.mark.parametrize(
    "how", [misbehaviour.EndlessLine(), misbehaviour.HugeJson()], ids=lambda how: type(how).__name__
)
async def test_a_flood_ends_when_another_client_is_served(path: Path, how: Behaviour):
    async with misbehaving(path, how) as (_, first):
        await first.ask("guest-sync", id=1)
        await asyncio.wait_for(first.reader.readexactly(2**22), DEADLINE_S)
        first.writer.transport.abort()
        async with Client(path) as second:
            await second.ask("guest-ping")
            line = await second.line()
            assert line.endswith(b'{"return": {}}\n')
            assert len(line) < 2**17


async def test_huge_json_is_good_json_of_that_size(path: Path):
    async with misbehaving(path, misbehaviour.HugeJson(3_000_000)) as (_, client):
        await client.send(json.dumps({"execute": "guest-sync", "arguments": {"id": 1}, "id": "a"}).encode())
        line = await client.line()
        assert len(line) == pytest.approx(3_000_000, rel=0.02)
        assert json.loads(line)["id"] == "a"


async def test_deep_json_is_a_hundred_thousand_deep(path: Path):
    async with misbehaving(path, misbehaviour.DeepJson()) as (_, client):
        await client.ask("guest-sync", id=1)
        assert (await client.line()).count(b"[") == 100_000


async def test_an_old_agent_flags_cut_output_by_a_key_that_says_false(path: Path):
    async with misbehaving(path, misbehaviour.OldTruncationFlags(), "guest-exec-status") as (_, client):
        status = await client.run(*sh(f"head -c {2**24 + 1} /dev/zero; echo err >&2"))
        assert (status["out-truncated"], len(status["out-data"]), status["err-data"]) == (False, 2**24, b"err\n")
        assert "err-truncated" not in status


# --- the fleet --------------------------------------------------------------------------------------------------------
async def test_a_fleet_listens_misbehaves_and_ends_when_told_to(tmp_path: Path):
    options = ["--dir", str(tmp_path), "--count", "3", "--misbehave", "guest-ping=twice", "--disable", "guest-exec"]
    fleet = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lab.fake_agent", *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert fleet.stdout
        assert b"3 agents listen" in await asyncio.wait_for(fleet.stdout.readline(), DEADLINE_S)
        for vmid in (10000, 10001, 10002):
            async with Client(tmp_path / f"{vmid}.qga") as client:
                assert [await client.get("guest-ping"), (await client.reply())["return"]] == [{}, {}]
                assert (await client.call("guest-exec", path="true"))["error"]["class"] == "CommandNotFound"
    finally:
        fleet.terminate()
        assert await asyncio.wait_for(fleet.wait(), DEADLINE_S) == 0
    assert not await listens(tmp_path / "10000.qga")
