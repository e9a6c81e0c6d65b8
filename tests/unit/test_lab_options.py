import json
import shlex
from pathlib import Path

import pytest

from lab import LabError
from lab.demo import curl_lines, key_id
from lab.run import Options, child_environ, read_options


def test_without_options_one_vm_and_port_8000() -> None:
    assert read_options({"VMS": ""}) == Options(var_dir=Path("var").resolve(), vms=1, port=8000, redis_url="")


@pytest.mark.parametrize(
    ("name", "raw"), [("VMS", "0"), ("VMS", "101"), ("VMS", "-1"), ("PORT", "http"), ("PORT", "²")]
)
def test_a_number_out_of_range_is_named(name: str, raw: str) -> None:
    with pytest.raises(LabError, match=name):
        read_options({name: raw})


def test_both_halves_are_told_of_the_same_places(tmp_path: Path) -> None:
    options = Options(var_dir=tmp_path, vms=1, port=8001, redis_url="")
    environ = child_environ(options, "unix:///x/redis.sock?db=0", "tcg")
    assert {name: environ[name] for name in ("PORT", "REDIS_URL", "VAR_DIR", "VM_DIR", "SPOOL_DIR", "QEMU_ACCEL")} == {
        "PORT": "8001",
        "REDIS_URL": "unix:///x/redis.sock?db=0",
        "VAR_DIR": str(tmp_path),
        "VM_DIR": str(tmp_path / "vms"),
        "SPOOL_DIR": str(tmp_path / "spool"),
        "QEMU_ACCEL": "tcg",
    }


def test_the_id_is_read_out_of_a_secret() -> None:
    assert key_id("ownup_k1_rand_om") == "k1"
    assert key_id("other_k1_random") == ""
    assert key_id("") == ""


def test_curl_lines_are_shell_lines_with_the_key_in_them() -> None:
    lines = [shlex.split(line) for _, line in curl_lines("http://127.0.0.1:8000", "ownup_k_s", 10000, 17)]
    assert all(words[0] == "curl" and "X-API-Key: ownup_k_s" in words for words in lines)
    assert json.loads(lines[0][lines[0].index("-d") + 1]) == {"command": "uname -a"}
    assert [words[-1].removeprefix("http://127.0.0.1:8000") for words in lines] == [
        "/api/vm/10000/agent/exec",
        "/api/vm/10000/agent/exec?pid=17",
        "/api/vm/10000/status",
        "/api/vm",
    ]
