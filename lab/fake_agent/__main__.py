"""A fleet of fake agents in one process: `python -m lab.fake_agent --dir D --count N`.

Their sockets are `D/<vmid>.qga`. Prints a line when all listen; ends, with all it started, on SIGTERM or SIGINT.
"""

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path

from lab.fake_agent.agent import FakeAgent
from lab.fake_agent.hostility import HOSTILE
from lab.fake_agent.misbehaviour import NAMED, Script

BEHAVIOURS = {**NAMED, **HOSTILE}


def main() -> None:
    """Read the command line and run the fleet until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m lab.fake_agent", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where the sockets are made")
    parser.add_argument("--count", type=int, default=1, help="how many agents (default: 1)")
    parser.add_argument("--first-vmid", type=int, default=10000, help="the number of the first (default: 10000)")
    parser.add_argument("--disable", action="append", default=[], metavar="RPC", help="disable an RPC; repeatable")
    parser.add_argument("--reuse-pids", action="store_true", help="number programs anew with each run of an agent")
    parser.add_argument(
        "--misbehave",
        action="append",
        default=[],
        metavar="RPC=HOW",
        help=f"misbehave on an RPC, or * for all; repeatable. HOW is one of: {', '.join(BEHAVIOURS)}",
    )
    asyncio.run(run_fleet(parser.parse_args()))


async def run_fleet(wanted: argparse.Namespace) -> None:
    """Serve all agents until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as fleet:
        for vmid in range(wanted.first_vmid, wanted.first_vmid + wanted.count):
            await fleet.enter_async_context(
                FakeAgent(
                    wanted.dir / f"{vmid}.qga",
                    behaviour=script(wanted.misbehave),
                    disabled=wanted.disable,
                    reuse_pids=wanted.reuse_pids,
                )
            )
        print(f"{wanted.count} agents listen in {wanted.dir}", flush=True)
        await stopped.wait()


def script(rules: list[str]) -> Script:
    """Return the behaviour that rules such as `guest-exec=mute` describe; one for each agent, as some keep a state."""
    return Script({rpc: BEHAVIOURS[how]() for rpc, _, how in (rule.partition("=") for rule in rules)})


if __name__ == "__main__":
    main()
