"""Settings from environment variables: declared once, documented where they are declared.

A settings class is a frozen dataclass whose fields are made by ``variable``. ``load`` reads them and reports every
wrong one at once; ``example`` writes ``.env.example`` from the same declarations, so the two can't differ. A type of
our own reads itself: it has a class method ``parse``, which raises ``ValueError``.
"""

import dataclasses
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, TypeVar

from app.core.errors import SettingsError

Settings = TypeVar("Settings")

_HEADER = """\
# Every variable OwnUp reads, with its default. Neither half reads this file: put what differs into their
# environment, for instance by `set -a; . ./.env` in a shell or EnvironmentFile= in a systemd unit."""

SECRETS = frozenset({"REDIS_URL", "AUDIT_SECRET"})
"""Variables that hold secrets: never shown, and not handed on to the programs that a worker starts."""

_HIDDEN = "(hidden)"

_PARSERS: Mapping[Any, Any] = {
    str: str,
    int: int,
    float: float,
    Path: Path,
    tuple[Path, ...]: lambda text: tuple(Path(part) for part in text.split(":") if part),
    tuple[IPv4Network | IPv6Network, ...]: lambda text: tuple(
        ip_network(part.strip()) for part in text.split(",") if part.strip()
    ),
    tuple[str, ...]: lambda text: tuple(part for part in text.split(",") if part),
}


def variable(name: str, default: str, meaning: str, *, unit: str = "", minimum: float | None = None) -> Any:
    """Declare one environment variable as a field of a settings class.

    Args:
        name: The variable, for instance ``EXEC_TTL_S``.
        default: Its default, spelt as it would be in the environment.
        meaning: One sentence for the person who runs OwnUp.
        unit: The unit of a number, for instance ``seconds``.
        minimum: The smallest number allowed.

    Returns:
        A dataclass field.
    """
    metadata = {"name": name, "default": default, "meaning": meaning, "unit": unit, "minimum": minimum}
    return dataclasses.field(metadata=metadata, repr=name not in SECRETS)


def load(settings: type[Settings], environ: Mapping[str, str]) -> Settings:
    """Read a settings class from the environment. An empty variable counts as unset.

    Raises:
        SettingsError: A value can't be read; the text names each such variable.
    """
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        raw = environ.get(field.metadata["name"]) or field.metadata["default"]
        try:
            values[field.name] = _parse(field, raw)
        except ValueError as exc:
            name = field.metadata["name"]
            wrong.append(f"{name}={_HIDDEN if name in SECRETS else repr(raw)}: {exc}")
    if wrong:
        raise SettingsError("; ".join(wrong))
    return settings(**values)


def _parse(field: "dataclasses.Field[Any]", raw: str) -> Any:
    kind: Any = field.type
    value = _PARSERS[kind](raw) if kind in _PARSERS else kind.parse(raw)
    minimum = field.metadata["minimum"]
    if minimum is not None and value < minimum:
        raise ValueError(f"must be at least {minimum:g}")
    return value


def example(halves: Mapping[str, type]) -> str:
    """Write ``.env.example``: every variable once, with its meaning, unit, default and the halves that read it."""
    readers: dict[str, list[str]] = {}
    declared: dict[str, Mapping[str, Any]] = {}
    for half, settings in halves.items():
        for field in dataclasses.fields(settings):
            readers.setdefault(field.metadata["name"], []).append(half)
            declared[field.metadata["name"]] = field.metadata
    blocks = [_HEADER]
    blocks += [_block(meta, " and ".join(readers[name])) for name, meta in declared.items()]
    return "\n\n".join(blocks) + "\n"


def _block(meta: Mapping[str, Any], readers: str) -> str:
    unit = f", in {meta['unit']}" if meta["unit"] else ""
    return f"# {meta['meaning']} (read by {readers}{unit})\n{meta['name']}={meta['default']}"
