import os
import tomllib
from pathlib import Path

import pytest

from lab.definitions import (
    SOCKET_PATH_LIMIT_BYTES,
    SocketDirectoryError,
    demo_fleet,
    render,
    socket_dir,
    write,
)
from lab.guest import LabGuest

GUEST = LabGuest(kernel=Path("/lab/vmlinuz"), initrd=Path("/lab/initrd.gz"), append="quiet")


def test_the_fleet_counts_up_from_vmid_10000() -> None:
    assert [(vm.vmid, vm.name) for vm in demo_fleet(3)] == [(10000, "demo-1"), (10001, "demo-2"), (10002, "demo-3")]


def test_a_definition_says_what_the_worker_needs() -> None:
    [vm] = demo_fleet(1)
    assert tomllib.loads(render(vm, Path('/run/a "quoted"\\name'), GUEST, [Path("/d/a b.qcow2")])) == {
        "vmid": 10000,
        "name": "demo-1",
        "account": "demo",
        "sockets": {"qga": '/run/a "quoted"\\name/10000.qga', "qmp": '/run/a "quoted"\\name/10000.qmp'},
        "machine": {
            "cpus": 1,
            "memory_mb": 256,
            "disks": ["/d/a b.qcow2"],
            "nics": [],
            "extra_args": [
                "-kernel",
                "/lab/vmlinuz",
                "-initrd",
                "/lab/initrd.gz",
                "-append",
                "quiet hostname=demo-1",
            ],
        },
    }


def test_writing_follows_the_fleet_and_spares_definitions_made_by_hand(tmp_path: Path) -> None:
    (tmp_path / "10001.toml").write_text("vmid = 10001\n")
    (tmp_path / "777.toml").write_text("vmid = 777\n")
    write(tmp_path, demo_fleet(3), Path("/run"), GUEST, tmp_path / "disks")
    assert tomllib.loads((tmp_path / "10001.toml").read_text())["name"] == "demo-2"
    write(tmp_path, demo_fleet(1), Path("/run"), GUEST, tmp_path / "disks")
    assert sorted(path.name for path in tmp_path.glob("*.toml")) == ["10000.toml", "777.toml"]


def test_a_vm_keeps_the_disk_that_was_made_for_it(tmp_path: Path) -> None:
    write(tmp_path, demo_fleet(1), Path("/run"), GUEST, tmp_path / "disks")
    [disk] = tomllib.loads((tmp_path / "10000.toml").read_text())["machine"]["disks"]
    assert Path(disk).read_bytes()[:4] == b"QFI\xfb"  # Source: QEMU's docs/interop/qcow2.txt, header: the magic
    Path(disk).write_text("of the guest")
    write(tmp_path, demo_fleet(1), Path("/run"), GUEST, tmp_path / "disks")
    assert Path(disk).read_text() == "of the guest"


def test_sockets_are_below_var_dir_where_they_fit(tmp_path: Path) -> None:
    directory = socket_dir(tmp_path, {})
    assert directory == tmp_path / "run"
    assert directory.stat().st_mode & 0o777 == 0o700


def test_sockets_move_to_the_runtime_directory_where_paths_were_too_long(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["long-directory-name"] * 5)
    deep.mkdir(parents=True)
    directory = socket_dir(deep, {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert directory.parent == tmp_path
    assert directory == socket_dir(deep, {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert directory != socket_dir(deep.parent / "long-directory-name-2", {"XDG_RUNTIME_DIR": str(tmp_path)})


def test_the_longest_path_that_fits_the_kernel_stays(tmp_path: Path) -> None:
    longest_name = "4294967295.qga"
    room = SOCKET_PATH_LIMIT_BYTES - len(os.fsencode(tmp_path / "x" / "run" / longest_name)) + 1
    fits, too_long = tmp_path / ("x" * room), tmp_path / ("x" * (room + 1))
    assert len(os.fsencode(socket_dir(fits, {}) / longest_name)) == SOCKET_PATH_LIMIT_BYTES
    assert socket_dir(too_long, {"XDG_RUNTIME_DIR": str(tmp_path)}).parent == tmp_path


def test_a_socket_directory_that_was_laid_out_for_us_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SocketDirectoryError):
        socket_dir(tmp_path, {})
