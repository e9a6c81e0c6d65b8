"""The VMs of a node are those of its usable definition files, at every moment; a broken file harms nobody else."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.core import env
from app.core.records import Vm as VmRecord
from app.core.records import VmStatus
from workers.settings import WorkerSettings
from workers.vms.registry import Registry


def definition(vmid: int, name: str = "a") -> str:
    return f'vmid = {vmid}\nname = "{name}"\naccount = "acme"\n[sockets]\nqga = "{vmid}.qga"\nqmp = "{vmid}.qmp"\n'


class Node:
    """A registry, its folder, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.published: dict[int, VmRecord] = {}
        self.told: list[VmStatus] = []
        self.forgotten: list[int] = []
        self.for_good: bool | None = None
        settings = env.load(WorkerSettings, {"VM_DIR": str(folder)})
        self.registry = Registry(
            settings, publish=self._publish, forget=self._forget, guest_gone=lambda _vmid, _reason: None
        )

    async def _publish(self, vm: VmRecord) -> None:
        self.published[vm.vmid] = vm
        self.told.append(vm.status)

    async def _forget(self, vmid: int, for_good: bool) -> None:  # noqa: FBT001 - as the registry calls it
        self.forgotten.append(vmid)
        self.for_good = for_good

    def write(self, name: str, text: str) -> None:
        """Write a file as a careful person does: it is there whole, and its time is another one."""
        partial = self.folder / f"{name}.new"
        partial.write_text(text)
        partial.rename(self.folder / name)

    async def scan(self) -> list[int]:
        await self.registry.scan()
        return sorted(vm.vmid for vm in self.registry.records())


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    folder = tmp_path / "vms"
    folder.mkdir()
    node = Node(folder)
    yield node
    await node.registry.close()


async def test_each_usable_file_is_a_vm_and_other_files_are_none(node: Node) -> None:
    node.write("a.toml", definition(1))
    node.write("b.toml", definition(2))
    node.write("c.txt", definition(3))
    assert await node.scan() == [1, 2]
    assert (len(node.registry), node.registry.broken) == (2, 0)
    found = node.registry.find(2)
    assert found is not None
    assert found.definition.source == node.folder / "b.toml"
    assert node.registry.find(3) is None


async def test_a_vm_is_followed_and_what_is_seen_is_told(node: Node) -> None:
    node.write("a.toml", definition(1))
    await node.scan()
    async with asyncio.timeout(5):
        while 1 not in node.published or node.published[1].status is not VmStatus.STOPPED:  # noqa: ASYNC110 - what is polled isn't an event
            await asyncio.sleep(0.01)
    assert (node.published[1].account, node.published[1].running) == ("acme", False)


async def test_a_broken_file_is_counted_and_skipped_until_it_is_mended(node: Node) -> None:
    node.write("a.toml", definition(1))
    node.write("b.toml", "vmid = ")
    assert await node.scan() == [1]
    assert node.registry.broken == 1
    node.write("b.toml", definition(2))
    assert await node.scan() == [1, 2]
    assert node.registry.broken == 0


async def test_a_file_that_breaks_takes_its_vm_away_and_no_other(node: Node) -> None:
    node.write("a.toml", definition(1))
    node.write("b.toml", definition(2))
    await node.scan()
    node.write("a.toml", "nonsense")
    assert await node.scan() == [2]
    assert (node.forgotten, node.registry.broken) == ([1], 1)
    assert node.for_good is False, "its results stay: a slip of the pen is mended"


async def test_a_broken_file_that_is_removed_is_not_counted_any_more(node: Node) -> None:
    node.write("a.toml", "nonsense")
    await node.scan()
    (node.folder / "a.toml").unlink()
    await node.scan()
    assert (node.registry.broken, node.forgotten) == (0, [])


async def test_a_removed_file_takes_its_vm_away(node: Node) -> None:
    node.write("a.toml", definition(1))
    await node.scan()
    (node.folder / "a.toml").unlink()
    assert await node.scan() == []
    assert node.forgotten == [1]
    assert node.for_good is True
    assert node.registry.find(1) is None


async def test_a_renamed_file_keeps_its_vm(node: Node) -> None:
    node.write("a.toml", definition(1))
    await node.scan()
    (node.folder / "a.toml").rename(node.folder / "b.toml")
    assert await node.scan() == [1]
    assert node.registry.broken == 0
    assert node.for_good is False, "it keeps its results too"


async def test_a_changed_file_changes_the_vm_and_an_unchanged_one_leaves_it_alone(node: Node) -> None:
    node.write("a.toml", definition(1))
    await node.scan()
    first = node.registry.find(1)
    node.write("a.toml", definition(1) + "# only words")
    await node.scan()
    assert node.registry.find(1) is first
    node.write("a.toml", definition(1, "renamed"))
    await node.scan()
    [record] = node.registry.records()
    assert record.name == "renamed"


async def test_the_same_vmid_twice_leaves_the_first_alone(node: Node) -> None:
    node.write("b.toml", definition(1, "first"))
    await node.scan()
    node.write("a.toml", definition(1, "second"))
    assert await node.scan() == [1]
    [record] = node.registry.records()
    assert (record.name, node.registry.broken) == ("first", 1)


async def test_a_vmid_that_becomes_free_is_taken_by_the_file_that_waited_for_it(node: Node) -> None:
    node.write("a.toml", definition(1, "first"))
    node.write("b.toml", definition(1, "second"))
    await node.scan()
    (node.folder / "a.toml").unlink()
    assert await node.scan() == [1]
    [record] = node.registry.records()
    assert (record.name, node.registry.broken) == ("second", 0)


async def test_two_files_can_exchange_their_vmids(node: Node) -> None:
    node.write("a.toml", definition(1, "a"))
    node.write("b.toml", definition(2, "b"))
    await node.scan()
    node.write("a.toml", definition(2, "a"))
    node.write("b.toml", definition(1, "b"))
    assert await node.scan() == [1, 2]
    assert {record.vmid: record.name for record in node.registry.records()} == {1: "b", 2: "a"}
    assert node.registry.broken == 0


async def test_a_folder_that_is_not_there_yet_holds_no_vms(tmp_path: Path) -> None:
    node = Node(tmp_path / "later")
    assert await node.scan() == []
    node.folder.mkdir()
    node.write("a.toml", definition(1))
    assert await node.scan() == [1]
    await node.registry.close()


async def test_something_that_is_no_file_is_a_broken_one(node: Node) -> None:
    (node.folder / "dir.toml").mkdir()
    (node.folder / "link.toml").symlink_to("nowhere")
    node.write("a.toml", definition(1))
    assert await node.scan() == [1]
    assert node.registry.broken == 1, "the folder; a link to nowhere is no file at all"


async def test_closing_forgets_no_vm(node: Node) -> None:
    node.write("a.toml", definition(1))
    await node.scan()
    await node.registry.close()
    assert node.forgotten == []
    assert len(node.registry) == 0


@pytest.mark.parametrize("target", ["a.toml", "b.toml/x", "x" * 300])
async def test_a_link_that_leads_nowhere_harms_nobody_else(node: Node, target: str) -> None:
    (node.folder / "a.toml").symlink_to(target)
    node.write("b.toml", definition(2))
    assert await node.scan() == [2]
    assert node.registry.broken == 1
    node.write("a.toml", definition(1))
    assert await node.scan() == [1, 2]
    assert node.registry.broken == 0


async def test_a_vm_that_is_dropped_leaves_no_task_behind(node: Node) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = {b"query-cpus-fast": b"[]", b"query-chardev": b"[]", b"query-memory": b'{"base-memory": 1}'}
        writer.write(b'{"QMP": {"version": {}, "capabilities": []}}\n')
        while request := await reader.read(4096):
            value = next((answers[name] for name in answers if name in request), b'{"status": "running"}')
            request_id = json.loads(request).get("id")
            writer.write(b'{"return": %b, "id": %b}\n' % (value, json.dumps(request_id).encode()))
        writer.close()

    before = asyncio.all_tasks()
    async with await asyncio.start_unix_server(serve, node.folder / "1.qmp"), asyncio.timeout(5):
        node.write("a.toml", definition(1))
        await node.scan()
        while 1 not in node.published or not node.published[1].running:  # noqa: ASYNC110 - what is polled isn't an event
            await asyncio.sleep(0.01)
        (node.folder / "a.toml").unlink()
        await node.scan()
        while asyncio.all_tasks() - before:  # noqa: ASYNC110 - the socket's other end may take a turn to notice
            await asyncio.sleep(0.01)


async def test_a_vm_that_is_described_anew_keeps_what_it_has_left_unless_its_owner_is_another(node: Node) -> None:
    node.write("a.toml", definition(1))
    await node.scan()
    node.write("a.toml", definition(1, name="b"))
    assert await node.scan() == [1]
    assert node.forgotten == []
    node.write("a.toml", definition(1, name="b").replace("acme", "other"))
    assert await node.scan() == [1]
    assert node.forgotten == [1]
    node.write("a.toml", definition(2).replace("acme", "other"))
    assert await node.scan() == [2]
    assert node.forgotten == [1, 1]


async def test_a_vm_that_has_just_stopped_stays_so_while_its_qemu_still_takes_connections(node: Node) -> None:
    node.write("a.toml", definition(1))
    await node.scan()
    tries = asyncio.Semaphore(0)

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.release()
        writer.close()

    async with asyncio.timeout(10):
        while VmStatus.STOPPED not in node.told:  # noqa: ASYNC110 - what is polled isn't an event
            await asyncio.sleep(0.01)
        async with await asyncio.start_unix_server(hang_up, node.folder / "1.qmp"):
            for _ in range(3):
                await tries.acquire()
    (node.folder / "1.qmp").unlink()
    assert VmStatus.UNKNOWN not in node.told[node.told.index(VmStatus.STOPPED) :]
