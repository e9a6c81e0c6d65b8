"""A definition that is edited while commands run: they go on, others can be started, and kills reach them."""

import fcntl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.records import Command, CommandState
from tests.faults.peers import ACCOUNT, Customer, Worker, fake_agents, until

VMID = 100


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="own") as name:
        yield Path(name)


@pytest.fixture
def customer(redis_url: str) -> Iterator[Customer]:
    with Customer(redis_url) as customer:
        yield customer


@pytest.fixture
def worker(folder: Path, redis_url: str, customer: Customer) -> Iterator[Worker]:
    worker = Worker(folder / "worker", redis_url, AGENT_SYNC_TIMEOUT_S="1")
    with fake_agents(folder, VMID, 1), worker:
        describe(worker, "before", folder / f"{VMID}.qga")
        worker.wait_ready()
        customer.wait_available(VMID)
        yield worker


def describe(worker: Worker, name: str, qga: Path, *, account: str = ACCOUNT) -> None:
    write(worker, f'vmid = {VMID}\nname = "{name}"\naccount = "{account}"\n[sockets]\nqga = "{qga}"\n')


def write(worker: Worker, text: str) -> None:
    partial = worker.vm_dir / "partial"
    partial.write_text(text)
    partial.rename(worker.vm_dir / f"{VMID}.toml")


def is_known_as(customer: Customer, name: str) -> bool:
    view = customer.vm(VMID)
    return view is not None and view.vm.name == name and view.vm.agent_available


def is_unknown(customer: Customer) -> bool:
    return customer.vm(VMID) is None


def start_late(customer: Customer, seconds: float) -> Command:
    return customer.wait_running(customer.start(VMID, f"sleep {seconds}; echo late"))


def assert_usable(customer: Customer) -> None:
    soon = customer.wait(customer.start(VMID, "echo soon"), timeout_s=5)
    assert (soon.state, customer.result(soon).stdout) == (CommandState.EXITED, b"soon\n")


def assert_ends_late(customer: Customer, late: Command) -> None:
    assert customer.find(late.id).state is CommandState.RUNNING
    ended = customer.wait(late.id)
    assert (ended.state, customer.result(ended).stdout) == (CommandState.EXITED, b"late\n")


def test_another_name_disturbs_nothing(worker: Worker, customer: Customer, folder: Path):
    late = start_late(customer, 3)
    sessions = worker.log.count("agent_state")
    describe(worker, "after", folder / f"{VMID}.qga")
    until(5, "the VM is known by its new name", lambda: is_known_as(customer, "after"))
    assert_usable(customer)
    assert_ends_late(customer, late)
    assert worker.log.count("agent_state") == sessions, "the agent was never away"


@pytest.mark.parametrize("trouble", ["broken", "gone"])
def test_what_runs_while_a_file_is_broken_or_gone_is_told_truly(
    worker: Worker, customer: Customer, folder: Path, trouble: str
):
    late = start_late(customer, 5)
    if trouble == "broken":
        write(worker, "vmid = ")
    else:
        worker.drop(VMID)
    until(5, "the VM is forgotten", lambda: is_unknown(customer))
    time.sleep(1)  # the command has been polled meanwhile
    describe(worker, "back", folder / f"{VMID}.qga")
    until(10, "the VM is back", lambda: is_known_as(customer, "back"))
    assert_usable(customer)
    assert_ends_late(customer, late)


def test_a_socket_is_let_go_when_the_last_command_of_a_vm_that_is_gone_has_ended(
    worker: Worker, customer: Customer, folder: Path
):
    start_late(customer, 2)
    worker.drop(VMID)
    until(5, "the VM is forgotten", lambda: is_unknown(customer))
    until(15, "the socket's lock is free", lambda: is_free(folder / f"{VMID}.qga.lock"))


def test_a_second_vm_with_the_same_socket_does_not_become_the_first(worker: Worker, customer: Customer):
    text = (worker.vm_dir / f"{VMID}.toml").read_text()
    copy = worker.vm_dir / "partial"
    copy.write_text(text.replace(f"vmid = {VMID}", f"vmid = {VMID + 1}").replace(ACCOUNT, "other"))
    copy.rename(worker.vm_dir / "copy.toml")
    until(5, "the copy is known", lambda: customer.vm(VMID + 1))
    refused = customer.wait(customer.start(VMID + 1, "echo stolen"))
    assert refused.state is CommandState.FAILED
    assert "already used" in str(refused.message)
    assert_usable(customer)


def is_free(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
