"""A kill through the web half: asked for once, waited for without polling, and told as it is."""

import threading
import time

import pytest

from app.core import clock
from app.core.queues import KILL_COMMAND
from app.core.records import CommandEnd, CommandState
from app.core.store import Store, commands
from tests.conftest import RedisServer
from tests.web import EXEC, RUNNING_VM, PlayedWorker, Web, tells_pid

KILL = f"{EXEC}?pid=42"


@pytest.fixture
def running(web: Web, redis_url: str) -> str:
    """A command with pid 42 runs; its id."""
    return start(web, redis_url)


def start(web: Web, redis_url: str) -> str:
    with PlayedWorker(redis_url, tells_pid(42)):
        assert web.post(EXEC, json={"command": "sleep 100"}).status_code == 200
    return web.store.run(commands.read_result(10000, 42)).result.command.id


def end(store: Store, command_id: str, **facts: object) -> None:
    how = CommandEnd(**({"state": CommandState.CANCELLED, "ended_at": clock.now()} | facts))  # type: ignore[arg-type]
    store.run(commands.end(command_id, how, ttl_s=60))


def test_command_is_killed(web: Web, redis_url: str, running: str):
    with PlayedWorker(redis_url, tells_pid(1), kill=lambda store, _id: end(store, _id, signal=15)) as worker:
        response = web.delete(KILL)
    assert response.status_code == 200
    assert response.json["data"] == {
        "success": True,
        "pid": 42,
        "exited": True,
        "exitcode": -1,
        "signal": 15,
        "state": "cancelled",
        "message": "Command was cancelled; its process group was killed",
    }
    (job,) = worker.taken
    assert (job.func_name, job.args, job.description, job.timeout) == (KILL_COMMAND, [running], "kill_command", 60)
    assert web.store.run(commands.find(running)).kill_requested_at is not None
    assert web.get(KILL).json["data"]["state"] == "cancelled"


@pytest.mark.usefixtures("running")
def test_answer_comes_by_wake_up(web: Web, redis_url: str):
    def slow(store: Store, command_id: str) -> None:
        threading.Event().wait(0.3)
        end(store, command_id)
        ended_s.append(time.monotonic())

    ended_s: list[float] = []
    with PlayedWorker(redis_url, tells_pid(1), kill=slow):
        assert web.delete(KILL).json["data"]["exited"] is True
        assert time.monotonic() - ended_s[0] < 0.4, "it took a turn of the safety net"


@pytest.mark.parametrize(
    ("facts", "exit_code", "message"),
    [
        ({"state": CommandState.EXITED, "exit_code": 7}, 7, "Command exited with code 7"),
        ({"state": CommandState.EXITED, "signal": 9}, 137, "Command was killed by signal 9"),
        ({"state": CommandState.TIMED_OUT, "signal": 15, "message": "timeout of 5 s"}, -1, "timeout of 5 s"),
        ({"state": CommandState.LOST, "message": "VM was reset"}, -1, "VM was reset"),
    ],
)
def test_command_that_has_ended_stays_as_it_ended(
    web: Web, running: str, facts: dict[str, object], exit_code: int, message: str
):
    end(web.store, running, **facts)
    web.client.delete("rq:queue:node-node-1")
    for _ in range(2):
        data = web.delete(KILL).json["data"]
        assert (data["exited"], data["exitcode"], data["state"]) == (True, exit_code, facts["state"])
        assert data["message"] == message
    assert web.client.llen("rq:queue:node-node-1") == 0
    assert web.store.run(commands.find(running)).kill_requested_at is None


@pytest.mark.usefixtures("running")
def test_command_that_ends_by_itself_meanwhile_is_told_so(web: Web, redis_url: str):
    def too_late(store: Store, command_id: str) -> None:
        end(store, command_id, state=CommandState.EXITED, exit_code=0)

    with PlayedWorker(redis_url, tells_pid(1), kill=too_late):
        data = web.delete(KILL).json["data"]
    assert (data["state"], data["exitcode"], data["message"]) == ("exited", 0, "Command exited with code 0")


def test_command_that_does_not_end_in_time_is_told_so(redis_url: str):
    web = Web(redis_url, EXEC_KILL_WAIT_S="0.3")
    web.key = web.make_key()
    web.publish()
    start(web, redis_url)
    for _ in range(2):
        response = web.delete(KILL)
        assert response.status_code == 200
        assert response.json["data"] == {
            "success": True,
            "pid": 42,
            "exited": False,
            "state": "running",
            "message": "Kill requested; the command has not ended yet",
        }
    web.close()


def test_several_who_ask_at_once_are_all_told(web: Web, redis_url: str, running: str):
    def kill() -> None:
        states.append(web.app.test_client().delete(KILL, headers={"X-API-Key": web.key}).json["data"]["state"])

    def kill_at_last(store: Store, command_id: str) -> None:
        killed.append(command_id)
        if len(killed) == 8:
            end(store, command_id)

    states: list[str] = []
    killed: list[str] = []
    threads = [threading.Thread(target=kill) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while web.client.llen("rq:queue:node-node-1") < 8:
        assert time.monotonic() < deadline
    with PlayedWorker(redis_url, tells_pid(1), kill=kill_at_last):
        for thread in threads:
            thread.join()
    assert states == ["cancelled"] * 8
    assert killed == [running] * 8


def test_node_without_worker_is_503_and_nothing_is_noted(web: Web, running: str):
    web.client.delete("ownup:node:node-1")
    response = web.delete(KILL)
    assert (response.status_code, response.json["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert web.store.run(commands.find(running)).kill_requested_at is None
    assert not web.client.keys("rq:queue:*")


def test_next_owner_of_the_vm_can_not_kill_what_the_last_one_started(web: Web, running: str):
    web.client.hset("ownup:vm:10000", "account", "next")
    response = web.delete(KILL, web.make_key(account="next"))
    assert (response.status_code, response.json["message"]) == (404, "Command not found")
    assert web.store.run(commands.find(running)).kill_requested_at is None


def test_redis_that_comes_back_while_waiting_is_sat_out(own_redis: RedisServer):
    def restart(store: Store, command_id: str) -> None:
        own_redis.stop()
        own_redis.start()
        end(store, command_id)

    web = Web(own_redis.url)
    web.key = web.make_key()
    web.publish(RUNNING_VM)
    start(web, own_redis.url)
    with PlayedWorker(own_redis.url, tells_pid(1), kill=restart):
        assert web.delete(KILL).json["data"]["state"] == "cancelled"
    web.close()


def test_redis_that_stays_away_is_503(own_redis: RedisServer):
    def cut(_store: Store, _id: str) -> None:
        worker._ending.set()
        own_redis.stop()

    web = Web(own_redis.url, EXEC_KILL_WAIT_S="0.5")
    web.key = web.make_key()
    web.publish(RUNNING_VM)
    start(web, own_redis.url)
    with PlayedWorker(own_redis.url, tells_pid(1), kill=cut) as worker:
        response = web.delete(KILL)
    assert (response.status_code, response.json["code"]) == (503, "SERVICE_UNAVAILABLE")
    web.close()
