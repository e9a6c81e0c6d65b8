"""What qemu-ga does: one method for each RPC. The names and types of its parameters are those on the wire.

It knows neither sockets nor who asks, and nothing of the checks before a call (`dispatch`).

Source: QEMU, qga/qapi-schema.json; texts and forms as qemu-ga 7.2 gives them.
"""

import base64
import binascii
import contextlib
import platform
from collections.abc import Container, Iterator

from lab.fake_agent.accounts import Accounts, AccountsError
from lab.fake_agent.dispatch import RpcError, supported_commands
from lab.fake_agent.files import OpenFiles
from lab.fake_agent.processes import Processes

VERSION = "7.2.22"
MAX_READ_BYTES = 48 * 1024 * 1024
READING_MODES = ("r", "rb")
WHENCE: dict[int | str, int] = {"set": 0, "cur": 1, "end": 2, 0: 0, 1: 1, 2: 2}
OS_RELEASE = ("ID", "NAME", "PRETTY_NAME", "VERSION", "VERSION_ID", "VARIANT", "VARIANT_ID")


class Rpcs:
    """The RPCs of one run of the agent, over the files and the programs of its guest."""

    def __init__(
        self,
        files: OpenFiles,
        processes: Processes,
        accounts: Accounts,
        disabled: Container[str],
        shutdowns: list[str],
    ) -> None:
        self._files = files
        self._processes = processes
        self._accounts = accounts
        self._disabled = disabled
        self._shutdowns = shutdowns

    def guest_ping(self) -> object:
        """Say that the agent lives."""
        return {}

    def guest_sync(self, id: int) -> object:  # noqa: A002 - its name on the wire
        """Give back a number that only the caller knows."""
        return id

    def guest_sync_delimited(self, id: int) -> object:  # noqa: A002 - its name on the wire
        """Give back the number, behind a byte that never stands in JSON."""
        return id

    def guest_info(self) -> object:
        """Tell the version and which RPCs there are."""
        return {"version": VERSION, "supported_commands": list(supported_commands(self, self._disabled))}

    def guest_get_osinfo(self) -> object:
        """Describe the operating system: this machine's."""
        release = platform.freedesktop_os_release()
        described = {key.lower().replace("_", "-"): release[key] for key in OS_RELEASE if key in release}
        kernel = platform.uname()
        return described | {
            "kernel-release": kernel.release,
            "kernel-version": kernel.version,
            "machine": kernel.machine,
        }

    def guest_get_host_name(self) -> object:
        """Tell the hostname: this machine's."""
        return {"host-name": platform.node()}

    def guest_set_user_password(self, username: str, password: str, crypted: bool) -> object:  # noqa: ARG002, FBT001 - named on the wire
        """Set a user's password, in the fake guest only.

        Raises:
            RpcError: No such user, or no such password.
        """
        with _account_errors():
            self._accounts.set_password(username, _decoded(password))
        return {}

    def guest_ssh_get_authorized_keys(self, username: str) -> object:
        """Tell a user's SSH keys, those of the fake guest.

        Raises:
            RpcError: No such user, or no such file.
        """
        with _account_errors():
            return {"keys": self._accounts.get_keys(username)}

    def guest_ssh_add_authorized_keys(self, *, username: str, keys: list[str], reset: bool = False) -> object:
        """Add SSH keys to a user's or replace them, in the fake guest only.

        Raises:
            RpcError: No such user, or no such key.
        """
        with _account_errors():
            self._accounts.add_keys(username, keys, reset=reset)
        return {}

    def guest_shutdown(self, mode: str = "powerdown") -> object:
        """Write down that the guest was to go off; whoever plays the machine decides what follows."""
        self._shutdowns.append(mode)
        return {}

    async def guest_exec(
        self,
        *,
        path: str,
        arg: list[str] | None = None,
        env: list[str] | None = None,
        input_data: str | None = None,
        capture_output: bool = False,
    ) -> object:
        """Start a program and tell its number.

        Effect: the program runs on this machine, with the rights of this process.

        Raises:
            RpcError: It could not be started.
        """
        environment = None if env is None else dict(entry.partition("=")[::2] for entry in env)
        stdin = None if input_data is None else _decoded(input_data)
        try:
            pid = await self._processes.start(
                [path, *(arg or ())], environment=environment, stdin=stdin, capture=capture_output
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            text = f"Failed to execute child process “{path}” ({reason})"
            raise RpcError(f"Guest agent command failed, error was '{text}'") from error
        return {"pid": pid}

    def guest_exec_status(self, pid: int) -> object:
        """Tell how a program is getting on, and its result once.

        Raises:
            RpcError: No such program, or its result was told before.
        """
        try:
            return self._processes.ask(pid)
        except KeyError:
            raise RpcError("Invalid parameter 'pid'") from None

    def guest_file_open(self, path: str, mode: str = "r") -> object:
        """Open a file for reading.

        Raises:
            RpcError: It can't be opened, or not for this.
        """
        if mode not in READING_MODES:
            raise RpcError(f"invalid file open mode '{mode}'")
        try:
            return self._files.open(path)
        except OSError as error:
            raise RpcError(f"failed to open file '{path}' (mode: '{mode}'): {error.strerror}") from error

    def guest_file_read(self, handle: int, count: int = 4096) -> object:
        """Read on. What is appended after the end was told is still given.

        Raises:
            RpcError: No such handle, too much at once, or the file can't be read.
        """
        if not 0 <= count <= MAX_READ_BYTES:
            raise RpcError(f"value '{count}' is invalid for argument count")
        with _file_errors(handle, "read"):
            data = self._files.read(handle, count)
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": len(data) < count}

    def guest_file_seek(self, handle: int, offset: int, whence: int | str) -> object:
        """Move to another place in the file.

        Raises:
            RpcError: No such handle, or no such place.
        """
        if whence not in WHENCE:
            text = f"invalid whence code {whence}"
            raise RpcError(text if isinstance(whence, int) else f"Parameter 'whence' does not accept value '{whence}'")
        with _file_errors(handle, "seek"):
            return {"position": self._files.seek(handle, offset, WHENCE[whence]), "eof": False}

    def guest_file_close(self, handle: int) -> object:
        """Close a file.

        Raises:
            RpcError: No such handle.
        """
        with _file_errors(handle, "close"):
            self._files.close(handle)
        return {}


@contextlib.contextmanager
def _file_errors(handle: int, verb: str) -> Iterator[None]:
    """Say in the agent's words what went wrong with an open file.

    Raises:
        RpcError: Always when something went wrong.
    """
    try:
        yield
    except KeyError:
        raise RpcError(f"handle '{handle}' has not been found") from None
    except OSError as error:
        raise RpcError(f"failed to {verb} file: {error.strerror}") from error


@contextlib.contextmanager
def _account_errors() -> Iterator[None]:
    """Say no as the accounts do.

    Raises:
        RpcError: Always when they did.
    """
    try:
        yield
    except AccountsError as error:
        raise RpcError(str(error)) from None


def _decoded(input_data: str) -> bytes:
    try:
        return base64.b64decode(input_data, validate=True)
    except binascii.Error:
        raise RpcError("Base64 data contains invalid characters") from None
