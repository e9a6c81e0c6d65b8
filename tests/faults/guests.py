"""The agents of a fault run that stand for VMs without being in one, and the files where guests leave their tokens.

Starts and kills agents. The VM itself is started through the API, like any customer's.
"""

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab import definitions, processes
from lab.definitions import ACCOUNT, DemoVm
from lab.guest import LabGuest
from tests.faults.peers import BLOCKED
from tests.faults.plan import Guest, Peer

CONSOLE = "/dev/console"
"""Where the VM leaves its tokens: QEMU writes its console to a file of the host, which outlives a reset."""

TOKEN = re.compile(r"T\d{5}x[0-9a-f]{12}")

_POLL_S = 0.1


class Guests:
    """All guests of a run, below a folder of its own."""

    def __init__(self, folder: Path, fleet: tuple[Guest, ...], lab_guest: LabGuest) -> None:
        self._lab_guest = lab_guest
        self.fleet = fleet
        self.folder = folder
        self.sockets = folder / "run"
        self.definitions = folder / "vms"
        self._tokens = folder / "tokens"
        self._agents: dict[int, processes.Child] = {}

    def prepare(self) -> None:
        """Make the folders and the definition of every VM."""
        for directory in (self.sockets, self.definitions, self._tokens):
            directory.mkdir(mode=0o700)
        for guest in self.fleet:
            (self.definitions / f"{guest.vmid}.toml").write_text(self._definition(guest))

    def _definition(self, guest: Guest) -> str:
        if guest.peer is Peer.VM:
            return definitions.render(DemoVm(guest.vmid, "vm"), self.sockets, self._lab_guest)
        name = f"agent-{guest.vmid}"
        return (
            f'vmid = {guest.vmid}\nname = "{name}"\naccount = "{ACCOUNT}"\n[sockets]\nqga = "{self._socket(guest)}"\n'
        )

    def start_agents(self) -> None:
        for guest in self.fleet:
            if guest.peer is not Peer.VM:
                self.start_agent(guest)

    def start_agent(self, guest: Guest) -> None:
        """Start an agent; call it from the main thread, as its children die with the thread that starts them."""
        log = self.folder / f"agent-{guest.vmid}.log"
        line = f"{shlex.join(self._argv(guest))} >>{shlex.quote(str(log))} 2>&1"
        self._agents[guest.vmid] = processes.start(f"agent {guest.vmid}", line, os.environ)

    def kill_agent(self, guest: Guest) -> None:
        """Kill an agent at once; the programs it has started go on."""
        agent = self._agents.pop(guest.vmid).process
        agent.kill()
        agent.wait()

    def stop_agents(self) -> None:
        processes.stop(self._agents.values(), grace_s=2)

    def find_fallen(self) -> Iterator[tuple[Guest, int]]:
        """Find the agents that have ended by themselves, and with which status."""
        for guest in self.fleet:
            agent = self._agents.get(guest.vmid)
            if agent is not None and (status := agent.process.poll()) is not None:
                yield guest, status

    def _argv(self, guest: Guest) -> list[str]:
        if guest.peer is Peer.QEMU_GA:
            state = self.folder / f"agent-{guest.vmid}"
            state.mkdir(exist_ok=True)
            return ["qemu-ga", "-m", "unix-listen", "-p", str(self._socket(guest)), "-t", str(state), "-b", BLOCKED]
        argv = [sys.executable, "-m", "lab.fake_agent", "--dir", str(self.sockets), "--first-vmid", str(guest.vmid)]
        argv += ["--disable", "guest-shutdown"]
        return [*argv, "--reuse-pids"] if guest.peer is Peer.FAKE_REUSING_PIDS else argv

    def _socket(self, guest: Guest) -> Path:
        return self.sockets / f"{guest.vmid}.qga"

    # --- tokens -------------------------------------------------------------------------------------------------------

    def token_file(self, vmid: int) -> str:
        """Name the file that a command in this guest appends its token to, as the guest calls it."""
        return CONSOLE if self._peer(vmid) is Peer.VM else str(self._tokens / str(vmid))

    def tokens(self, vmid: int) -> list[str]:
        """Read the tokens that stand in a guest."""
        on_host = self.sockets / f"{vmid}.qmp.console" if self._peer(vmid) is Peer.VM else self._tokens / str(vmid)
        text = on_host.read_text(errors="replace") if on_host.exists() else ""
        return TOKEN.findall(text) if self._peer(vmid) is Peer.VM else text.splitlines()

    def _peer(self, vmid: int) -> Peer:
        return next(guest.peer for guest in self.fleet if guest.vmid == vmid)

    # --- programs that outlive their agents ---------------------------------------------------------------------------

    def wait_for_programs(self, timeout_s: float) -> bool:
        """Wait until no program that an agent has started is left; whether that came true."""
        deadline_s = time.monotonic() + timeout_s
        while any(self._find_programs()):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def end_programs(self) -> None:
        for handle in self._find_programs():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)

    def _find_programs(self) -> Iterator[int]:
        """Find the shells that have a token file of this run in their line; gives pidfds that are closed after use."""
        mark = os.fsencode(self._tokens) + b"/"
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                handle = os.pidfd_open(int(entry.name))
                try:
                    if mark in (entry / "cmdline").read_bytes():  # the process it names is the one the handle is of
                        yield handle
                finally:
                    os.close(handle)
