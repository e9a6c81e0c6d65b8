"""What became of commands: read from the store, by pid, by id or page by page, and waited for.

The guest isn't asked, and nothing is started or ended. Knows records and their waits, not HTTP.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.access import Principal
from app.core.errors import InvalidRequestError, NotFoundError, Problem
from app.core.memory import give_back_soon
from app.core.records import Command, CommandState
from app.core.store import Call, Store, commands
from app.core.store.commands import Found, Result
from app.core.store.vms import Reach
from app.inventory import VmView
from app.wakeups import REREAD_S, Waiter, Wakeups, wait

__all__ = ["Reach", "Result", "Results"]


@dataclass(frozen=True)
class Results:
    """Reads the results of commands.

    Attributes:
        store: Where records are.
        wakeups: Tells when a record has changed.
        seats: One for each request that may wait for the end of a command at the same time.
    """

    store: Store
    wakeups: Wakeups
    seats: threading.Semaphore

    def read(self, principal: Principal, vmid: int, pid: int, *, wait_s: float) -> tuple[Reach, Result]:
        """Read what is known of a command, in one round trip, or wait for its end.

        Args:
            principal: Who asks.
            vmid: The VM.
            pid: The command's process id in the guest.
            wait_s: How long its end is waited for, where it hasn't come yet.

        Raises:
            NotFoundError: The principal sees no such VM, or no command with this pid in it.
        """
        found = self._shown(commands.read_result(vmid, pid, principal.sight))
        return found if found[1].command.state.ended else self._await_end(principal, found, wait_s)

    def find(self, principal: Principal, vmid: int, command_id: str) -> Result:
        """Read what is known of a command of any kind by its id.

        Raises:
            NotFoundError: The principal sees no such VM, or no such command in it.
        """
        _, result = self._shown(commands.find_result(vmid, command_id, principal.sight))
        if result.command.vmid != vmid:
            raise NotFoundError("Command")
        return result

    def list_page(
        self, principal: Principal, view: VmView, *, after: str | None, limit: int
    ) -> tuple[tuple[Command, ...], bool]:
        """Read the next commands that were started in a VM, through whichever face, oldest first.

        Args:
            principal: Who asks.
            view: The VM.
            after: Id of the command that the page before ended with; ``None`` for the first page.
            limit: How many are read at most.

        Returns:
            The commands, and whether there are more.

        Raises:
            InvalidRequestError: Nobody knows of the one before (any more).
        """
        call = commands.list_page(view.vm.vmid, principal.sight, after=after, limit=limit + 1)
        found = self.store.run(call)
        if found is None:
            raise InvalidRequestError(Problem("marker", f"{after} is not in the list"))
        return found[:limit], len(found) > limit

    def await_end(
        self, principal: Principal, command: Command, woken: Waiter, wait_s: float
    ) -> tuple[Reach, Result] | None:
        """Wait for a command's end and read what is known then, or when the time is up.

        Args:
            principal: Who asks.
            command: The command.
            woken: Expects news of it, but not that it is running.
            wait_s: How long they are waited for.

        Returns:
            ``None`` where nothing was read: no news came, or too many requests wait already.

        Raises:
            NotFoundError: The VM or the record has gone.
        """
        with self._seat(wait_s) as may_wait:
            return self._see_end(principal, command, woken, wait_s) if may_wait else None

    def may_wait(self) -> bool:
        """Tell whether an end could be waited for now: few enough requests do."""
        with self._seat(REREAD_S) as may_wait:
            return may_wait

    def _await_end(self, principal: Principal, found: tuple[Reach, Result], wait_s: float) -> tuple[Reach, Result]:
        """Wait for the end of a command that was running a moment ago.

        Redis is asked at once, because what was told before has woken nobody here, and then when there is news.
        """
        command = found[1].command
        with self.wakeups.expect(command.id, not_for=CommandState.RUNNING) as woken:
            woken.set()
            return self.await_end(principal, command, woken, wait_s) or found

    def _see_end(
        self, principal: Principal, command: Command, woken: Waiter, wait_s: float
    ) -> tuple[Reach, Result] | None:
        found: tuple[Reach, Result] | None = None

        def look() -> tuple[Reach, Result] | None:
            nonlocal found
            found = _told(woken) or self._shown(commands.find_result(command.vmid, command.id, principal.sight))
            return found if found[1].command.state.ended else None

        return wait(woken, wait_s, look, reread_s=wait_s) or found

    def _shown(self, read: Call[Found]) -> tuple[Reach, Result]:
        """Read a command's result, and whether another one would reach the guest.

        Raises:
            NotFoundError: There is nothing that the principal sees.
        """
        reach, result = self.store.run(read)
        if reach is None:
            raise NotFoundError("VM")
        if result is None:
            raise NotFoundError("Command")
        return reach, result if result.whole else self._fetch(result)

    def _fetch(self, result: Result) -> Result:
        give_back_soon()
        return self.store.run(commands.fetch_output(result))

    @contextmanager
    def _seat(self, wait_s: float) -> Iterator[bool]:
        """Take a seat for a wait, if there is one: a plain request must always find a thread."""
        taken = wait_s > 0 and self.seats.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self.seats.release()


def _told(woken: Waiter) -> tuple[Reach, Result] | None:
    """Read what the news have brought, if they have; whoever waits has seen the VM and the command before."""
    reach, result = commands.load_told(woken.news.result) if woken.news.result else Found(None, None)
    return (reach, result) if reach and result else None
