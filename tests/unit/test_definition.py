"""Definition files: what is right is read, what is wrong is named, and nothing else can happen."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.errors import DefinitionError
from workers.vms.definition import MachineDefinition, VmDefinition, load

FULL = """
vmid = 10001
name = "web-1"
account = "acme"
[sockets]
qga = "/run/ownup/10001.qga"
qmp = "10001.qmp"
[machine]
cpus = 2
memory_mb = 256
disks = ["web-1.qcow2", "/srv/data.img"]
nics = ["tap,ifname=tap1"]
extra_args = ["-cpu", "max"]
"""
SHORT = 'vmid = 1\nname = "a"\naccount = "b"\n[sockets]\nqga = "/run/1.qga"\n'


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "vm.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(DefinitionError) as caught:
        load(write(folder, text))
    return str(caught.value)


def test_a_full_definition_is_read_with_absolute_paths(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    assert load(path) == VmDefinition(
        vmid=10001,
        name="web-1",
        account="acme",
        qga=Path("/run/ownup/10001.qga"),
        qmp=tmp_path / "10001.qmp",
        machine=MachineDefinition(
            cpus=2,
            memory_mb=256,
            disks=(tmp_path / "web-1.qcow2", Path("/srv/data.img")),
            nics=("tap,ifname=tap1",),
            extra_args=("-cpu", "max"),
        ),
        source=path,
    )


def test_monitor_and_machine_may_be_left_out(tmp_path: Path) -> None:
    definition = load(write(tmp_path, SHORT))
    assert (definition.qmp, definition.machine) == (None, None)


def test_lists_of_a_machine_may_be_left_out(tmp_path: Path) -> None:
    definition = load(write(tmp_path, SHORT + 'qmp = "/run/1.qmp"\n[machine]\ncpus = 1\nmemory_mb = 64\n'))
    assert definition.machine == MachineDefinition(cpus=1, memory_mb=64, disks=(), nics=(), extra_args=())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("vmid = 1\n", "", "vmid: is missing"),
        ("vmid = 1\n", "vmid = 0\n", "vmid: must be an integer from 1 to 9223372036854775807"),
        ("vmid = 1\n", f"vmid = {2**63}\n", "vmid: must be an integer"),
        ("vmid = 1\n", "vmid = true\n", "vmid: must be an integer"),
        ("vmid = 1\n", "vmid = 1.0\n", "vmid: must be an integer"),
        ("vmid = 1\n", 'vmid = "1"\n', "vmid: must be an integer"),
        ('name = "a"\n', 'name = ""\n', "name: must be a text that is not empty"),
        ('name = "a"\n', 'name = "  "\n', "name: must be one line of printable text"),
        ('name = "a"\n', 'name = "a\\nb"\n', "name: must be one line of printable text"),
        ('account = "b"\n', "account = 7\n", "account: must be a text"),
        ('account = "b"\n', "", "account: is missing"),
        ('qga = "/run/1.qga"\n', "", "sockets.qga: is missing"),
        ('qga = "/run/1.qga"\n', 'qga = ""\n', "sockets.qga: must be a text"),
        ('qga = "/run/1.qga"\n', 'qga = "a\\u0000b"\n', "sockets.qga: must be a text"),
        ("[sockets]\n", "sockets = 3\n#", "sockets: must be a table"),
        ("vmid = 1\n", "vmid = 1\nvimd = 2\n", "vimd: is no known key; known are account, "),
        ('qga = "', 'qgb = "', "sockets.qgb: is no known key"),
    ],
)
def test_each_wrong_key_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = SHORT.replace(old, new)
    assert text != SHORT
    found = refusal(tmp_path, text)
    assert found.startswith("vm.toml: ")
    assert told in found


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("cpus = 2\n", "", "machine.cpus: is missing"),
        ("cpus = 2\n", "cpus = false\n", "machine.cpus: must be an integer from 1"),
        ("memory_mb = 256\n", "memory_mb = -1\n", "machine.memory_mb: must be an integer from 1"),
        ('["web-1.qcow2", "/srv/data.img"]', '"web-1.qcow2"', "machine.disks: must be a list of texts"),
        ('["tap,ifname=tap1"]', "[1]", "machine.nics: must be a text"),
        ('["-cpu", "max"]', '[""]', "machine.extra_args: must be a text"),
        ("cpus = 2\n", "cpus = 2\nram = 3\n", "machine.ram: is no known key; known are cpus, disks, extra_args"),
        ('qmp = "10001.qmp"\n', "", "sockets.qmp: is missing; [machine] needs it"),
        ('qmp = "10001.qmp"\n', 'qmp = "/run/ownup/10001.qga"\n', "sockets.qmp: must be another socket"),
    ],
)
def test_each_wrong_key_of_a_machine_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = FULL.replace(old, new)
    assert text != FULL
    assert told in refusal(tmp_path, text)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    found = refusal(tmp_path, 'vmid = 0\nname = ""\n[sockets]\nqgx = "a"\n[machine]\ncpus = 0\n')
    keys = ["vmid", "name", "account", "sockets.qga", "sockets.qgx", "machine.cpus", "machine.memory_mb", "sockets.qmp"]
    assert all(f"{key}: " in found for key in keys)


def test_a_socket_path_may_be_107_bytes_long_and_not_108(tmp_path: Path) -> None:
    fitting = "/" + "ä" * 53
    assert len(os.fsencode(fitting)) == 107
    assert load(write(tmp_path, SHORT.replace("/run/1.qga", fitting))).qga == Path(fitting)
    assert "sockets.qga: must be at most 107 bytes as an absolute path, is 108" in refusal(
        tmp_path, SHORT.replace("/run/1.qga", fitting + "a")
    )


def test_the_length_of_a_relative_socket_path_counts_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    assert "sockets.qga: must be at most 107 bytes" in refusal(folder, SHORT.replace("/run/1.qga", "1.qga"))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"vmid = ", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"a = " + b"[" * 60000, "is not TOML: nested too deep"),
        (b"vmid = " + b"9" * 60000, "is not TOML"),
        (b"#" * (64 * 1024 + 1), "is larger than 65536 bytes"),
    ],
)
def test_what_is_no_definition_at_all_is_refused(tmp_path: Path, raw: bytes, told: str) -> None:
    assert told in refusal(tmp_path, raw)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"none\.toml: is no file"):
        load(tmp_path / "none.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(DefinitionError, match=r"pipe\.toml: is no file"):
        load(tmp_path / "pipe.toml")


def dump(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08x}" for char in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(dump, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dump(key)} = {dump(item)}" for key, item in value.items()) + "}"
    return str(value)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LEAVES = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
SOCKETS = st.fixed_dictionaries({}, optional={"qga": TEXTS | VALUES, "qmp": TEXTS | VALUES})
MACHINES = st.fixed_dictionaries(
    {},
    optional={
        "cpus": st.integers(0, 4) | VALUES,
        "memory_mb": st.integers(0, 4) | VALUES,
        **{name: st.lists(TEXTS, max_size=2) | VALUES for name in ("disks", "nics", "extra_args")},
    },
)
FILES = st.fixed_dictionaries(
    {"vmid": st.integers(0, 2**63) | VALUES},
    optional={
        "name": TEXTS | VALUES,
        "account": TEXTS | VALUES,
        "sockets": SOCKETS | VALUES,
        "machine": MACHINES | VALUES,
        "other": VALUES,
    },
)


def read_or_refuse(path: Path) -> None:
    try:
        definition = load(path)
    except DefinitionError:
        return
    assert 1 <= definition.vmid < 2**63
    assert definition.name
    assert definition.account
    assert definition.qga.is_absolute()
    assert definition.machine is None or definition.qmp is not None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(raw=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_definition_or_refused(tmp_path: Path, raw: bytes) -> None:
    read_or_refuse(write(tmp_path, raw))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(values=FILES)
def test_any_values_are_a_definition_or_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    read_or_refuse(write(tmp_path, "\n".join(f"{dump(key)} = {dump(value)}" for key, value in values.items())))
