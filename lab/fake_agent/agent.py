"""The fake agent: a port, a qemu-ga behind it that can die and come again, and the handles for a test.

Responsible for lives and deaths, and for counting what was asked. What is answered stands in `rpcs`, and how the
answer is sent in `misbehaviour`.
"""

import asyncio
import contextlib
import itertools
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.fake_agent.accounts import Accounts
from lab.fake_agent.chardev import Chardev
from lab.fake_agent.dispatch import Reply, RpcError
from lab.fake_agent.exchange import Behaviour, Exchange, Honest
from lab.fake_agent.files import OpenFiles
from lab.fake_agent.json_stream import JsonStream, Malformed
from lab.fake_agent.processes import Processes
from lab.fake_agent.rpcs import Rpcs

FIRST_PID = 300
TICKS_BETWEEN_STARTS = 1000


class Boot:
    """One boot of the guest, and what tells it and its agent's runs from the next. All boots take the same course."""

    def __init__(self) -> None:
        self._boot_id = uuid.uuid4()
        self._agent_starts = 0

    def next_run(self) -> dict[str, bytes]:
        """Return the files that tell the next run of the agent who and where it is."""
        pid = FIRST_PID + self._agent_starts
        self._agent_starts += 1
        start_time_ticks = TICKS_BETWEEN_STARTS * self._agent_starts
        return {
            "/proc/self/stat": f"{pid} (qemu-ga) R 1 {pid} {pid} {'0 ' * 15}{start_time_ticks}{' 0' * 30}\n".encode(),
            "/proc/sys/kernel/random/boot_id": f"{self._boot_id}\n".encode(),
        }


class FakeAgent:
    """A guest agent on a socket at `path`, for as long as the `async with` block.

    `behaviour` and `disabled` may be changed at any time and hold from the next request on. `shutdowns` has the mode
    of each `guest-shutdown`; what becomes of the guest then is up to whoever reads it. With `reuse_pids` programs get
    numbers that begin anew with each run of the agent, and that only `guest-exec-status` knows. `accounts` has what was
    set of the guest's users.
    """

    def __init__(
        self, path: Path, *, behaviour: Behaviour | None = None, disabled: Iterable[str] = (), reuse_pids: bool = False
    ) -> None:
        self.path = path
        self.behaviour = behaviour or Honest()
        self.disabled = set(disabled)
        self.shutdowns: list[str] = []
        self.accounts = Accounts()
        self._port = Chardev(path)
        self._processes = Processes(reuse_pids=reuse_pids)
        self._boot = Boot()
        self._handles = itertools.count(1000)
        self._received: Counter[str] = Counter()
        self._awake = asyncio.Event()
        self._run: asyncio.Task[None] | None = None
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._closing.enter_async_context(self._port)
        self._closing.push_async_callback(self._processes.end_all)
        self._closing.push_async_callback(self._end_run)
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()

    def received(self, rpc: str) -> int:
        """Tell how often `rpc` was asked for, whatever came of it."""
        return self._received[rpc]

    def start(self) -> None:
        """Start the agent in the guest."""
        self._awake.set()
        self._port.open_port()
        self._run = asyncio.create_task(self._serve())

    def stop(self) -> None:
        """Kill the agent. Its socket stays, as QEMU's does; its programs go on, and their results are lost."""
        self._port.close_port()
        if self._run:
            self._run.cancel()
        self._processes.forget()

    def restart(self) -> None:
        """Kill the agent and start it again: another pid, another start time, no programs, no open files."""
        self.stop()
        self.start()

    async def reboot(self) -> None:
        """Reset the guest: its programs are gone, the boot id is new, and pid and start time are those of a boot."""
        self.stop()  # first: nobody is told that its programs end
        await self._processes.end_all()
        self._boot = Boot()
        self.start()

    def go_silent(self) -> None:
        """Stop the agent in its tracks, as SIGSTOP does: requests wait, and nothing is said of it."""
        self._awake.clear()

    def speak_again(self) -> None:
        """Let it go on, with all that was asked meanwhile."""
        self._awake.set()

    async def _end_run(self) -> None:
        self.stop()
        if self._run:
            with contextlib.suppress(asyncio.CancelledError):
                await self._run

    async def _serve(self) -> None:
        files = OpenFiles(self._handles, self._boot.next_run())
        rpcs = Rpcs(files, self._processes, self.accounts, self.disabled, self.shutdowns)
        stream = JsonStream()
        try:
            while True:
                for message in stream.feed(await self._port.read()):
                    await self._awake.wait()
                    await self._attend(message, rpcs)
        finally:
            files.close_all()

    async def _attend(self, message: object, rpcs: Rpcs) -> None:
        if isinstance(message, Malformed):
            await self._port.write(Reply(RpcError(message.desc).body).encode())
        else:
            exchange = Exchange(message, rpcs, self.disabled, self._port)
            self._received[exchange.rpc] += 1
            await self.behaviour.attend(exchange)
