"""Tries wrong keys over raw connections that are kept open, and tells on its standard output how that was answered.

``python -m tests.faults.attacker <port> <count> <rate> <seed> <id of a key>``; a rate of 0 is as fast as answers come.
It stands for another machine, so it leaves the processors of this one to the others as far as it can.
"""

import json
import os
import random
import socket
import string
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

CONNECTIONS = 16
TIMEOUT_S = 30

_HEX, _SECRET = "0123456789abcdef", string.ascii_letters + string.digits + "-_"
_LOGIN = "/identity/v3/auth/tokens"
HARMLESS = "harmless"
"""Instead of the id of a key: ask for what needs none, for comparison."""


def harmless() -> Iterator[bytes]:
    while True:
        yield request("GET", "/healthz")


def wrong(seed: int, key_id: str) -> Iterator[bytes]:
    """Make requests with keys of the right form, of a wrong one, with the right id, tokens, and logins, in turns."""
    rng = random.Random(seed)

    def some(letters: str, count: int) -> str:
        return "".join(rng.choices(letters, k=count))

    while True:
        secret = some(_SECRET, 43)
        unknown = f"ownup_{some(_HEX, 16)}_{secret}"
        yield request("GET", "/api/vm/10000/status", f"X-API-Key: {unknown}")
        yield request("GET", "/api/v2/vps", f"Authorization: Bearer ownup_{key_id}_{secret}")
        yield request("GET", "/api/vm", f"X-API-Key: {some(_SECRET, rng.randrange(1, 80))}")
        yield request("GET", "/v2.1/servers", f"X-Auth-Token: {secret}")
        yield request("POST", "/api/vm/10000/status", f"X-API-Key: ownup_{key_id}_{secret}", '{"action":"stop"}')
        user = {"name": "any", "domain": {"id": "default"}, "password": unknown}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
        yield request("POST", _LOGIN, body=json.dumps(body))


def request(method: str, path: str, header: str = "X-None: 0", body: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n{body}".encode()


class Connection:
    """One connection, with one request on its way at the most."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = self._connect()
        self._is_waiting = False

    def _connect(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def send(self, message: bytes) -> None:
        self._socket.sendall(message)
        self._is_waiting = True

    def receive(self) -> int | None:
        """Read the answer to what was sent, if anything was; tell its status."""
        if not self._is_waiting:
            return None
        self._is_waiting = False
        text = b""
        while b"\r\n\r\n" not in text:
            text += self._more()
        head, _, body = text.partition(b"\r\n\r\n")
        fields = head.lower()
        length = int(fields.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._more()
        if b"connection: close" in fields:
            self._socket.close()
            self._socket = self._connect()
        return int(head[9:12])

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> bytes:
        part = self._socket.recv(65536)
        if not part:
            raise ConnectionError("closed in the middle of an answer")
        return part


@dataclass
class Outcome:
    """How it went."""

    statuses: Counter[int] = field(default_factory=Counter)
    took_s: float = 0.0


def attack(port: int, messages: Iterator[bytes], count: int, rate: float) -> Outcome:
    """Send requests at a steady rate, whether or not those before are answered, as far as connections go."""
    connections = [Connection(port) for _ in range(CONNECTIONS)]
    outcome, began_s = Outcome(), time.monotonic()
    for turn in range(count):
        due_s = began_s + (turn / rate if rate else 0)
        connection = connections[turn % CONNECTIONS]
        outcome.statuses[connection.receive() or 0] += 1
        time.sleep(max(0.0, due_s - time.monotonic()))
        connection.send(next(messages))
    outcome.statuses.update(connection.receive() or 0 for connection in connections)
    del outcome.statuses[0]
    for connection in connections:
        connection.close()
    outcome.took_s = time.monotonic() - began_s
    return outcome


def main(port: str, count: str, rate: str, seed: str, key_id: str) -> None:
    os.nice(10)
    messages = harmless() if key_id == HARMLESS else wrong(int(seed), key_id)
    outcome = attack(int(port), messages, int(count), float(rate))
    print(json.dumps({"statuses": outcome.statuses, "took_s": outcome.took_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
