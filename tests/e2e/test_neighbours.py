"""A slow, busy or dead VM is its own affair: its neighbours, and commands beside each other, never notice."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.conftest import CLIENTS, Client, Stack, until

SAMPLES = 40
ROUNDS = 3
ALLOWED_SLOWDOWN = 1.5
AGENT_DEAD_S = 15


def latencies_ms(client: Client, vmid: int) -> list[float]:
    """Measure commands from the request that starts one to the answer that has its result."""
    found = []
    for number in range(SAMPLES):
        began_s = time.perf_counter()
        assert client.output(vmid, f"echo {number}") == f"{number}\n"
        found.append((time.perf_counter() - began_s) * 1000)
    return found


def test_a_busy_vm_and_one_with_a_dead_agent_do_not_slow_the_third_down(
    stack: Stack, client: Client, vmids: tuple[int, ...]
) -> None:
    busy, dead, third = vmids
    slowdowns = []
    for _ in range(ROUNDS):  # other programs of this host have their moods: one fair round of three is enough
        idle_ms = statistics.median(latencies_ms(client, third))
        sleeper = client.start(busy, "sleep 30")
        stack.freeze(dead, "qemu-ga", thaw_after_s=AGENT_DEAD_S)
        with ThreadPoolExecutor() as pool:
            unheard = [pool.submit(client.post, f"/api/vm/{dead}/agent/exec", command="true") for _ in range(3)]
            beside_ms = statistics.median(latencies_ms(client, third))
        assert client.result(busy, sleeper)["state"] == "running"
        assert [answer.result().status_code for answer in unheard] == [504, 504, 504]
        client.output(busy, f"kill {sleeper}")
        slowdowns.append(beside_ms / idle_ms)
        print(f"idle {idle_ms:.1f} ms, beside a busy and a dead VM {beside_ms:.1f} ms (medians of {SAMPLES})")
        client.wait_available(dead)
        if slowdowns[-1] <= ALLOWED_SLOWDOWN:
            return
    raise AssertionError(f"slowdowns: {slowdowns}")


def test_a_vm_whose_agent_was_dead_answers_again_when_it_is_back(
    stack: Stack, client: Client, vmids: tuple[int, ...]
) -> None:
    vmid = vmids[1]
    pid = client.start(vmid, "while [ ! -e /tmp/go ]; do sleep 0.05; done; rm /tmp/go; echo heard after all")
    stack.freeze(vmid, "qemu-ga", thaw_after_s=3)
    assert client.post(f"/api/vm/{vmid}/agent/exec", command="touch /tmp/go").status_code in {200, 504}
    client.wait_available(vmid)
    until(10, "the guest is reached", lambda: client.run(vmid, "touch /tmp/go")["exitcode"] == 0)
    assert client.wait(vmid, pid)["stdout"] == "heard after all\n"


def test_a_hundred_commands_at_once_in_one_vm_return_their_own_output(client: Client, vmid: int) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        results = list(pool.map(lambda n: client.run(vmid, f"echo out {n}; echo err {n} >&2; exit {n}"), range(CLIENTS)))
    assert [result["stdout"] for result in results] == [f"out {n}\n" for n in range(CLIENTS)]
    assert [result["stderr"] for result in results] == [f"err {n}\n" for n in range(CLIENTS)]
    assert [result["exitcode"] for result in results] == list(range(CLIENTS))
    assert len({result["pid"] for result in results}) == CLIENTS


def test_a_hundred_commands_run_in_one_vm_at_the_same_time(client: Client, vmid: int) -> None:
    """Each waits until all have begun: one after the other they would never end."""
    line = "echo >/tmp/begun.$$; while [ $(ls /tmp/begun.* | wc -l) -lt %d ]; do sleep 0.5; done"
    with ThreadPoolExecutor(CLIENTS) as pool:
        codes = list(pool.map(lambda _: client.run(vmid, line % CLIENTS, timeout_s=90)["exitcode"], range(CLIENTS)))
    client.output(vmid, "rm /tmp/begun.*")
    assert codes == [0] * CLIENTS
