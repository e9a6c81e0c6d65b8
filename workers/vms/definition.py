"""VM definition files: what a person writes about one VM, read strictly.

All that is wrong with a file is told at once, by key. Doesn't know which files there are, nor whether a disk exists.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.core.errors import DefinitionError

FILE_LIMIT_BYTES = 64 * 1024
SOCKET_PATH_LIMIT_BYTES = 107
"""Source: unix(7), ``sun_path`` is 108 bytes, the last one is NUL."""
_VMID_LIMIT = 2**63 - 1
_COUNT_LIMIT = 2**31 - 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDefinition:
    """What a VM that this node can start is made of.

    Attributes:
        cpus: Number of virtual CPUs.
        memory_mb: Memory in MiB.
        disks: Image files.
        nics: One text for QEMU's ``-nic`` per network card.
        extra_args: Appended to QEMU's command line.
    """

    cpus: int
    memory_mb: int
    disks: tuple[Path, ...] = ()
    nics: tuple[str, ...] = ()
    extra_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDefinition:
    """One VM as its file describes it; all paths are absolute.

    Attributes:
        vmid: The fleet-wide number of the VM.
        name: What people call it.
        account: The owner.
        qga: The socket of its guest agent.
        qmp: The socket of QEMU's monitor.
        machine: How to start it; ``None`` where others do.
        source: The file.
    """

    vmid: int
    name: str
    account: str
    qga: Path
    qmp: Path | None
    machine: MachineDefinition | None
    source: Path


def load(path: Path) -> VmDefinition:
    """Read one definition file. Relative paths in it are relative to its own folder.

    Raises:
        DefinitionError: It can't be read or used; the text names the file and each wrong key, and says what is right.
    """
    problems: list[str] = []
    root = _Table(_parse(path), "", problems)
    sockets = root.table("sockets")
    machine = root.table("machine") if "machine" in root.values else None
    definition = VmDefinition(
        vmid=root.get("vmid", _vmid, 0),
        name=root.get("name", _label, ""),
        account=root.get("account", _label, ""),
        qga=sockets.get("qga", _socket_in(path), path),
        qmp=sockets.get("qmp", _socket_in(path), path) if "qmp" in sockets.values else None,
        machine=_load_machine(machine, path) if machine is not None else None,
        source=path,
    )
    root.refuse_rest()
    sockets.refuse_rest()
    if machine is not None and "qmp" not in sockets.values:
        problems.append("sockets.qmp: is missing; [machine] needs it to start and stop the VM")
    if definition.qga == definition.qmp and not problems:
        problems.append("sockets.qmp: must be another socket than sockets.qga")
    if problems:
        raise DefinitionError(f"{path.name}: {'; '.join(problems)}")
    return definition


def _load_machine(table: "_Table", path: Path) -> MachineDefinition:
    machine = MachineDefinition(
        cpus=table.get("cpus", _count, 0),
        memory_mb=table.get("memory_mb", _count, 0),
        disks=tuple(_absolute(path, disk) for disk in table.get_list("disks")),
        nics=table.get_list("nics"),
        extra_args=table.get_list("extra_args"),
    )
    table.refuse_rest()
    return machine


class _Table:
    """One table of the file: hands out its values by key, and notes what is wrong with them."""

    def __init__(self, values: Mapping[str, Any], prefix: str, problems: list[str]) -> None:
        self.values = values
        self._prefix = prefix
        self._problems = problems
        self._known: set[str] = set()

    def table(self, key: str) -> "_Table":
        """Hand out a table of this table; an empty one if it is no table."""
        values: Mapping[str, Any] = self.get(key, _mapping, {})
        return _Table(values, f"{self._prefix}{key}.", self._problems)

    def get(self, key: str, read: Callable[[Any], T], placeholder: T) -> T:
        """Hand out a value that must be there; the placeholder, and a problem noted, if it is missing or wrong."""
        self._known.add(key)
        if key not in self.values:
            self._problems.append(f"{self._prefix}{key}: is missing")
            return placeholder
        try:
            return read(self.values[key])
        except ValueError as exc:
            self._problems.append(f"{self._prefix}{key}: {exc}")
            return placeholder

    def get_list(self, key: str) -> tuple[str, ...]:
        """Hand out a list of texts; an empty one if it isn't there."""
        self._known.add(key)
        return self.get(key, _texts, ()) if key in self.values else ()

    def refuse_rest(self) -> None:
        """Note every key that nobody asked for: it is misspelt, and would be ignored."""
        known = ", ".join(sorted(self._known))
        self._problems.extend(
            f"{self._prefix}{_shown(key)}: is no known key; known are {known}"
            for key in self.values
            if key not in self._known
        )


def _parse(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise DefinitionError(f"{path.name}: is no file")
        with path.open("rb") as file:
            raw = file.read(FILE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as exc:
        raise DefinitionError(f"{path.name}: can't be read: {exc}") from exc
    if len(raw) > FILE_LIMIT_BYTES:
        raise DefinitionError(f"{path.name}: is larger than {FILE_LIMIT_BYTES} bytes")
    try:
        return tomllib.loads(raw.decode())
    except ValueError as exc:  # no UTF-8, no TOML, or a number beyond Python's limit
        raise DefinitionError(f"{path.name}: is not TOML: {exc}") from exc
    except RecursionError as exc:
        raise DefinitionError(f"{path.name}: is not TOML: nested too deep") from exc


def _absolute(path: Path, text: str) -> Path:
    return path.parent.absolute() / text


def _socket_in(path: Path) -> Callable[[Any], Path]:
    def read(value: Any) -> Path:
        found = _absolute(path, _text(value))
        size_bytes = len(os.fsencode(found))
        if size_bytes > SOCKET_PATH_LIMIT_BYTES:
            raise ValueError(f"must be at most {SOCKET_PATH_LIMIT_BYTES} bytes as an absolute path, is {size_bytes}")
        return found

    return read


def _vmid(value: Any) -> int:
    return _integer(value, _VMID_LIMIT)


def _count(value: Any) -> int:
    return _integer(value, _COUNT_LIMIT)


def _integer(value: Any, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise ValueError(f"must be an integer from 1 to {limit}")
    return value


def _label(value: Any) -> str:
    text = _text(value)
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of printable text, with no space around it")
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be a text that is not empty")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of texts")  # noqa: TRY004 - collected with the other problems
    return tuple(_text(item) for item in value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be a table")  # noqa: TRY004 - collected with the other problems
    return value


def _shown(key: str) -> str:
    return key if key.isprintable() and key else ascii(key)
