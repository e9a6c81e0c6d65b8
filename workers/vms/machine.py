"""QEMU processes that this node starts itself: their command line, their start, whether they run.

A QEMU started here lives in a session of its own and outlives the worker. Doesn't know the power state of a guest, nor
what to do about one; see ``power`` for that.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import stat
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.core.errors import MonitorError, PowerError, SocketTakenError
from workers.qmp import process
from workers.qmp.monitor import Monitor
from workers.socket_lock import SocketLock
from workers.vms.definition import MachineDefinition, VmDefinition

_log = logging.getLogger(__name__)

START_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 300.0
_LOCK_TIMEOUT_S = 2.0
_PAUSE_S = 0.02
_WORDS_LIMIT_BYTES = 4096
_STAMP_AND_PROGRAM = re.compile(r"^(\d{4}-\d\d-\d\dT\S+ )?(\S*/)?(qemu[\w.-]*|kvm): ")
_AGENT_PORT = "org.qemu.guest_agent.0"
_NOTHING = MachineDefinition(cpus=1, memory_mb=1)


def command_line(
    definition: VmDefinition,
    *,
    binary: str,
    accel: str,
    pid_file: Path,
    console_file: Path,
    sandboxed: bool,
    snapshot: str | None = None,
) -> list[str]:
    """Write QEMU's command line for a VM that has a machine.

    An image is qcow2 if its name says so, else raw. It is never guessed from the content, which the guest writes: a
    guest could turn its raw disk into a qcow2 that names any file of this host.

    Args:
        definition: The VM.
        binary: The QEMU to start.
        accel: What to give as ``-accel``; empty tries KVM, then TCG.
        pid_file: Where QEMU writes its pid.
        console_file: Where the guest's first serial port is written to.
        sandboxed: QEMU is to forbid itself the system calls it doesn't need.
        snapshot: The guest is to go on where this snapshot was taken; without one it boots.

    Raises:
        PowerError: The definition has no machine.
    """
    machine, qmp = _startable(definition)
    return [
        binary,
        *("-name", f"guest={_quoted(definition.name)},process=qemu-{definition.vmid}"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-msg", "timestamp=on"),
        *_repeated("-sandbox", [sandbox(machine)] if sandboxed and not _names_sandbox(machine.extra_args) else []),
        *_repeated("-accel", [accel] if accel else ["kvm", "tcg"]),
        *("-m", f"{machine.memory_mb}M", "-smp", str(machine.cpus)),
        *("-chardev", f"socket,id=qmp,path={_quoted(qmp)},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=qga,path={_quoted(definition.qga)},server=on,wait=off"),
        *("-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=qga,id=agent,name={_AGENT_PORT}"),
        *_repeated("-drive", [f"file={_quoted(disk)},if=virtio,format={image_format(disk)}" for disk in machine.disks]),
        *_repeated("-nic", machine.nics or ["none"]),
        *("-serial", f"file:{console_file}", "-pidfile", str(pid_file)),
        *_repeated("-loadvm", [snapshot] if snapshot is not None else []),
        *machine.extra_args,
    ]


def sandbox(machine: MachineDefinition) -> str:
    """Write what a VM's QEMU forbids itself, so that a guest that takes it over can't go on from there.

    Source: qemu(1), -sandbox. Only network cards have QEMU start programs: the scripts of a tap.
    """
    spawn = "allow" if machine.nics else "deny"
    return f"on,obsolete=deny,elevateprivileges=deny,spawn={spawn},resourcecontrol=deny"


def running_pid(definition: VmDefinition) -> int | None:
    """Find the QEMU that was started here for a VM, by its pid file; ``None`` if it has ended."""
    if definition.qmp is None:
        return None
    pid_file = _beside(definition.qmp, "pid")
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    # A pid file outlives a killed QEMU, and its pid may have become another VM's.
    return pid if os.fsencode(pid_file) in argv and process.is_qemu(pid) else None


def image_format(disk: Path) -> str:
    """Tell the format of a disk's image, by its name."""
    return "qcow2" if disk.suffix == ".qcow2" else "raw"


def accepts(socket_path: Path) -> bool:
    """Tell whether somebody listens on a socket. The one who does sees a client that leaves at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(socket_path))
        except BlockingIOError:  # so many wait already that the kernel takes no more
            return True
        except OSError:
            return False
        return True


def is_running(definition: VmDefinition) -> bool:
    """Tell whether a VM's QEMU lives, whoever started it."""
    return running_pid(definition) is not None or accepts(definition.qmp or definition.qga)


class Launcher:
    """Starts QEMU processes, and takes note of their end so that none becomes a zombie."""

    def __init__(
        self,
        *,
        binary: str,
        accel: str,
        start_timeout_s: float = START_TIMEOUT_S,
        load_timeout_s: float = LOAD_TIMEOUT_S,
    ) -> None:
        """Describe how QEMU is started on this node.

        Args:
            binary: The QEMU to start, looked up in PATH.
            accel: As for ``command_line``.
            start_timeout_s: How long QEMU may take until its monitor answers.
            load_timeout_s: How much longer it may take to load a snapshot before that.
        """
        self._binary = binary
        self._accel = accel
        self._start_timeout_s = start_timeout_s
        self._load_timeout_s = load_timeout_s
        self._can_sandbox: bool | None = None

    async def start(self, definition: VmDefinition, *, snapshot: str | None = None) -> bool:
        """Start a VM's QEMU and wait until its monitor answers, so until it is through with its own start.

        Keeps the monitor socket's lock meanwhile. Stale sockets are QEMU's business: it replaces what is there, which
        is why a path that is in use, or no socket, is refused here.

        Effect: the guest boots, or goes on where a snapshot of it was taken.

        Args:
            definition: The VM.
            snapshot: As for ``command_line``.

        Returns:
            Whether it was started; ``False`` if it ran already.

        Raises:
            PowerError: The definition has no machine, or QEMU didn't start; with QEMU's own words.
        """
        _, qmp = _startable(definition)
        if is_running(definition):
            return False
        lock = await _take_lock(qmp)
        try:
            _refuse_occupied(definition.qga)
            _refuse_occupied(qmp)
            await self._launch(definition, qmp, lock, snapshot)
        finally:
            lock.release()
        return True

    async def _launch(self, definition: VmDefinition, qmp: Path, lock: SocketLock, snapshot: str | None) -> None:
        pid_file, console_file, log_file = (_beside(qmp, name) for name in ("pid", "console", "log"))
        argv = command_line(
            definition,
            binary=self._binary,
            accel=self._accel,
            pid_file=pid_file,
            console_file=console_file,
            sandboxed=await self._look_for_sandbox(),
            snapshot=snapshot,
        )
        timeout_s = self._start_timeout_s + (self._load_timeout_s if snapshot is not None else 0.0)
        pid = _spawn(argv, log_file)
        ended = _watch(pid)
        if await _answers(qmp, lock, ended, timeout_s):
            return
        if not ended.done():
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is still ours
            await asyncio.wait([ended], timeout=_LOCK_TIMEOUT_S)
            raise PowerError(f"QEMU's monitor did not answer within {timeout_s:g} s; {_words(log_file)}")
        raise PowerError(f"QEMU did not start: {_words(log_file) or f'it ended with {ended.result()}'}")

    async def _look_for_sandbox(self) -> bool:
        """Find out once whether this QEMU was built with its sandbox; one that doesn't say so will not start either."""
        if self._can_sandbox is None:
            argv = (self._binary, "-sandbox", sandbox(_NOTHING), "-machine", "help")
            self._can_sandbox = await _succeeds(argv, self._start_timeout_s)
        if self._can_sandbox is False:
            _log.warning("qemu_has_no_sandbox", extra={"binary": self._binary})
        return self._can_sandbox is True


async def _succeeds(argv: Sequence[str], timeout_s: float) -> bool | None:
    """Tell whether a program ends well; ``None`` if it can't be started or doesn't end."""
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    except OSError:
        return None
    try:
        async with asyncio.timeout(timeout_s):
            return await process.wait() == 0
    except TimeoutError:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _answers(qmp: Path, lock: SocketLock, ended: "asyncio.Future[int]", timeout_s: float) -> bool:
    """Wait until QEMU answers on its monitor, or has ended.

    That the socket accepts, and even the greeting, proves nothing: both come before disks and devices are opened. The
    answer to the negotiation comes from QEMU's main loop, after all of it (measured on 7.2).
    """
    monitor = Monitor(qmp, on_event=_ignore)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while not ended.done() and (left_s := deadline_s - loop.time()) > 0:
        try:
            await monitor.connect(left_s, lock=lock)
        except MonitorError:
            await asyncio.wait([ended], timeout=_PAUSE_S)
        else:
            await monitor.close()
            return True
    return False


def _spawn(argv: list[str], log_file: Path) -> int:
    """Start a process in a session of its own, its output in a file. Signals are as in a fresh shell.

    Raises:
        PowerError: The file or the program can't be used.
    """
    try:
        log_fd = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise PowerError(f"{log_file} can't be written: {exc.strerror}") from exc
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log_fd, 1),
        (os.POSIX_SPAWN_DUP2, log_fd, 2),
    ]
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
    try:
        return os.posix_spawnp(
            argv[0], argv, os.environ, file_actions=actions, setsid=True, setsigmask=[], setsigdef=ignored
        )
    except OSError as exc:
        raise PowerError(f"QEMU_BINARY {argv[0]} can't be started: {exc.strerror}") from exc
    finally:
        os.close(log_fd)


def _watch(pid: int) -> "asyncio.Future[int]":
    """Take note of a child's end, as long as this process lives; the result is its exit code, negative for a signal."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    pid_fd = os.pidfd_open(pid)

    def reap() -> None:
        loop.remove_reader(pid_fd)
        os.close(pid_fd)
        _, status = os.waitpid(pid, 0)
        ended.set_result(os.waitstatus_to_exitcode(status))

    loop.add_reader(pid_fd, reap)
    return ended


async def _take_lock(qmp: Path) -> SocketLock:
    """Take the lock, though somebody may have it for a moment, to find out that nobody listens.

    Raises:
        PowerError: Somebody keeps it.
    """
    deadline_s = asyncio.get_running_loop().time() + _LOCK_TIMEOUT_S
    while True:
        try:
            return SocketLock.take(qmp)
        except SocketTakenError as exc:
            if asyncio.get_running_loop().time() > deadline_s:
                raise PowerError(str(exc)) from exc
        await asyncio.sleep(_PAUSE_S)


def _refuse_occupied(socket_path: Path) -> None:
    if accepts(socket_path):
        raise PowerError(f"{socket_path} is in use by another process")
    if socket_path.exists() and not stat.S_ISSOCK(socket_path.stat().st_mode):
        raise PowerError(f"{socket_path} is in the way: it is no socket")


def _words(log_file: Path) -> str:
    """Read what QEMU said last, without time stamps and its own name; warnings only where there is nothing else."""
    try:
        raw = log_file.read_bytes()[-_WORDS_LIMIT_BYTES:]
    except OSError:
        return ""
    lines = [_STAMP_AND_PROGRAM.sub("", line) for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith("warning: ")]
    return "; ".join(errors or lines)


def _startable(definition: VmDefinition) -> tuple[MachineDefinition, Path]:
    if definition.machine is None or definition.qmp is None:
        raise PowerError(f"VM {definition.vmid} can't be started here: its definition has no [machine]")
    return definition.machine, definition.qmp


def _beside(socket_path: Path, name: str) -> Path:
    return Path(f"{socket_path}.{name}")


def _quoted(value: str | Path) -> str:
    """Write a value of a QEMU option list, where a comma is doubled (Source: qemu(1), -drive, -name)."""
    return str(value).replace(",", ",,")


def _names_sandbox(words: Sequence[str]) -> bool:
    return bool({"-sandbox", "--sandbox"} & set(words))


def _repeated(option: str, values: list[str] | tuple[str, ...]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _ignore(_name: str, _data: Mapping[str, Any]) -> None:
    """Nothing is made of the events of a QEMU that is starting: whoever follows the VM asks for its state."""
