"""One fault run, from an empty folder to a verdict: starts everything, lets it happen, waits for the dust, judges.

Puts the pieces together; what goes wrong is in `plan`, what counts as wrong in `verdict`.
"""

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis

from lab import LabError, accel, guest
from lab.demo import Api
from tests.faults import records
from tests.faults.clients import Crowd, Ticket
from tests.faults.guests import Guests
from tests.faults.plan import FaultKind, Order, Plan, Size, draw, make_token
from tests.faults.sabotage import Saboteur
from tests.faults.stage import NODE, Stage, until
from tests.faults.verdict import Evidence, Verdict, Violation, judge

_BOOT_TIMEOUT_S = 120
_SETTLE_S = 75.0
"""After the last command: deadlines of 10 s, agents that count as lost after 20 s, a sweep every 30 s."""
_PROGRAMS_TIMEOUT_S = 30
_FIRST_LAST_ORDER = 99000
_PROGRESS_S = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a run has shown."""

    plan: Plan
    verdict: Verdict
    faults: Counter[FaultKind]
    hung_up_agents: int
    """How often a qemu-ga ended by itself, because its client was killed before its reply."""
    duration_s: float
    worker_rss_bytes: int
    folder: Path
    """Logs of everything; removed when there was no violation."""


def run(seed: int, size: Size, *, limit_s: float, say: Say) -> Outcome:
    """Do a whole run. Nothing that it starts is left, whatever happens.

    Raises:
        LabError: Something didn't even start.
    """
    began_s = time.monotonic()
    plan = draw(seed, size)
    folder = Path(tempfile.mkdtemp(prefix="ownup-faults-"))
    with ExitStack() as cleanup:
        scene = _Scene(plan, folder, say, cleanup)
        say(
            f"seed {seed}: {len(plan.orders)} commands and {len(plan.faults)} faults in {size.span_s:g} s; see {folder}"
        )
        api = scene.boot()
        found = scene.let_it_happen(api, began_s + limit_s)
        verdict = judge(scene.collect(found.tickets))
        verdict.violations += [Violation("something ended by itself", note=note) for note in scene.stage.fallen]
        verdict.violations += [Violation("the run itself", note=note) for note in found.notes]
        rss_bytes, hung_up = scene.stage.worker_rss_bytes(), scene.stage.hung_up_agents
    if not verdict.violations:
        shutil.rmtree(folder)
    return Outcome(plan, verdict, found.faults, hung_up, time.monotonic() - began_s, rss_bytes, folder)


@dataclass(frozen=True)
class _Found:
    tickets: list[Ticket]
    faults: Counter[FaultKind]
    notes: list[str]


class _Scene:
    """Everything of one run while it lasts."""

    def __init__(self, plan: Plan, folder: Path, say: Say, cleanup: ExitStack) -> None:
        var_dir = Path(os.environ.get("VAR_DIR") or "var")
        lab_guest = guest.build(var_dir)
        self._plan = plan
        self._say = say
        self._cleanup = cleanup
        self._guests = Guests(folder, plan.guests, lab_guest)
        self.stage = Stage(folder, self._guests, accel.choose(var_dir, lab_guest))

    def boot(self) -> Api:
        """Start everything and wait until a command can be run in each guest."""
        self._guests.prepare()
        self._cleanup.callback(self._guests.end_programs)
        self._cleanup.callback(self._guests.stop_agents)
        self._cleanup.callback(self.stage.stop)
        self._guests.start_agents()
        api = self.stage.start()
        vm = f"/api/vm/{self._plan.vm.vmid}/status"
        until(_BOOT_TIMEOUT_S, "the VM is known", lambda: _status(api, vm) == "stopped")
        api.post(vm, {"action": "start"})
        for each in self._plan.guests:
            until(_BOOT_TIMEOUT_S, f"the agent of VM {each.vmid}", partial(_is_available, api, each.vmid), 0.2)
        return api

    def let_it_happen(self, api: Api, deadline_s: float) -> _Found:
        """Let clients and saboteur work, then wait until nothing more can come."""
        crowd = Crowd(api, self._plan.orders, self._guests.token_file)
        saboteur = Saboteur(self._plan, self.stage, self._guests, api, self._say)
        self._cleanup.callback(saboteur.close)
        self._cleanup.callback(crowd.stop)
        crowd.start()
        saboteur.work(self._progress(crowd), deadline_s - _SETTLE_S)
        late = crowd.busy
        crowd.stop()
        notes = [*crowd.failures, *(["not done within the time limit"] if late else [])]
        last = self._settle(api, notes)
        notes += _missing(self._plan, saboteur.done)
        return _Found([*crowd.tickets, *saboteur.tickets, *last], saboteur.done, notes)

    def _progress(self, crowd: Crowd) -> Callable[[], bool]:
        began_s = told_s = time.monotonic()

        def busy() -> bool:
            nonlocal told_s
            if time.monotonic() - told_s > _PROGRESS_S:
                told_s = time.monotonic()
                self._say(
                    f"{told_s - began_s:6.1f} s  {len(crowd.tickets)} of {len(self._plan.orders)} commands are over"
                )
            return crowd.busy

        return busy

    def _settle(self, api: Api, notes: list[str]) -> list[Ticket]:
        """Wait until all is quiet; a last command in each guest proves that it is well, and that its agent is through
        with everything that was sent before.
        """
        self._say("waiting until all is quiet")
        with redis.Redis.from_url(self.stage.redis_url) as client:
            notes += _late("no command is open", lambda: not records.list_open(client, NODE))
        crowd = Crowd(api, self._last_orders(), self._guests.token_file)
        crowd.start()
        notes += _late("the last commands are over", lambda: not crowd.busy)
        crowd.stop()
        notes += [f"VM {t.order.vmid} is not well at the end" for t in crowd.tickets if not _went_well(t)]
        if not self._guests.wait_for_programs(_PROGRAMS_TIMEOUT_S):
            notes.append("programs are left in the guests")
        return crowd.tickets

    def _last_orders(self) -> list[Order]:
        rng = random.Random(f"last {self._plan.seed}")
        return [
            Order(make_token(rng, _FIRST_LAST_ORDER + number), each.vmid, at_s=0.0)
            for number, each in enumerate(self._plan.guests)
        ]

    def collect(self, tickets: list[Ticket]) -> Evidence:
        """Read everything there is to know."""
        with redis.Redis.from_url(self.stage.redis_url) as client:
            keyed = [ticket.order for ticket in tickets if ticket.order.keyed]
            by_key = {order.token: found for order in keyed if (found := records.find_by_key(client, order))}
            held = records.read_all(client)
        tokens = {each.vmid: self._guests.tokens(each.vmid) for each in self._plan.guests}
        return Evidence(tickets=tickets, records=held, by_key=by_key, tokens=tokens)


def _late(what: str, probe: Callable[[], bool]) -> list[str]:
    """Wait until something is so; what there is to note if it doesn't come true."""
    try:
        until(_SETTLE_S, what, probe, 0.2)
    except LabError as exc:
        return [str(exc)]
    return []


def _status(api: Api, path: str) -> str:
    found = api.find(path)
    return found["status"] if found else ""


def _is_available(api: Api, vmid: int) -> bool:
    found = api.find(f"/api/vm/{vmid}/agent/exec")
    return bool(found and found["available"])


def _went_well(ticket: Ticket) -> bool:
    return ticket.ended and ticket.result is not None and ticket.result["state"] == "exited"


def _missing(plan: Plan, done: Counter[FaultKind]) -> list[str]:
    planned = Counter(fault.kind for fault in plan.faults)
    return [f"only {done[kind]} of {count} times: {kind}" for kind, count in planned.items() if done[kind] < count]
