"""When the lab guest is built again, and of what."""

import gzip
from pathlib import Path

import pytest

from lab import guest, initramfs
from lab.initramfs import directory, executable, link, plain, private
from lab.install import apt_steps, one_line
from lab.packages import Package, PackageError, parse_record

KERNEL = Package("linux-image-6.1.0-1-cloud-amd64", "6.1.1-1", ())


def test_a_stamp_changes_with_each_thing_a_build_is_made_of(tmp_path: Path) -> None:
    program = tmp_path / "qemu-ga"
    program.write_bytes(b"one")
    stamps = [guest.stamp_text([KERNEL], [program])]
    stamps.append(guest.stamp_text([Package(KERNEL.name, "6.1.2-1", ())], [program]))
    program.write_bytes(b"another")
    stamps.append(guest.stamp_text([KERNEL], [program]))
    assert len(set(stamps)) == 3
    assert guest.stamp_text([KERNEL], [program]) == stamps[-1]


def test_a_build_is_current_only_with_its_stamp_and_all_its_products(tmp_path: Path) -> None:
    stamp, product = tmp_path / "stamp", tmp_path / "initrd.gz"
    assert not guest.is_current(stamp, "a", [product])
    stamp.write_text("a")
    assert not guest.is_current(stamp, "a", [product])
    product.touch()
    assert guest.is_current(stamp, "a", [product])
    assert not guest.is_current(stamp, "b", [product])


def test_extra_words_end_up_on_the_kernels_command_line() -> None:
    lab_guest = guest.LabGuest(Path("/k"), Path("/i"), "quiet")
    assert lab_guest.qemu_args("a=1", "b") == ["-kernel", "/k", "-initrd", "/i", "-append", "quiet a=1 b"]


def test_the_libraries_of_a_program_include_its_loader() -> None:
    names = [path.name for path in guest.shared_libraries(Path("/bin/sh"))]
    assert "libc.so.6" in names
    assert any(name.startswith("ld-linux") for name in names)


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(PackageError, match="/nowhere/qemu-ga is not installed"):
        guest.shared_libraries(Path("/nowhere/qemu-ga"))


def test_directories_come_before_what_is_in_them() -> None:
    entries = [plain("/a/b/file", b""), link("/a/link", "b"), directory("/a", 0o700)]
    made = initramfs.with_parents(entries)
    assert [entry.path for entry in made] == ["/a", "/a/b", "/a/b/file", "/a/link"]
    assert made[0].mode & 0o777 == 0o700


def test_a_private_file_is_for_root_only() -> None:
    entry = private("/etc/shadow", b"root:*:\n")
    assert (entry.mode & 0o777, entry.mode & 0o170000) == (0o600, plain("/a", b"").mode & 0o170000)


def test_each_header_and_body_starts_on_four_bytes() -> None:
    archive = gzip.decompress(initramfs.encode([executable("/run-me", b"12345"), plain("/other", b"body")]))
    assert archive.find(b"070701", 1) % 4 == archive.find(b"12345") % 4 == archive.find(b"body") % 4 == 0
    assert archive.count(b"070701") == 3
    assert b"TRAILER!!!\0" in archive


def test_the_same_entries_give_the_same_bytes() -> None:
    assert initramfs.encode([plain("/a", b"1")]) == initramfs.encode([plain("/a", b"1")])


def test_apts_description_of_a_package_is_read() -> None:
    text = "Package: busybox-static\nVersion: 1:1.35.0-4\nDepends: libc6 (>= 2.36), a | b\nDescription: x: y\n more\n\n"
    assert parse_record(text) == Package("busybox-static", "1:1.35.0-4", ("libc6", "a"))


def test_what_is_no_description_is_refused() -> None:
    with pytest.raises(PackageError):
        parse_record("N: Unable to locate package\n")


def test_without_root_a_person_gets_one_line_to_type() -> None:
    line = "sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends redis-server curl"
    assert one_line(apt_steps(["redis-server", "curl"])) == line
    assert one_line(apt_steps([])) == "sudo apt-get update -qq"
