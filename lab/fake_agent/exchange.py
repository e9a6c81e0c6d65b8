"""One request and its answer, as a behaviour sees them.

Responsible for what a behaviour can do with a request: perform it, write to the port, hang up. It doesn't choose.
"""

from abc import ABC, abstractmethod
from collections.abc import Container
from typing import Any

from lab.fake_agent.chardev import Chardev
from lab.fake_agent.dispatch import Reply, dispatch
from lab.fake_agent.rpcs import Rpcs


class Exchange:
    """A request that came in through `port` and waits for what a behaviour makes of it."""

    def __init__(self, request: Any, rpcs: Rpcs, disabled: Container[str], port: Chardev) -> None:
        self._request = request
        self._rpcs = rpcs
        self._disabled = disabled
        self._asker = port.clients_served
        self.port = port

    @property
    def rpc(self) -> str:
        """The name of the RPC, as far as the request has one."""
        return str(self._request.get("execute")) if isinstance(self._request, dict) else ""

    @property
    def request_id(self) -> Any:
        """What the request wants to see again in the reply."""
        return self._request.get("id") if isinstance(self._request, dict) else None

    @property
    def asker_left(self) -> bool:
        """Whether another client is being served by now."""
        return self.port.clients_served != self._asker

    async def perform(self) -> Reply | None:
        """Do what the request says and return the honest reply; None where success has none.

        Effect: that of the RPC.
        """
        return await dispatch(self._request, self._rpcs, self._disabled)

    async def line(self) -> bytes:
        """Do what the request says and return the honest reply as it would be sent.

        Effect: that of the RPC.
        """
        reply = await self.perform()
        return reply.encode() if reply else b""


class Behaviour(ABC):
    """What an agent makes of a request."""

    @abstractmethod
    async def attend(self, exchange: Exchange) -> None:
        """Handle one request; the next one is read when this returns.

        Effect: that of the RPC, if the behaviour performs it.
        """


class Honest(Behaviour):
    """Does it, and says so."""

    async def attend(self, exchange: Exchange) -> None:
        """Perform and reply."""
        await exchange.port.write(await exchange.line())
