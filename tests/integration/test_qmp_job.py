"""What QEMU does as a job, where it takes its time: a played QEMU, as a real one is too quick to be caught at it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import MonitorError
from workers.qmp import job
from workers.qmp.monitor import Monitor

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}

Answer = Callable[[str, dict[str, Any]], Any]


class PlayedQemu:
    """Answers as a test tells it to, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.clients: set[asyncio.Task[None]] = set()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.add(asyncio.create_task(self._attend(reader, writer)))

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(GREETING).encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # the client may leave in the middle of an answer
            while request := await _read_request(reader):
                self._take(request, writer)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

    def _take(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        command, arguments = request["execute"], request.get("arguments", {})
        ids = {"id": request["id"]} if "id" in request else {}
        self.asked.append((command, arguments))
        reply = {} if command == "qmp_capabilities" else self._answer(command, arguments)
        if reply is not None:
            writer.write(json.dumps({"return": reply} | ids).encode() + b"\n")

    def count(self, command: str) -> int:
        return [name for name, _ in self.asked].count(command)


async def _read_request(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Read one JSON object; nothing comes after it, as QEMU needs nothing to know its end."""
    text = b""
    while part := await reader.read(65536):
        text += part
        with contextlib.suppress(ValueError):
            request: dict[str, Any] = json.loads(text)
            return request
    return None


@asynccontextmanager
async def connected(folder: Path, answer: Answer) -> AsyncIterator[tuple[PlayedQemu, Monitor]]:
    qemu = PlayedQemu(answer)
    server = await asyncio.start_unix_server(qemu.serve, folder / "qmp")
    monitor = Monitor(folder / "qmp", on_event=lambda _name, _data: None)
    await monitor.connect(5)
    try:
        yield qemu, monitor
    finally:
        await monitor.close()
        await asyncio.gather(*qemu.clients)
        server.close()
        await server.wait_closed()


def of_job(status: str, **more: str) -> Answer:
    """Make an answer: the job that was asked for last is in this state."""
    ids: list[str] = []

    def answer(command: str, arguments: dict[str, Any]) -> Any:
        if command == "query-jobs":
            return [{"id": job_id, "status": status} | more for job_id in ids]
        if command == "snapshot-save":
            ids.append(arguments["job-id"])
        return {}

    return answer


async def test_a_job_that_ends_well_is_dismissed(tmp_path: Path) -> None:
    async with connected(tmp_path, of_job("concluded")) as (qemu, monitor):
        await job.run(monitor, "snapshot-save", {"tag": "s"}, timeout_s=5)
    name, arguments = qemu.asked[1]
    assert (name, arguments["tag"]) == ("snapshot-save", "s")
    assert qemu.asked[-1] == ("job-dismiss", {"id": arguments["job-id"]})


async def test_a_job_that_fails_is_told_in_qemus_words_and_dismissed(tmp_path: Path) -> None:
    async with connected(tmp_path, of_job("concluded", error="No space left on device")) as (qemu, monitor):
        with pytest.raises(MonitorError, match="snapshot-save: No space left on device"):
            await job.run(monitor, "snapshot-save", {}, timeout_s=5)
        assert qemu.count("job-dismiss") == 1


async def test_a_job_is_waited_for_only_so_long(tmp_path: Path) -> None:
    async with connected(tmp_path, of_job("running")) as (qemu, monitor):
        with pytest.raises(MonitorError, match=r"has not done it within 0\.2 s, and may still do it"):
            await job.run(monitor, "snapshot-save", {}, timeout_s=0.2)
        assert qemu.count("query-jobs") > 1
        assert qemu.count("job-dismiss") == 0


async def test_a_qemu_that_forgot_its_job_is_not_asked_for_ever(tmp_path: Path) -> None:
    async with connected(tmp_path, lambda command, _arguments: [] if command == "query-jobs" else {}) as (_, monitor):
        with pytest.raises(MonitorError, match="knows nothing of its job"):
            await job.run(monitor, "snapshot-save", {}, timeout_s=5)


async def test_what_an_earlier_worker_left_is_dismissed_and_what_others_do_is_not(tmp_path: Path) -> None:
    jobs = [
        {"id": "ownup-1", "status": "concluded"},
        {"id": "ownup-2", "status": "running"},
        {"id": "mirror0", "status": "concluded"},
    ]
    async with connected(tmp_path, lambda command, _arguments: jobs if command == "query-jobs" else {}) as (
        qemu,
        monitor,
    ):
        await job.clear(monitor)
        assert qemu.asked[-1] == ("job-dismiss", {"id": "ownup-1"})
        assert qemu.count("job-dismiss") == 1


async def test_requests_are_given_as_long_as_the_work_may_take_and_no_longer(tmp_path: Path) -> None:
    """As when the figures are due while QEMU saves a guest: it answers nobody, and isn't dead."""
    busy = asyncio.Event()

    def answer(command: str, _arguments: dict[str, Any]) -> Any:
        return None if command == "query-status" and busy.is_set() else {}

    async with connected(tmp_path, answer) as (_, monitor):
        busy.set()
        with monitor.patient(0.4):
            before_s = asyncio.get_running_loop().time()
            with pytest.raises(MonitorError, match="did not answer"):
                await monitor.execute("query-status", timeout_s=0.05)
            assert 0.35 < asyncio.get_running_loop().time() - before_s < 5
        await monitor.connect(5)
        with pytest.raises(MonitorError, match=r"did not answer within 0\.05 s"):
            await monitor.execute("query-status", timeout_s=0.05)
