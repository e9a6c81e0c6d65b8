"""RQ's own books tell the truth about a node, and a product that was asked to end leaves none of them open."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from tests.conftest import RedisServer
from tests.e2e.conftest import Client, Stack, started, until

pytestmark = pytest.mark.timeout(240)  # one of the tests also waits for the stack to start, one for its end

QUEUE = "node-node-1"
COMMANDS = 5


def rq_info(redis_url: str) -> str:
    """Ask as a person would."""
    argv = [str(Path(sys.executable).with_name("rq")), "info", "--raw", "--url", redis_url]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout


def is_idle(info: str) -> bool:
    return f"queue {QUEUE} 0, 0 executing," in info and " idle " in info


def count(info: str, pattern: str) -> int:
    found = re.search(pattern, info)
    assert found is not None, info
    return int(found[1])


def test_rq_info_shows_the_worker_its_queue_and_no_job_left_behind(stack: Stack, client: Client, vmid: int) -> None:
    before = count(rq_info(stack.redis_url), r"jobs: (\d+) finished")
    for _ in range(COMMANDS):
        client.output(vmid, "true")
    assert client.power(vmid, "start")["isCompleted"]
    # Books are kept beside the work, so they may be some milliseconds behind.
    info = until(10, "the worker is idle again", lambda: found if is_idle(found := rq_info(stack.redis_url)) else None)
    assert re.search(rf"^worker node-1@\S+ \(.*\) idle {QUEUE}\. jobs: \d+ finished, 0 failed$", info, re.MULTILINE)
    assert re.search(rf"^queue {QUEUE} 0, 0 executing, \d+ finished, 0 failed$", info, re.MULTILINE)
    assert count(info, r"jobs: (\d+) finished") == before + COMMANDS + 1
    assert len(info.strip().splitlines()) == 2, "one queue and one worker"


def test_the_registries_hold_what_ended_and_nothing_else(stack: Stack, client: Client, vmid: int) -> None:
    pid = client.start(vmid, "sleep 600")
    with redis.Redis.from_url(stack.redis_url) as connection:
        queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
        until(10, "all jobs are booked, though a command runs", lambda: not queue.intermediate_queue.get_job_ids())
        until(10, "all jobs have ended", lambda: not StartedJobRegistry(queue=queue).count)
        assert queue.count == 0
        assert FailedJobRegistry(queue=queue).count == 0
        assert FinishedJobRegistry(queue=queue).count == 0, "what went well is counted, not kept"
        [worker] = BaseWorker.all(connection=connection, serializer=JSONSerializer)
        assert worker.get_current_executions() == []
    client.output(vmid, f"kill {pid}")


def test_a_product_that_is_told_to_end_leaves_no_process_and_no_open_book(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    var_dir = tmp_path / "var"
    var_dir.mkdir()
    with started(var_dir, 1, REDIS_URL=own_redis.url) as stack, own_redis.client() as connection:
        running = stack.client.start(10000, "sleep 600")
        assert connection.exists("ownup:node:node-1")
        assert stack.end(signal.SIGTERM) == 0
        assert stack.relatives() == set()
        assert "Traceback" not in stack.printed()
        assert connection.smembers("rq:workers") == set()
        assert not connection.exists("ownup:node:node-1")
        assert re.search(
            rf"^queue {QUEUE} 0, 0 executing, \d+ finished, 0 failed$", rq_info(own_redis.url), re.MULTILINE
        )
        # What ran is not forgotten: the next worker of the node will find out what became of it.
        [open_command] = connection.smembers("ownup:node:node-1:open")
        assert connection.hmget(f"ownup:cmd:{open_command.decode()}", "state", "pid") == [b"running", b"%d" % running]
