"""A worker leaves garbage alone while it starts, and not for longer."""

import asyncio
import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core import env
from workers import garbage
from workers.__main__ import _run
from workers.settings import WorkerSettings


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


async def test_it_is_collected_again_when_the_worker_has_settled(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"REDIS_URL": redis_url, "VM_DIR": str(tmp_path), "SPOOL_DIR": str(tmp_path / "spool")}
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(garbage, "SETTLED_S", 0.3)
    garbage.rest()
    worker = asyncio.create_task(_run(env.load(WorkerSettings, environ)))
    await asyncio.sleep(0)
    assert not gc.isenabled()
    async with asyncio.timeout(10):
        while not gc.isenabled():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
    assert not worker.done()
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker


def test_what_has_come_to_stay_is_left_alone_and_garbage_is_not() -> None:
    program = """
import gc
from workers import garbage
class Node: pass
gc.collect()
garbage.rest()
kept = [Node() for _ in range(100_000)]
ring = Node(); ring.self = ring; del ring
garbage.resume()
looked_at = gc.get_objects()
assert not any(type(each) is Node for each in looked_at), "frozen, or collected"
gc.unfreeze()
assert sum(type(each) is Node for each in gc.get_objects()) == 100_000
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30, cwd=Path(__file__).parents[2])
