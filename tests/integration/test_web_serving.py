"""The web half as the Procfile starts it: real gunicorn, real sockets."""

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app.core.queues import queue_name
from tests.web import EXEC, PlayedWorker, Web, tells_pid

ROOT = Path(__file__).parents[2]


def procfile() -> dict[str, str]:
    return dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())


@contextlib.contextmanager
def serve(web: Web, redis_url: str, **own: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environ = os.environ | {"REDIS_URL": redis_url, "PORT": port, "WEB_PROCESSES": "2", "WEB_THREADS": "4"} | own
    command = [Path(sys.executable).with_name("gunicorn"), *shlex.split(procfile()["web"])[1:]]
    server = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz", server)
        yield f"127.0.0.1:{port}", server
    finally:
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=30)
    assert server.returncode == 0, log
    assert "Traceback" not in log, log
    assert web.key not in log


@pytest.fixture
def address(web: Web, redis_url: str) -> Iterator[str]:
    with serve(web, redis_url) as (address, _):
        yield address


def wait_for(url: str, server: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError:
            assert time.monotonic() < deadline, "gunicorn doesn't answer"
            assert server.poll() is None, "gunicorn ended"
        else:
            return


def test_clients_get_through(address: str, web: Web, redis_url: str):
    headers = {"X-API-Key": web.key}
    with requests.Session() as session, PlayedWorker(redis_url, tells_pid(31)):
        for _ in range(20):  # enough to meet both processes
            started = session.post(f"http://{address}{EXEC}", json={"command": "true"}, headers=headers, timeout=10)
            assert started.json()["data"]["pid"] == 31
        read = session.get(f"http://{address}{EXEC}?pid=31", headers=headers, timeout=10)
    assert read.json()["data"]["state"] == "running"
    assert b'"success":true' in read.content


def test_body_without_a_length_is_bounded_too(address: str, web: Web):
    connection = http.client.HTTPConnection(address, timeout=10)
    chunks = (part for part in [b'{"command":"true"}', *[b" " * 100_000] * 20])
    headers = {"X-API-Key": web.key, "Content-Type": "application/json"}
    connection.request("POST", EXEC, body=chunks, headers=headers, encode_chunked=True)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    assert (response.status, body["code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_two_mb_with_a_length_are_413(address: str, web: Web):
    headers = {"X-API-Key": web.key}
    response = requests.post(f"http://{address}{EXEC}", json={"command": "a" * 2_000_000}, headers=headers, timeout=10)
    assert (response.status_code, response.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_wrong_json_over_the_wire(address: str, web: Web):
    headers = {"X-API-Key": web.key, "Content-Type": "application/json"}
    response = requests.post(f"http://{address}{EXEC}", data=b"[" * 500_000, headers=headers, timeout=10)
    assert (response.status_code, response.json()["code"]) == (400, "BAD_REQUEST")


def cpus_of_processes(server: "subprocess.Popen[str]") -> dict[int, frozenset[int]]:
    """Tell which CPUs each of both web processes may use, as soon as there are two that have settled."""
    deadline = time.monotonic() + 10
    while True:
        pids = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
        cpus = {}
        with contextlib.suppress(ProcessLookupError):  # one that was killed may still be listed
            cpus = {pid: frozenset(os.sched_getaffinity(pid)) for pid in pids}
        if len(cpus) == 2 and all(len(own) == 1 for own in cpus.values()):
            return cpus
        assert time.monotonic() < deadline, cpus
        time.sleep(0.05)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU only")
def test_each_process_has_a_cpu_of_its_own_and_so_has_its_successor(web: Web, redis_url: str):
    with serve(web, redis_url) as (_, server):
        before = cpus_of_processes(server)
        first, second = before.values()
        assert first != second
        for gone in sorted(before):
            os.kill(gone, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while gone in cpus_of_processes(server):
                assert time.monotonic() < deadline
            assert set(cpus_of_processes(server).values()) == {first, second}


def test_processes_can_have_all_cpus(web: Web, redis_url: str):
    with serve(web, redis_url, WEB_CPU_AFFINITY="off") as (_, server):
        pids = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        assert pids
        assert {frozenset(os.sched_getaffinity(int(pid))) for pid in pids} == {frozenset(os.sched_getaffinity(0))}


def test_procfile_starts_both_halves_and_the_queue_is_the_nodes():
    assert procfile() == {
        "web": "gunicorn --config python:app.serving app.wsgi:app",
        "worker": "python -m workers",
    }
    assert re.fullmatch(r"node-n1", queue_name("n1"))


def test_web_half_loads_neither_qemu_nor_the_worker():
    code = (
        "import sys, app.factory, app.cli; "
        "print([name for name in sys.modules if name.split('.')[0] in {'qemu', 'workers', 'lab'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
