"""Whatever stands in VM_DIR, a file is a definition or is skipped with a reason; the registry goes on with the rest."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from app.core import env
from app.core.errors import DefinitionError
from app.core.records import Vm as VmRecord
from tests.fuzz.budget import PATIENT, Tally, examples
from tests.fuzz.json_text import CHANGES, HONEST, Change, cut, overwrite, splice
from workers.settings import WorkerSettings
from workers.vms import definition
from workers.vms.definition import VmDefinition
from workers.vms.registry import Registry

pytestmark = PATIENT

NOTED_BYTES = 2000
LONGEST_S = 2.0

VALUES = [
    "0", "1", "-1", "10001", "1.0", "1e3", "inf", "nan", "0x10", "1_000", str(2**63 - 1), str(2**63), str(2**64),
    "9" * 5000, "true", "false", '""', '" "', '"a"', "'a'", '"\\u0000"', '"a\\u0000b"', '"\\u202e"', '"\\U0010ffff"',
    '"å"', '"a\\nb"', '"""a\nb"""', '"/run/x.qga"', '"x.qga"', '"../x.qga"', '"/' + "x" * 200 + '"',
    '"' + "å" * 60 + '"', '"/"',
    '"."', '"~/x"', '"x" ', "1979-05-27T07:32:00Z", "1979-05-27", "07:32:00", "9999-12-31T23:59:60Z", "[]",
    "[[]]", '["a"]', '["a", 1]', '["", "b"]', "[{}]", "{ a = 1 }", "{}", "[" * 500 + "]" * 500, "[" * 3000,
    '"' + "x" * 70_000 + '"', "", "=", "\x00", "\ud800", "nonsense",
]  # fmt: skip
"""TOML values, and what isn't."""
NUMBERS = st.integers(-1, 2**65).map(str)
WORDS = st.text(max_size=20).map(json.dumps)
LISTS = st.lists(st.text(max_size=5), max_size=3).map(json.dumps)
KEYS = ["vmid", "name", "account", "sockets.qga", "sockets.qmp", "machine.cpus", "machine.memory_mb", "machine.disks",
        "machine.nics", "machine.extra_args"]  # fmt: skip
GOOD = {
    "vmid": "10001",
    "name": '"web-1"',
    "account": '"acme"',
    "sockets.qga": '"1.qga"',
    "sockets.qmp": '"1.qmp"',
    "machine.cpus": "1",
    "machine.memory_mb": "256",
    "machine.disks": '["web-1.qcow2"]',
}
ODD_KEYS = [
    "vmidd",
    '""',
    '"\\u0000"',
    "'a.b'",
    "sockets",
    "machine",
    "sockets.qga.x",
    "vmid.x",
    "a." * 200 + "a",
    "å",
    "name",
]


def as_dotted(values: dict[str, str]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in values.items())


def as_tables(values: dict[str, str]) -> str:
    lines: dict[str, list[str]] = {"": [], "sockets": [], "machine": []}
    for key, value in values.items():
        table, _, name = key.rpartition(".") if key in KEYS else ("", "", key)
        lines[table].append(f"{name} = {value}\n")
    return "".join((f"[{table}]\n" if table else "") + "".join(found) for table, found in lines.items())


TEXTS = st.builds(
    lambda form, values, more, byte_change: byte_change(form(GOOD | values | more).encode(errors="surrogatepass")),
    st.sampled_from([as_dotted, as_tables]),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)
    | st.dictionaries(st.sampled_from(["vmid", "machine.cpus", "machine.memory_mb"]), NUMBERS)
    | st.dictionaries(st.sampled_from(["name", "account", "sockets.qga", "sockets.qmp"]), WORDS)
    | st.dictionaries(st.sampled_from(["machine.disks", "machine.nics", "machine.extra_args"]), LISTS),
    st.sampled_from([{}] * 40 + [{key: "1"} for key in ODD_KEYS]),
    st.just(HONEST)
    | st.just(HONEST)
    | st.just(HONEST)
    | st.builds(Change, st.just(cut), st.tuples(st.floats(0, 1)))
    | st.builds(
        Change,
        st.sampled_from([splice, overwrite]),
        st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8) | st.just(b"[sockets]\n")),
    ),
)
"""Files that are nearly good."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        yield Path(name)


def load(path: Path) -> VmDefinition | None:
    """Read a file; a definition is sound, and what is wrong with another file is told in a text that can be written."""
    began_s = time.process_time()
    try:
        found = definition.load(path)
    except DefinitionError as exc:
        assert str(exc).startswith(path.name)  # noqa: PT017 - what is raised is what is tested
        assert "\n" not in str(exc)  # noqa: PT017
        return None
    finally:
        assert time.process_time() - began_s < LONGEST_S
    assert 1 <= found.vmid < 2**63
    assert found.name.isprintable()
    assert found.account.strip()
    for each in filter(None, (found.qga, found.qmp)):
        assert each.is_absolute()
        assert b"\0" not in os.fsencode(each)
        assert len(os.fsencode(each)) <= definition.SOCKET_PATH_LIMIT_BYTES
    if found.machine is not None:
        assert found.qmp is not None
        assert 1 <= found.machine.cpus < 2**31
        assert all(isinstance(text, str) and text for text in found.machine.nics + found.machine.extra_args)
    return found


@examples(1500)
@given(text=TEXTS)
def test_definitions(tally: Tally, folder: Path, text: bytes) -> None:
    note(repr(text[:NOTED_BYTES]))
    path = folder / "vm.toml"
    path.write_bytes(text)
    tally.add("definition" if load(path) else "refused")


@examples(300)
@given(text=CHANGES.map(lambda change: change(b'{"a": 1}')) | st.binary(max_size=200) | st.text().map(str.encode))
def test_files_that_are_no_toml(tally: Tally, folder: Path, text: bytes) -> None:
    path = folder / "vm.toml"
    path.write_bytes(text)
    assert load(path) is None
    tally.add("refused")


# --- a whole folder ---------------------------------------------------------------------------------------------------


def write_sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


FOLDER_MAKERS: dict[str, Callable[[Path, bytes], object]] = {
    "file": lambda path, text: path.write_bytes(text),
    "10 MB": lambda path, text: path.write_bytes(text + b"# " + b"x" * 10_000_000),
    "sparse": lambda path, _text: write_sparse(path),
    "folder": lambda path, _text: path.mkdir(),
    "pipe": lambda path, _text: os.mkfifo(path),
    "link to itself": lambda path, _text: path.symlink_to(path.name),
    "link to nothing": lambda path, _text: path.symlink_to("nothing"),
    "link below a file": lambda path, _text: path.symlink_to("good.toml/x"),
    "link to a long name": lambda path, _text: path.symlink_to("x" * 300),
    "link to a folder": lambda path, _text: path.symlink_to("."),
    "link to zeros": lambda path, _text: path.symlink_to("/dev/zero"),
    "link to the good one": lambda path, _text: path.symlink_to("good.toml"),
    "unreadable": lambda path, _text: path.symlink_to("/proc/self/mem"),
}  # fmt: skip
NAMES = st.sampled_from([
    b"a.toml", b"b.toml", b".toml", b"\xff.toml", b"\xed\xa0\x80.toml", b"a\nb.toml", "å.toml".encode(), b"x.TOML",
    b"..toml", b"-rf.toml", b"%s.toml", b"x" * 250 + b".toml",
])  # fmt: skip


@examples(120)
@given(
    entries=st.dictionaries(
        NAMES, st.tuples(st.sampled_from(list(FOLDER_MAKERS)), TEXTS | st.just(as_tables(GOOD).encode())), max_size=5
    )
)
async def test_folders_of_definitions(
    tally: Tally, caplog: pytest.LogCaptureFixture, entries: dict[bytes, tuple[str, bytes]]
) -> None:
    caplog.set_level(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        folder = Path(name)
        good = as_tables(GOOD | {"vmid": "77", "name": '"good"'})
        (folder / "good.toml").write_text(good)
        for entry, (kind, text) in entries.items():
            FOLDER_MAKERS[kind](folder / os.fsdecode(entry), text)
        settings = env.load(WorkerSettings, {"VM_DIR": name})
        registry = Registry(settings, publish=_ignore, forget=_ignore, guest_gone=lambda _vmid, _reason: None)
        try:
            for _ in range(2):
                await registry.scan()
                found = registry.find(77)
                assert found is not None
                assert found.definition.name == "good" or "good.toml" not in str(found.definition.source)
                assert len(registry) + registry.broken <= len(entries) + 1
            (folder / "good.toml").unlink()
            await registry.scan()
        finally:
            await registry.close()
    tally.add("followed")


async def _ignore(_told: VmRecord | int, *_for_good: bool) -> None:
    """Nobody is told."""
