"""What a web process remembers of a VM is looked at once more with each command, and never believed without."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from werkzeug.test import TestResponse

from app.core.queues import queue_name
from app.core.store import vms
from tests.redis_counts import commands_served
from tests.web import EXEC, NODE, RUNNING_VM, STOPPED_VM, PlayedWorker, Web, assert_refused, tells_pid

ELSEWHERE = replace(RUNNING_VM, node="node-2")
FOREIGN = replace(RUNNING_VM, account="other")
OTHER_EXEC = EXEC.replace("10000", "10001")
AGENTLESS = replace(RUNNING_VM, agent_available=False)


@pytest.fixture
def remembered(web: Web, redis_url: str) -> Web:
    """The web application, which has run a command in the VM."""
    assert run(web, redis_url).status_code == 200
    return web


def run(web: Web, redis_url: str, path: str = EXEC, **kwargs: str) -> TestResponse:
    with PlayedWorker(redis_url, tells_pid(7)):
        return web.post(path, json={"command": "true"}, **kwargs)


def queued_on(web: Web, node: str) -> int:
    return Queue(queue_name(node), connection=web.client, serializer=JSONSerializer).count


def records_read(web: Web, act: Callable[[], object]) -> int:
    before = commands_served(web.client)["hgetall"]
    act()
    return commands_served(web.client)["hgetall"] - before


def test_a_vm_that_was_read_before_is_not_read_again(remembered: Web, redis_url: str):
    remembered.publish(replace(RUNNING_VM, vmid=10001))
    first, second = (records_read(remembered, lambda: run(remembered, redis_url, path=OTHER_EXEC)) for _ in range(2))
    assert second == first - 1


def test_a_vm_that_has_stopped_is_refused_and_nothing_is_handed_over(remembered: Web):
    remembered.publish(STOPPED_VM)
    assert_refused(remembered.post(EXEC, json={"command": "true"}), 400, "BAD_REQUEST")
    assert queued_on(remembered, NODE) == 0


def test_a_vm_that_was_stopped_and_has_started_gets_its_command(remembered: Web, redis_url: str):
    remembered.publish(STOPPED_VM)
    assert_refused(remembered.post(EXEC, json={"command": "true"}), 400, "BAD_REQUEST")
    remembered.publish(RUNNING_VM)
    assert run(remembered, redis_url).status_code == 200


@pytest.mark.parametrize("gone", ["given away", "removed"])
def test_a_vm_that_is_not_the_customer_s_any_more_is_not_found(remembered: Web, gone: str):
    if gone == "removed":
        remembered.store.run(vms.remove(10000, NODE))
    else:
        remembered.publish(FOREIGN)
    assert_refused(remembered.post(EXEC, json={"command": "true"}), 404, "NOT_FOUND")
    assert queued_on(remembered, NODE) == 0


def test_the_command_goes_to_the_node_that_has_the_vm_now(redis_url: str):
    web = Web(redis_url, EXEC_START_TIMEOUT_S="0.3")
    web.key = web.make_key()
    web.publish()
    assert run(web, redis_url).status_code == 200
    web.client.delete(f"ownup:node:{NODE}")
    web.publish(ELSEWHERE)
    assert web.post(EXEC, json={"command": "true"}).status_code == 504, "nobody takes it there"
    assert (queued_on(web, NODE), queued_on(web, "node-2")) == (0, 1)
    web.close()


def test_a_node_that_does_not_beat_any_more_is_unavailable(remembered: Web):
    remembered.client.delete(f"ownup:node:{NODE}")
    assert_refused(remembered.post(EXEC, json={"command": "true"}), 503, "SERVICE_UNAVAILABLE")
    assert queued_on(remembered, NODE) == 0


def test_an_agent_that_has_gone_does_not_run_the_command_twice(remembered: Web, redis_url: str):
    remembered.publish(AGENTLESS)
    with PlayedWorker(redis_url, tells_pid(8)) as worker:
        assert remembered.post(EXEC, json={"command": "true"}).json["data"]["pid"] == 8
        assert remembered.post(EXEC, json={"command": "true"}).json["data"]["pid"] == 8
    assert len(worker.taken) == 2


def test_a_key_that_sees_other_vms_is_not_served_from_what_another_has_seen(remembered: Web):
    blind = remembered.make_key(allowed_vmids=(1,))
    foreign = remembered.make_key(account="other")
    for key in (blind, foreign):
        assert_refused(remembered.post(EXEC, key, json={"command": "true"}), 404, "NOT_FOUND")


def test_an_idempotency_key_survives_the_change(remembered: Web, redis_url: str):
    remembered.publish(AGENTLESS)
    with PlayedWorker(redis_url, tells_pid(9)) as worker:
        answers = [remembered.post(EXEC, json={"command": "true"}, idempotency_key="k1") for _ in range(2)]
    assert [answer.json["data"]["pid"] for answer in answers] == [9, 9]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true"]
    assert len(worker.taken) == 1


def test_a_repeat_in_a_vm_that_was_given_away_is_not_found(remembered: Web, redis_url: str):
    assert run(remembered, redis_url, idempotency_key="k1").status_code == 200
    remembered.publish(FOREIGN)
    again = remembered.post(EXEC, json={"command": "true"}, idempotency_key="k1")
    assert_refused(again, 404, "NOT_FOUND")
