"""Fake agents in a process of their own, with a socket that tells how many of them were polled since a moment.

`python -m bench.fake_fleet DIR FIRST COUNT`. On `DIR/<FIRST>.polls` a line `mark` begins to count anew; a line `count`
is answered with the number of agents that have been asked for the status of a command since then.
"""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from lab.fake_agent.agent import FakeAgent

_RPC = "guest-exec-status"


class Counter:
    """Counts polled agents."""

    def __init__(self, agents: list[FakeAgent]) -> None:
        self._agents = agents
        self._before = [0] * len(agents)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it leaves."""
        while line := await reader.readline():
            if line == b"mark\n":
                self._before = [agent.received(_RPC) for agent in self._agents]
            pairs = zip(self._agents, self._before, strict=True)
            writer.write(b"%d\n" % sum(agent.received(_RPC) > before for agent, before in pairs))
        writer.close()


async def run_fleet(folder: Path, first: int, count: int) -> None:
    """Serve all agents until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with contextlib.AsyncExitStack() as fleet:
        agents = [FakeAgent(folder / f"{vmid}.qga", reuse_pids=True) for vmid in range(first, first + count)]
        for agent in agents:
            await fleet.enter_async_context(agent)
        await asyncio.start_unix_server(Counter(agents).serve, folder / f"{first}.polls")
        await stopped.wait()


def main() -> None:
    """Read the command line and run until told to stop."""
    if sys.version_info < (3, 12):  # by default it has a thread wait for each program, until 3.12 made this the default
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    asyncio.run(run_fleet(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))


if __name__ == "__main__":
    main()
