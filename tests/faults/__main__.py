"""`python -m tests.faults`: the long fault run, `make faults`. Prints its seed, what it does, and a table; exits with 1
if anything was lost, doubled or invented.
"""

import argparse
import os
import secrets
import signal
import sys

from lab import LabError
from lab.run import say
from tests.faults import table
from tests.faults.plan import Size
from tests.faults.run import run

_PARAMETERS = {
    "seed": (None, "the plan is drawn from it; the same one is the same plan"),
    "commands": (2000, "how many commands the clients start"),
    "kills": (40, "how often the worker is killed"),
    "redis": (5, "how often Redis is restarted"),
    "stalls": (5, "how often Redis stalls for seconds"),
    "restarts": (20, "how often an agent is restarted"),
    "agents": (10, "how many agents there are beside the real VM"),
    "span": (600, "seconds over which all of it is spread"),
    "limit": (1050, "seconds after which nothing more is begun; two minutes later it is over in any case"),
}
"""Each can be given on the command line, or in the environment as FAULTS_<NAME>."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run, print the table, and answer with an exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    for name, (default, meaning) in _PARAMETERS.items():
        given = os.environ.get(f"FAULTS_{name.upper()}") or default
        parser.add_argument(f"--{name}", type=int, default=given, help=f"{meaning} (default: {default or 'drawn'})")
    wanted = parser.parse_args()
    seed = secrets.randbelow(10**9) if wanted.seed is None else wanted.seed
    size = Size(
        commands=wanted.commands,
        worker_kills=wanted.kills,
        redis_restarts=wanted.redis,
        redis_stalls=wanted.stalls,
        agent_restarts=wanted.restarts,
        agents=wanted.agents,
        span_s=wanted.span,
    )
    for number in _SIGNALS:
        signal.signal(number, _break_off)
    try:
        outcome = run(seed, size, limit_s=wanted.limit, say=say)
    except KeyboardInterrupt as exc:
        say(f"the fault run was broken off by {exc} (seed {seed})")
        return 1
    except LabError as exc:
        say(f"the fault run didn't come about (seed {seed}): {exc}")
        return 1
    say(table.render(outcome))
    return 1 if outcome.verdict.violations else 0


def _break_off(number: int, _frame: object) -> None:
    """End the run, and all that it has started; a second signal doesn't disturb that.

    Raises:
        KeyboardInterrupt: Always.
    """
    for later in _SIGNALS:
        signal.signal(later, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


if __name__ == "__main__":
    sys.exit(main())
