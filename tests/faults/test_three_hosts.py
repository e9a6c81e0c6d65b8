"""Three hosts in network namespaces: one with Redis and web, two nodes; one node is cut off and joined again."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lab.limits import HIGH_LIMITS
from tests.faults.peers import Worker, fake_agents, in_ms, real_agent, running, until

PASSWORD = "correct-horse"
REDIS_ADDRESS = "10.77.0.1"
REDIS_URL = f"redis://:{PASSWORD}@{REDIS_ADDRESS}:6379/0"
ADDRESSES = {"own-a": REDIS_ADDRESS, "own-b": "10.77.0.2", "own-c": "10.77.0.3"}
SWITCH = "own-switch"
VM_B, VM_C = 201, 301
UNKNOWN_WITHIN_S = 15
BACK_WITHIN_S = 30


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def inside(namespace):
    return ("ip", "netns", "exec", namespace)


@contextlib.contextmanager
def network():
    """Three hosts on one switch; nothing of it can be reached from outside."""
    remove_network()
    try:
        ip("netns", "add", SWITCH)
        ip("-n", SWITCH, "link", "add", "br0", "type", "bridge")
        ip("-n", SWITCH, "link", "set", "br0", "up")
        for name, address in ADDRESSES.items():
            ip("netns", "add", name)
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", SWITCH)
            ip("-n", SWITCH, "link", "set", name, "master", "br0", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        remove_network()


def remove_network():
    for name in (*ADDRESSES, SWITCH):
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket: the way into a namespace that has no way in."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Api:
    """The web half as its clients see it."""

    def __init__(self, path, key):
        self._path, self._key = path, key

    def ask(self, method, path, body=None):
        """Answer the status, the data or the error, and how long it took."""
        began_s = time.monotonic()
        connection = UnixConnection(self._path)
        headers = {"X-API-Key": self._key, "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer.get("data", answer), time.monotonic() - began_s

    def start(self, vmid, line):
        status, data, _ = self.ask("POST", f"/api/vm/{vmid}/agent/exec", {"command": line})
        assert status == 200, json.dumps(data)
        return data["pid"]

    def result(self, vmid, pid):
        return self.ask("GET", f"/api/vm/{vmid}/agent/exec?pid={pid}")[1]

    def end(self, vmid, pid, timeout_s):
        def ended():
            result = self.result(vmid, pid)
            return result if result.get("exited") else None

        return until(timeout_s, f"the command with pid {pid} of VM {vmid} has ended", ended, pause_s=0.05)

    def status(self, vmid):
        return self.ask("GET", f"/api/vm/{vmid}/status")[1]

    def wait_available(self, vmid):
        until(20, f"VM {vmid} is available", lambda: self.status(vmid).get("agent", {}).get("available"), pause_s=0.05)


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="own") as name:
        yield Path(name)


@pytest.fixture
def api(folder):
    """Host A: Redis with a password on its address, and the web half."""
    conf = folder / "redis.conf"
    conf.write_text(
        f"bind {REDIS_ADDRESS}\nport 6379\nrequirepass {PASSWORD}\nappendonly yes\nappendfsync always\ndir {folder}\n"
    )
    binaries, web_socket = Path(sys.executable).parent, folder / "web.sock"
    environ = {**os.environ, **HIGH_LIMITS, "REDIS_URL": REDIS_URL, "WEB_PROCESSES": "1"}
    gunicorn = [binaries / "gunicorn", "--config", "python:app.serving", "--bind", f"unix:{web_socket}", "app.wsgi:app"]
    host = inside("own-a")
    with contextlib.ExitStack() as stack:
        stack.enter_context(network())
        stack.enter_context(running([*host, "redis-server", conf], stdout=subprocess.DEVNULL))
        made = until(10, "Redis takes a key", lambda: make_key(host, binaries, environ), pause_s=0.1)
        with (folder / "web.log").open("wb") as log:
            stack.enter_context(running([*host, *gunicorn], env=environ, stderr=log))
            until(15, "the web half listens", web_socket.exists)
            yield Api(str(web_socket), made)


def make_key(host, binaries, environ):
    words = ["keys", "create", "--account", "acme", "--name", "test", "--scopes", "all", "--json"]
    done = subprocess.run([*host, binaries / "ownup", *words], env=environ, capture_output=True, check=False)
    return json.loads(done.stdout)["secret"] if done.returncode == 0 else None


def make_worker(folder, node, host, vmid, qga):
    worker = Worker(folder / node, REDIS_URL, node=node, prefix=inside(host), AGENT_PROBE_S="0.5")
    worker.carry(vmid, qga)
    return worker


def test_a_node_that_is_cut_off_loses_nothing_and_disturbs_nobody(folder, api):
    with contextlib.ExitStack() as stack:
        stack.enter_context(real_agent(folder / "b.qga", prefix=inside("own-b")))
        stack.enter_context(fake_agents(folder, VM_C, 1))
        stack.enter_context(make_worker(folder, "node-b", "own-b", VM_B, folder / "b.qga"))
        stack.enter_context(make_worker(folder, "node-c", "own-c", VM_C, folder / f"{VM_C}.qga"))
        api.wait_available(VM_B)
        api.wait_available(VM_C)
        tokens = folder / "tokens"
        pid = api.start(VM_B, f"sleep 5; echo once >> {tokens}; echo from b; exit 5")
        long = api.start(VM_C, "sleep 4; echo from c")

        ip("-n", SWITCH, "link", "set", "own-b", "down")
        cut_s = time.monotonic()
        took = latencies_on_the_other_node(api, lambda: api.status(VM_B)["status"] == "unknown")
        unknown_s = time.monotonic() - cut_s
        status, error, refused_s = api.ask("POST", f"/api/vm/{VM_B}/agent/exec", {"command": f"echo x >> {tokens}"})
        print(f"unknown after {unknown_s:.1f} s; POST refused in {refused_s * 1000:.0f} ms; other node {in_ms(took)}")
        assert unknown_s < UNKNOWN_WITHIN_S
        assert (status, error["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert refused_s < 1
        assert api.end(VM_C, long, 10)["stdout"] == "from c\n"
        until(10, "the command has ended on the node that is cut off", tokens.exists)

        ip("-n", SWITCH, "link", "set", "own-b", "up")
        joined_s = time.monotonic()
        result = api.end(VM_B, pid, BACK_WITHIN_S)
        print(f"the result appears {time.monotonic() - joined_s:.1f} s after the node has joined again")
        assert (result["state"], result["exitcode"], result["stdout"]) == ("exited", 5, "from b\n")
        api.wait_available(VM_B)
        assert api.end(VM_B, api.start(VM_B, "echo again"), BACK_WITHIN_S)["stdout"] == "again\n"
        assert tokens.read_text() == "once\n"


def latencies_on_the_other_node(api, over):
    """Run commands on the other node until something is over; each must come back with its own output."""
    took_s, deadline_s = [], time.monotonic() + UNKNOWN_WITHIN_S + 5
    while not over():
        assert time.monotonic() < deadline_s, "it was never over"
        began_s = time.monotonic()
        number = len(took_s)
        assert api.end(VM_C, api.start(VM_C, f"echo {number}"), 5)["stdout"] == f"{number}\n"
        took_s.append(time.monotonic() - began_s)
    return sorted(took_s)
