"""An HTTP client with a kept-alive connection that costs next to nothing, so that what is measured is the server.

Knows as much HTTP as the product's web half sends: a status line, headers, a body of a told length.
"""

import asyncio
import json
import re
import socket
from collections.abc import Mapping
from typing import Any, Self

from lab import LabError

OK = 200

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_TIMEOUT_S = 100
_RECEIVE_BYTES = 1 << 18
_LIMIT_BYTES = 1 << 26


def request(method: str, path: str, key: str, body: Mapping[str, Any] | None = None) -> bytes:
    """Write a request."""
    payload = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    return f"{head}\r\n".encode() + payload


def exec_path(vmid: int) -> str:
    """Name the route of a VM's commands."""
    return f"/api/vm/{vmid}/agent/exec"


class Client:
    """One connection, one request after another."""

    def __init__(self, port: int, key: str) -> None:
        self._key = key
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, path: str) -> Any:
        """Read `data` of a path."""
        return self._call(request("GET", path, self._key))

    def post(self, path: str, **body: Any) -> Any:
        """Send a body and read `data`."""
        return self._call(request("POST", path, self._key, body))

    def _call(self, message: bytes) -> Any:
        self._socket.sendall(message)
        buffer = bytearray()
        while (end := buffer.find(_HEAD_END)) < 0:
            self._receive(buffer)
        end += len(_HEAD_END)
        size = end + _length(bytes(buffer[:end]))
        while len(buffer) < size:
            self._receive(buffer)
        return load(bytes(buffer[:end]), bytes(buffer[end:]))

    def _receive(self, buffer: bytearray) -> None:
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise LabError("the server closed the connection")
        buffer += data


class AsyncClient:
    """The same on an event loop, where hundreds of them ask at once."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=_LIMIT_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def get(self, path: str) -> Any:
        """Read `data` of a path."""
        return load(*await self._call(request("GET", path, self._key)))

    async def post(self, path: str, **body: Any) -> Any:
        """Send a body and read `data`."""
        return load(*await self._call(request("POST", path, self._key, body)))

    async def delete(self, path: str) -> Any:
        """Delete what is at a path and read `data`."""
        return load(*await self._call(request("DELETE", path, self._key)))

    async def try_post(self, path: str, **body: Any) -> None:
        """Send a body and take whatever answer comes."""
        await self._call(request("POST", path, self._key, body))

    async def _call(self, message: bytes) -> tuple[bytes, bytes]:
        self._writer.write(message)
        head = await self._reader.readuntil(_HEAD_END)
        return head, await self._reader.readexactly(_length(head))


def load(head: bytes, body: bytes) -> Any:
    """Read `data` of an answer.

    Raises:
        LabError: It isn't a success.
    """
    status = int(head.split(b" ", 2)[1])
    if status != OK:
        raise LabError(f"the server answered {status}: {body[:300]!r}")
    return json.loads(body)["data"]


def _length(head: bytes) -> int:
    found = _LENGTH.search(head)
    if found is None:
        raise LabError(f"an answer without a length: {head!r}")
    return int(found[1])
