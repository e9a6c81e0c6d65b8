"""What both our QMP clients, the one for agents and the one for monitors, need otherwise than ``QMPClient`` does it."""

import logging

from qemu.qmp import QMPClient, Runstate
from qemu.qmp.message import Message


class QuietClient(QMPClient):
    """QMPClient that logs nothing, and can stand a connection that ends as soon as it is there."""

    def __init__(self, silent: logging.Logger, *, readbuflen: int) -> None:
        """Make a client without a connection.

        Args:
            silent: A logger that drops everything: stock logging prints whole messages.
            readbuflen: How many bytes of a line are received at once at most.
        """
        super().__init__(readbuflen=readbuflen)
        self.logger = silent  # after __init__, which sets its own

    async def _establish_session(self) -> None:
        """Start reader and writer.

        QMPClient takes for granted that they are still there a moment later. Where they aren't, it fails without
        closing the connection: the number of the closed socket then counts as taken, and who gets it next can't use it.

        Raises:
            EOFError: The connection has ended meanwhile; or any other error that ended it.
        """
        await super()._establish_session()
        if self.runstate is not Runstate.RUNNING:
            await self.disconnect()  # raises what ended it
            raise EOFError

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg
