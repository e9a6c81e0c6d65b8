"""The command line of a VM, and whether one runs."""

import os
import socket
from dataclasses import replace
from pathlib import Path

from workers.vms.definition import MachineDefinition, VmDefinition
from workers.vms.machine import accepts, command_line, is_running, running_pid

MACHINE = MachineDefinition(cpus=1, memory_mb=32, disks=(), nics=(), extra_args=("-S",))


def define(folder: Path, machine: MachineDefinition | None = MACHINE) -> VmDefinition:
    return VmDefinition(
        vmid=10001,
        name="web-1",
        account="acme",
        qga=folder / "1.qga",
        qmp=folder / "1.qmp",
        machine=machine,
        source=folder / "1.toml",
    )


def arguments(
    definition: VmDefinition, accel: str = "", snapshot: str | None = None, *, sandboxed: bool = True
) -> list[str]:
    files = {"pid_file": Path("/run/1.pid"), "console_file": Path("/run/1.console")}
    options = {"accel": accel, "snapshot": snapshot, "sandboxed": sandboxed}
    return command_line(definition, binary="/opt/qemu", **files, **options)


def values(argv: list[str], option: str) -> list[str]:
    return [argv[position + 1] for position, word in enumerate(argv) if word == option]


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def test_the_command_line_has_both_sockets_and_the_agents_port() -> None:
    argv = arguments(define(Path("/run")))
    assert argv[0] == "/opt/qemu"
    assert values(argv, "-chardev") == [
        "socket,id=qmp,path=/run/1.qmp,server=on,wait=off",
        "socket,id=qga,path=/run/1.qga,server=on,wait=off",
    ]
    assert values(argv, "-mon") == ["chardev=qmp,mode=control"]
    assert values(argv, "-device") == [
        "virtio-serial-pci",
        "virtserialport,chardev=qga,id=agent,name=org.qemu.guest_agent.0",
    ]
    assert values(argv, "-name") == ["guest=web-1,process=qemu-10001"]
    assert values(argv, "-pidfile") == ["/run/1.pid"]
    assert values(argv, "-serial") == ["file:/run/1.console"]


def test_the_command_line_has_the_machine_and_its_extra_arguments_last() -> None:
    machine = MachineDefinition(
        cpus=2,
        memory_mb=256,
        disks=(Path("/a.qcow2"), Path("/b.img")),
        nics=("user", "tap,ifname=t"),
        extra_args=("-S",),
    )
    argv = arguments(define(Path("/run"), machine))
    assert values(argv, "-smp") == ["2"]
    assert values(argv, "-m") == ["256M"]
    assert values(argv, "-nic") == ["user", "tap,ifname=t"]
    assert values(argv, "-drive") == ["file=/a.qcow2,if=virtio,format=qcow2", "file=/b.img,if=virtio,format=raw"]
    assert argv[-1] == "-S"


def test_a_guest_boots_unless_it_is_to_go_on_where_a_snapshot_was_taken(tmp_path: Path) -> None:
    definition = define(tmp_path)
    assert "-loadvm" not in arguments(definition)
    assert values(arguments(definition, snapshot="-s"), "-loadvm") == ["-s"]


def test_a_machine_without_cards_gets_none() -> None:
    assert values(arguments(define(Path("/run"))), "-nic") == ["none"]


def test_qemu_forbids_itself_what_it_does_not_need() -> None:
    assert values(arguments(define(Path("/run"))), "-sandbox") == [
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    ]
    assert values(arguments(define(Path("/run")), sandboxed=False), "-sandbox") == []


def test_only_a_machine_with_cards_may_start_programs() -> None:
    machine = replace(MACHINE, nics=("tap,ifname=t",))
    assert values(arguments(define(Path("/run"), machine)), "-sandbox") == [
        "on,obsolete=deny,elevateprivileges=deny,spawn=allow,resourcecontrol=deny"
    ]


def test_a_definition_with_a_sandbox_of_its_own_keeps_it() -> None:
    machine = replace(MACHINE, extra_args=("-sandbox", "off"))
    assert values(arguments(define(Path("/run"), machine)), "-sandbox") == ["off"]


def test_without_an_accelerator_kvm_is_tried_before_tcg() -> None:
    assert values(arguments(define(Path("/run"))), "-accel") == ["kvm", "tcg"]
    assert values(arguments(define(Path("/run")), accel="tcg"), "-accel") == ["tcg"]


def test_commas_are_doubled_where_qemu_reads_option_lists() -> None:
    machine = replace(MACHINE, disks=(Path("/a,b.img"),))
    argv = arguments(replace(define(Path("/r,un"), machine), name="web,process=x"))
    assert values(argv, "-drive") == ["file=/a,,b.img,if=virtio,format=raw"]
    assert values(argv, "-chardev")[0] == "socket,id=qmp,path=/r,,un/1.qmp,server=on,wait=off"
    assert values(argv, "-name") == ["guest=web,,process=x,process=qemu-10001"]


def test_an_image_is_not_opened_to_find_out_what_it_is(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"QFI\xfb")
    assert values(arguments(define(tmp_path, replace(MACHINE, disks=(disk,)))), "-drive")[0].endswith("format=raw")


def test_a_stale_pid_file_does_not_make_a_vm_run(tmp_path: Path) -> None:
    definition = define(tmp_path)
    for text in (str(os.getpid()), "0", "", "x", "99999999"):
        (tmp_path / "1.qmp.pid").write_text(text)
        assert running_pid(definition) is None
        assert not is_running(definition)


def test_a_vm_that_others_started_runs_while_its_socket_accepts(tmp_path: Path) -> None:
    definition = define(tmp_path, None)
    with listen(tmp_path / "1.qmp") as listener:
        assert is_running(definition)
        for _ in range(3):  # more than its backlog takes
            assert accepts(tmp_path / "1.qmp")
        listener.close()
    assert not is_running(definition)
