"""The saboteur of a fault run: carries out a plan's faults at their moments, and brings back what it has ended.

Works in the main thread, which alone may start processes; what it asks of the API is asked by a thread of its own.
"""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from http.client import HTTPException

from lab.demo import Api
from tests.faults.clients import Client, Ticket
from tests.faults.guests import Guests
from tests.faults.plan import Fault, FaultKind, Order, Plan, make_token
from tests.faults.stage import Stage

_TICK_S = 0.02
_ATTEMPTS = 12
_PAUSE_S = 1.0
_JOB_TIMEOUT_S = 60.0
_FIRST_KILLER = 90000

_REDIS = {FaultKind.REDIS_KILL, FaultKind.REDIS_SHUTDOWN, FaultKind.REDIS_STALL}


class Saboteur:
    """Carries out one plan."""

    def __init__(self, plan: Plan, stage: Stage, guests: Guests, api: Api, say: Callable[[str], None]) -> None:
        self.done: Counter[FaultKind] = Counter()
        self.tickets: list[Ticket] = []
        """The commands by which it killed the agent in the VM."""
        self._plan = plan
        self._stage = stage
        self._guests = {guest.vmid: guest for guest in guests.fleet}
        self._all_guests = guests
        self._api = api
        self._say = say
        self._left = list(plan.faults)
        self._returns: dict[str, tuple[float, Callable[[], None]]] = {}
        """What is away: when it comes back, and how."""
        self._stop = threading.Event()
        self._client = Client(api, guests.token_file, self._stop)
        self._errands = ThreadPoolExecutor(1, thread_name_prefix="errand")
        self._pending: list[Future[None]] = []

    def work(self, busy: Callable[[], bool], deadline_s: float) -> None:
        """Carry out all faults, and supervise for as long as somebody is busy; past the deadline only bring back."""
        began_s = time.monotonic()
        while self._left or self._under_way() or busy():
            if time.monotonic() > deadline_s:
                break
            self._work_off(time.monotonic() - began_s)
            self._stage.supervise()
            time.sleep(_TICK_S)
        self._bring_back(float("inf"))

    def close(self) -> None:
        """Give up what is under way."""
        self._stop.set()
        self._errands.shutdown(cancel_futures=True)
        self._client.close()

    def _under_way(self) -> bool:
        self._pending = [errand for errand in self._pending if not errand.done() or errand.result()]
        return bool(self._returns or self._pending)

    def _work_off(self, now_s: float) -> None:
        self._bring_back(now_s)
        for fault in [fault for fault in self._left if fault.at_s <= now_s]:
            if _target(fault) not in self._returns:  # else it comes when its target is back
                self._left.remove(fault)
                self._commit(fault, now_s)

    def _bring_back(self, now_s: float) -> None:
        for target, (at_s, bring_back) in list(self._returns.items()):
            if at_s <= now_s:
                del self._returns[target]
                bring_back()

    def _commit(self, fault: Fault, now_s: float) -> None:
        self._say(f"{now_s:6.1f} s  {fault.kind}{f' (VM {fault.vmid})' if fault.vmid else ''}")
        match fault.kind:
            case FaultKind.WORKER_KILL:
                self._stage.kill_worker()
            case FaultKind.REDIS_KILL | FaultKind.REDIS_SHUTDOWN:
                self._stage.end_redis(politely=fault.kind is FaultKind.REDIS_SHUTDOWN)
                self._returns[_target(fault)] = now_s + fault.down_s, self._stage.start_redis
            case FaultKind.REDIS_STALL:
                self._stage.signal_redis(signal.SIGSTOP)
                self._returns[_target(fault)] = now_s + fault.down_s, partial(self._stage.signal_redis, signal.SIGCONT)
            case FaultKind.AGENT_KILL:
                guest = self._guests[fault.vmid or 0]
                self._all_guests.kill_agent(guest)
                self._returns[_target(fault)] = now_s + fault.down_s, partial(self._all_guests.start_agent, guest)
            case FaultKind.GUEST_AGENT_KILL:
                self._pending.append(self._errands.submit(self._kill_guest_agent))
                return
            case FaultKind.VM_RESET:
                self._pending.append(self._errands.submit(self._reset_vm))
                return
        self.done[fault.kind] += 1

    # --- errands: asked of the API like any client, again until it has come true --------------------------------------

    def _kill_guest_agent(self) -> None:
        for _ in range(_ATTEMPTS):
            number = len(self.tickets)
            token = make_token(random.Random(f"killer {self._plan.seed} {number}"), _FIRST_KILLER + number)
            order = Order(token, self._plan.vm.vmid, at_s=0.0, kills_agent=True)
            ticket = self._client.carry_out(order)
            self.tickets.append(ticket)
            if ticket.pid is not None:
                self.done[FaultKind.GUEST_AGENT_KILL] += 1
                return
            if self._stop.wait(_PAUSE_S):
                return

    def _reset_vm(self) -> None:
        for _ in range(_ATTEMPTS):
            if self._reset_vm_once():
                self.done[FaultKind.VM_RESET] += 1
                return
            if self._stop.wait(_PAUSE_S):
                return

    def _reset_vm_once(self) -> bool:
        path = f"/api/vm/{self._plan.vm.vmid}/status"
        try:
            status, data = self._api.call("POST", path, {"action": "restart", "force": True})
        except (OSError, HTTPException, ValueError):
            return False
        return status == HTTPStatus.OK and self._is_completed(data["jobId"])

    def _is_completed(self, job_id: str) -> bool:
        deadline_s = time.monotonic() + _JOB_TIMEOUT_S
        while time.monotonic() < deadline_s and not self._stop.wait(_PAUSE_S):
            job = self._api.find(f"/api/jobs/{job_id}")
            if job and (job["isCompleted"] or job["isFailed"]):
                return bool(job["isCompleted"])
        return False


def _target(fault: Fault) -> str:
    if fault.kind in _REDIS:
        return "redis"
    return f"agent {fault.vmid}" if fault.kind is FaultKind.AGENT_KILL else fault.kind
