"""The honest clients of a fault run: they POST a command, poll it to its end and write down all that they were told.

A POST whose outcome isn't known is never sent again, unless it has an Idempotency-Key: then it may, and is.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from lab.demo import Api
from tests.faults.plan import Order

CLIENTS = 48

_TIMEOUT_S = 40
"""Longer than any answer should take."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 1.0
_RETRY_PAUSE_S = 1.0
_POSTS_OF_A_KEY = 5
_RETRIED = {None, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE}


@dataclass(frozen=True)
class Answer:
    """What a request was answered. `status` is None, and the message says why, where there was no answer."""

    status: int | None
    request_id: str = ""
    message: str = ""
    reason: str = ""
    data: Any = None

    @property
    def kind(self) -> str:
        """Name it as the table does."""
        return "no answer" if self.status is None else f"{self.status} {self.message}".strip()


@dataclass
class Ticket:
    """What a client knows of one command."""

    order: Order
    posts: list[Answer] = field(default_factory=list)
    polls: list[Answer] = field(default_factory=list)
    """Those that didn't tell a result."""
    pid: int | None = None
    result: dict[str, Any] | None = None
    """What the last poll told: the end, if there was one."""

    @property
    def ended(self) -> bool:
        """Whether the client has seen its command's end."""
        return self.result is not None and self.result["exited"]


class Client:
    """One client, with one connection that it keeps."""

    def __init__(self, api: Api, token_file: Callable[[int], str], stop: threading.Event) -> None:
        self._url = f"http://127.0.0.1:{api.port}/api/vm"
        self._token_file = token_file
        self._stop = stop
        self._http = requests.Session()
        self._http.headers["X-API-Key"] = api.key
        self._http.mount("http://", HTTPAdapter(max_retries=0))

    def close(self) -> None:
        self._http.close()

    def carry_out(self, order: Order) -> Ticket:
        """Start a command and follow it to its end, or until the run is stopped."""
        ticket = Ticket(order)
        self._start(ticket)
        if ticket.pid is not None:
            self._follow(ticket)
        return ticket

    def _start(self, ticket: Ticket) -> None:
        order = ticket.order
        headers = {"Idempotency-Key": order.token} if order.keyed else {}
        body = {"command": order.line(self._token_file(order.vmid))}
        for _ in range(_POSTS_OF_A_KEY if order.keyed else 1):
            answer = self._ask("POST", order.vmid, json=body, headers=headers)
            ticket.posts.append(answer)
            if answer.status == HTTPStatus.OK:
                ticket.pid = answer.data["pid"]
            if answer.status not in _RETRIED or self._stop.wait(_RETRY_PAUSE_S if order.keyed else 0):
                return

    def _follow(self, ticket: Ticket) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stop.wait(pause_s):
            answer = self._ask("GET", ticket.order.vmid, params={"pid": ticket.pid})
            if answer.status == HTTPStatus.OK:
                ticket.result = answer.data
                if ticket.ended:
                    return
            else:
                ticket.polls.append(answer)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    def _ask(self, method: str, vmid: int, **arguments: Any) -> Answer:
        try:
            response = self._http.request(method, f"{self._url}/{vmid}/agent/exec", timeout=_TIMEOUT_S, **arguments)
            body = response.json()
        except (requests.RequestException, ValueError) as exc:
            return Answer(status=None, message=f"{type(exc).__name__}: {exc}")
        reason = "; ".join(detail["message"] for detail in body.get("details", []))
        return Answer(response.status_code, body["requestId"], body.get("message", ""), reason, body.get("data"))


class Crowd:
    """Many clients at once, who share a list of orders; each order is carried out when its moment has come."""

    def __init__(self, api: Api, orders: Sequence[Order], token_file: Callable[[int], str]) -> None:
        self.tickets: list[Ticket] = []
        self.failures: list[str] = []
        self._api = api
        self._token_file = token_file
        self._stop = threading.Event()
        self._left = iter(orders)
        self._lock = threading.Lock()
        self._began_s = 0.0
        self._threads = [threading.Thread(target=self._work, name=f"client-{n}") for n in range(CLIENTS)]

    def start(self) -> None:
        self._began_s = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let everybody go home; who waits for something stops waiting."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        client = Client(self._api, self._token_file, self._stop)
        try:
            while (order := self._next()) is not None and not self._wait_for(order):
                self.tickets.append(client.carry_out(order))
        except Exception as exc:  # noqa: BLE001 - a client that breaks off is a finding, not the end of the run
            self.failures.append(f"a client broke off: {exc!r}")
        finally:
            client.close()

    def _next(self) -> Order | None:
        with self._lock:
            return next(self._left, None)

    def _wait_for(self, order: Order) -> bool:
        return self._stop.wait(max(0.0, self._began_s + order.at_s - time.monotonic()))
