"""Files to and from a guest over the OpenStack face: the web half, a real worker and a real qemu-ga.

The agent acts on this very machine: every path is in the test's own folder.
"""

import hashlib
import json
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.access import Scope
from app.core import ids
from app.core.store.files import CHUNK_BYTES, WINDOW_CHUNKS
from tests.conftest import RedisServer
from tests.guest_agents import DANGEROUS, VMID, Worker, agent, until, worker
from tests.openstack import Cloud, assert_fault
from tests.web import Web

AGENT = f"/v2.1/servers/{ids.openstack_id(VMID)}/guest-agent"
HEADER = "X-Guest-Agent-Command-UUID"
LIMIT_BYTES = 8_000_000
STALL_S = 2


class Files:
    """A client that moves files."""

    def __init__(self, web: Web, worker: Worker, folder: Path) -> None:
        self.web = web
        self.worker = worker
        self.folder = folder
        self.cloud = Cloud(web)

    def read(self, path: Path | str) -> TestResponse:
        return self._call("get", "file-read", path)

    def write(self, path: Path | str, body: Any) -> TestResponse:
        if isinstance(body, bytes):
            return self._call("post", "file-write", path, data=body)
        # As gunicorn says: it knows where a body without a length ends.
        server = {"wsgi.input": body, "wsgi.input_terminated": True}
        return self._call("post", "file-write", path, environ_overrides=server)

    def record(self, response: TestResponse) -> dict[str, Any]:
        """Look up the record of a transfer."""
        shown = self.cloud.get(f"{AGENT}/commands/{response.headers[HEADER]}")
        assert shown.status_code == 200, shown.text
        found: dict[str, Any] = shown.json["command"]
        return found

    def latest(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cloud.get(f"{AGENT}/commands").json["commands"][-1]
        return found

    def parts(self) -> list[str]:
        """Name what is left of files that aren't whole."""
        return [path.name for path in self.folder.iterdir() if path.name.endswith(".part")]

    def lanes(self) -> list[bytes]:
        return list(self.web.client.scan_iter("ownup:file:*"))

    def _call(self, method: str, route: str, path: Path | str, **kwargs: Any) -> TestResponse:
        call = getattr(self.web.app.test_client(), method)
        headers = {"X-Auth-Token": self.cloud.token}
        response: TestResponse = call(f"{AGENT}/{route}", query_string={"path": str(path)}, headers=headers, **kwargs)
        return response


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ga") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[tuple[Web, Worker]]:
    server = RedisServer(home)
    server.start()
    web = Web(server.url, EXEC_START_TIMEOUT_S="5", FILE_LIMIT_BYTES=str(LIMIT_BYTES), FILE_STALL_S=str(STALL_S))
    web.key = web.make_key()
    with agent(home), worker(home, server.url, FILE_STALL_S=str(STALL_S)) as living:
        yield web, living
    web.close()
    server.stop()


@pytest.fixture
def files(running: tuple[Web, Worker], tmp_path: Path) -> Files:
    found = Files(*running, tmp_path)
    until("the agent is there", lambda: is_running(found.cloud))
    return found


def is_running(cloud: Cloud) -> bool:
    server = cloud.get(AGENT.removesuffix("/guest-agent"))
    return server.status_code == 200 and server.json["server"]["status"] == "ACTIVE"


def open_files(folder: Path, name: str) -> list[str]:
    """Name the files below a folder that the agent holds open."""
    pid = next(path.name for path in Path("/proc").glob("[0-9]*") if str(folder / "agent").encode() in cmdline(path))
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if name in link]


def cmdline(folder: Path) -> bytes:
    try:
        line = (folder / "cmdline").read_bytes()
    except OSError:
        return b""
    return line if line.startswith(b"qemu-ga") else b""


SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, CHUNK_BYTES * (WINDOW_CHUNKS + 3) + 7, LIMIT_BYTES)


class TestThereAndBack:
    @pytest.mark.parametrize("size", SIZES)
    def test_every_byte_arrives(self, files: Files, size: int):
        target, body = files.folder / "a file", secrets.token_bytes(size)
        written = files.write(target, body)
        assert (written.status_code, written.data) == (204, b""), written.text
        assert target.read_bytes() == body
        read = files.read(target)
        assert (read.status_code, read.content_type) == (200, "application/octet-stream")
        assert hashlib.sha256(read.data).digest() == hashlib.sha256(body).digest()
        for response, kind in ((written, "file-write"), (read, "file-read")):
            record = files.record(response)
            assert (record["type"], record["status"], record["error"]) == (kind, "SUCCESS", None)
            assert (record["result"], record["instance_uuid"]) == ({}, ids.openstack_id(VMID))
            assert record["updated_at"] >= record["created_at"]
        assert files.parts() == []
        assert files.lanes() == []
        assert open_files(files.worker.folder, str(files.folder)) == []

    def test_form_is_no_form_here(self, files: Files):
        response = files._call(
            "post",
            "file-write",
            files.folder / "f",
            data=b"a=1&b=\xff\r\n",
            content_type="application/x-www-form-urlencoded",
        )
        assert response.status_code == 204
        assert (files.folder / "f").read_bytes() == b"a=1&b=\xff\r\n"

    def test_path_is_no_shell_line(self, files: Files):
        name = files.folder / "$(touch x) `id` \"'; * -é\n\\"
        assert files.write(name, b"1").status_code == 204
        assert files.read(name).data == b"1"
        assert sorted(path.name for path in files.folder.iterdir()) == [name.name]

    def test_what_has_no_length_is_read_to_its_end(self, files: Files):
        assert files.read("/proc/version").data == Path("/proc/version").read_bytes()


class TestPlace:
    def test_mode_and_owner_of_the_file_that_was_there_are_kept(self, files: Files):
        target = files.folder / "f"
        target.write_bytes(b"old and longer")
        target.chmod(0o4751)
        os.chown(target, 12, 34)
        target.chmod(0o4751)
        assert files.write(target, b"new").status_code == 204
        found = target.stat()
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o4751, 12, 34)
        assert target.read_bytes() == b"new"

    def test_new_file_is_its_owners(self, files: Files):
        assert files.write(files.folder / "f", b"new").status_code == 204
        assert (files.folder / "f").stat().st_mode & 0o7777 == 0o644

    def test_reader_of_the_old_file_goes_on_with_it(self, files: Files):
        target = files.folder / "f"
        target.write_bytes(b"old")
        with target.open("rb") as reader:
            assert files.write(target, b"new").status_code == 204
            assert reader.read() == b"old"

    def test_unfinished_file_is_for_nobody_else(self, files: Files):
        seen = []

        def body() -> Iterator[bytes]:
            yield secrets.token_bytes(CHUNK_BYTES * (WINDOW_CHUNKS + 2))
            until("a part is there", files.parts)
            (part,) = files.parts()
            seen.append((files.folder / part).stat().st_mode & 0o777)
            yield b"end"

        assert files.write(files.folder / "f", Piped(body())).status_code == 204
        assert seen == [0o600]


class Piped:
    """A body that is sent while it is made; without a length."""

    def __init__(self, parts: Iterator[bytes], *, error: Exception | None = None) -> None:
        self._parts = parts
        self._error = error
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = next(self._parts, b"")
            if not self._rest and self._error:
                raise self._error
        part, self._rest = self._rest[:size], self._rest[size:]
        return part


class TestRefusals:
    @pytest.mark.parametrize("route", ["file-read", "file-write"])
    @pytest.mark.parametrize("path", ["relative", "./f", "~/f", "", "a\0b", "/" + "x" * 5000, "/tmp/"])
    def test_path_that_is_none_is_400(self, files: Files, route: str, path: str):
        response = files._call("get" if route == "file-read" else "post", route, path)
        assert "path" in assert_fault(response, 400, "badRequest")
        assert HEADER not in response.headers

    def test_no_path_is_400(self, files: Files):
        assert_fault(files.cloud.get(f"{AGENT}/file-read"), 400, "badRequest")

    def test_unknown_server_is_404(self, files: Files):
        path = AGENT.replace(ids.openstack_id(VMID), ids.openstack_id(1))
        assert_fault(files.cloud.get(f"{path}/file-read?path=/etc/hostname"), 404, "itemNotFound")

    def test_key_without_the_scope_is_403(self, files: Files):
        cloud = Cloud(files.web, files.web.make_key(Scope.READ_VM))
        assert_fault(cloud.get(f"{AGENT}/file-read?path=/etc/hostname"), 403, "forbidden")

    def test_file_that_is_not_there_is_409_in_the_agents_words(self, files: Files):
        response = files.read(files.folder / "nothing")
        assert_fault(response, 409, "conflictingRequest")
        assert "No such file or directory" in response.json["conflictingRequest"]["details"]
        record = files.record(response)
        assert (record["status"], record["result"]) == ("ERROR", None)
        assert "No such file or directory" in record["error"]

    def test_directory_is_409(self, files: Files):
        for response in (files.read(files.folder), files.write(files.folder, b"1")):
            assert_fault(response, 409, "conflictingRequest")
            assert files.record(response)["status"] == "ERROR"
        assert open_files(files.worker.folder, str(files.folder)) == []

    def test_folder_that_is_not_there_is_409(self, files: Files):
        response = files.write(files.folder / "no" / "f", b"1")
        assert_fault(response, 409, "conflictingRequest")
        assert not (files.folder / "no").exists()

    def test_device_is_not_replaced(self, files: Files):
        os.mkfifo(files.folder / "fifo")
        response = files.write(files.folder / "fifo", b"1")
        assert "not a regular file" in assert_details(response)
        assert (files.folder / "fifo").is_fifo()

    def test_too_long_is_413_and_leaves_nothing(self, files: Files):
        (files.folder / "f").write_bytes(b"old")
        announced = files.write(files.folder / "f", b"x" * (LIMIT_BYTES + 1))
        assert_fault(announced, 413, "overLimit")
        assert HEADER not in announced.headers
        endless = files.write(files.folder / "f", Piped(iter([b"x" * (LIMIT_BYTES + 1)])))
        assert_fault(endless, 413, "overLimit")
        until("the record has ended", lambda: files.record(endless)["status"] == "ERROR")
        assert "the file is as it was" in files.record(endless)["error"]
        assert (files.folder / "f").read_bytes() == b"old"
        until("nothing is left", lambda: not files.parts())

    def test_too_long_to_be_read_is_413(self, files: Files):
        (files.folder / "f").write_bytes(b"x" * (LIMIT_BYTES + 1))
        response = files.read(files.folder / "f")
        assert_fault(response, 413, "overLimit")
        until("the record has ended", lambda: files.record(response)["status"] == "ERROR")
        assert "longer than" in files.record(response)["error"]

    def test_endless_file_is_broken_off(self, files: Files):
        with pytest.raises(ConnectionResetError, match="at most"):
            _ = files.read("/dev/zero").data
        until("the record has ended", lambda: files.latest()["status"] == "ERROR")
        assert "longer than" in files.latest()["error"]


def assert_details(response: TestResponse) -> str:
    assert_fault(response, 409, "conflictingRequest")
    details: str = response.json["conflictingRequest"]["details"]
    return details


class TestCut:
    def test_client_that_goes_away_in_an_upload_changes_nothing(self, files: Files):
        (files.folder / "f").write_bytes(b"old")
        body = Piped(iter([secrets.token_bytes(CHUNK_BYTES * 20)]), error=ConnectionResetError())
        response = files.write(files.folder / "f", body)
        assert "body" in assert_fault(response, 400, "badRequest")
        until("the record has ended", lambda: files.record(response)["status"] == "ERROR")
        assert "came to no end" in files.record(response)["error"]
        until("nothing is left", lambda: not files.parts())
        assert (files.folder / "f").read_bytes() == b"old"
        assert open_files(files.worker.folder, str(files.folder)) == []

    def test_body_shorter_than_announced_changes_nothing(self, files: Files):
        announced = {"CONTENT_LENGTH": "1000"}
        response = files._call("post", "file-write", files.folder / "f", data=b"short", environ_overrides=announced)
        assert_fault(response, 400, "badRequest")
        until("the record has ended", lambda: files.record(response)["status"] == "ERROR")
        assert not (files.folder / "f").exists()

    def test_web_half_that_dies_leaves_nothing(self, files: Files):
        """What it had sent is written, then nothing comes any more."""
        (files.folder / "f").write_bytes(b"old")
        gone = threading.Event()

        def parts() -> Iterator[bytes]:
            yield secrets.token_bytes(CHUNK_BYTES * 2)
            gone.wait(STALL_S * 4)

        body = Piped(parts(), error=ConnectionResetError())
        threading.Thread(target=files.write, args=(files.folder / "f", body)).start()
        until("it is under way", lambda: files.latest()["status"] == "RUNNING")
        until("the record has ended", lambda: files.latest()["status"] == "ERROR", STALL_S * 3)
        gone.set()
        assert f"let nothing be heard for {STALL_S} s; the file is as it was" in files.latest()["error"]
        assert files.parts() == []
        assert (files.folder / "f").read_bytes() == b"old"

    def test_client_that_goes_away_in_a_download_ends_it(self, files: Files):
        (files.folder / "f").write_bytes(secrets.token_bytes(CHUNK_BYTES * 30))
        response = files.read(files.folder / "f")
        next(response.response)
        response.close()
        until("the record has ended", lambda: files.record(response)["status"] == "ERROR")
        assert "didn't take all of it" in files.record(response)["error"]
        assert open_files(files.worker.folder, str(files.folder)) == []

    def test_cancelled_upload_changes_nothing(self, files: Files):
        answers: list[TestResponse] = []

        def body() -> Iterator[bytes]:
            yield secrets.token_bytes(CHUNK_BYTES * 2)
            until("it is under way", lambda: files.latest()["status"] == "RUNNING")
            answers.append(files.cloud.delete(f"{AGENT}/commands/{files.latest()['uuid']}"))
            yield secrets.token_bytes(CHUNK_BYTES * 20)

        response = files.write(files.folder / "f", Piped(body()))
        assert "cancelled" in assert_details(response)
        assert (answers[0].status_code, answers[0].json["command"]["status"]) == (200, "ERROR")
        assert list(files.folder.iterdir()) == []

    def test_chunks_that_redis_has_lost_are_noticed(self, files: Files):
        (files.folder / "f").write_bytes(secrets.token_bytes(CHUNK_BYTES * 40))
        response = files.read(files.folder / "f")
        stream = iter(response.response)
        next(stream)
        lane = f"ownup:file:{response.headers[HEADER]}:bytes"
        until("the window is full", lambda: files.web.client.llen(lane) == WINDOW_CHUNKS - 1)
        files.web.client.lpop(lane)
        with pytest.raises(ConnectionResetError, match="lost in the data store"):
            list(stream)
        response.close()
        until("the record has ended", lambda: files.record(response)["status"] == "ERROR")

    def test_bytes_that_redis_has_changed_are_noticed(self, files: Files):
        (files.folder / "f").write_bytes(b"old")

        def body() -> Iterator[bytes]:
            yield secrets.token_bytes(CHUNK_BYTES)
            lane = f"ownup:file:{files.latest()['uuid']}:bytes"
            files.web.client.rpush(lane, b"\0\0\0\1cchanged")

        response = files.write(files.folder / "f", Piped(body()))
        assert_details(response)
        assert (files.folder / "f").read_bytes() == b"old"
        assert files.parts() == []


class TestWorkersEnd:
    def test_killed_worker_leaves_lost_records_and_the_next_one_works(self, files: Files):
        (files.folder / "f").write_bytes(b"old")
        seen: list[str] = []

        def body() -> Iterator[bytes]:
            yield secrets.token_bytes(CHUNK_BYTES * 2)
            until("it is under way", lambda: files.latest()["status"] == "RUNNING")
            seen.append(files.latest()["uuid"])
            files.worker.end(signal.SIGKILL)
            files.worker.start()
            until("it is lost", lambda: files.latest()["status"] == "ERROR")
            yield secrets.token_bytes(CHUNK_BYTES)

        response = files.write(files.folder / "f", Piped(body()))
        assert response.status_code == 500, response.text
        assert files.record(response)["uuid"] == seen[0]
        assert "The worker died during the transfer" in files.record(response)["error"]
        assert (files.folder / "f").read_bytes() == b"old"
        until("the agent is there", lambda: is_running(files.cloud))
        assert files.write(files.folder / "f", b"new").status_code == 204

    def test_stopped_worker_cleans_up(self, files: Files):
        def body() -> Iterator[bytes]:
            yield secrets.token_bytes(CHUNK_BYTES * 2)
            until("it is under way", lambda: files.latest()["status"] == "RUNNING")
            files.worker.end(signal.SIGTERM)

        response = files.write(files.folder / "f", Piped(body()))
        assert "the worker was stopped" in assert_details(response)
        assert list(files.folder.iterdir()) == []
        files.worker.start()
        until("the agent is there", lambda: is_running(files.cloud))


def test_agent_without_file_rpcs_refuses(redis_url: str, home: Path):
    with tempfile.TemporaryDirectory(prefix="ga") as name:
        folder = Path(name)
        web = Web(redis_url, EXEC_START_TIMEOUT_S="5")
        web.key = web.make_key()
        with agent(folder, f"{DANGEROUS},guest-file-open"), worker(folder, redis_url):
            cloud = Cloud(web)
            until("the agent is there", lambda: is_running(cloud))
            response = cloud.get(f"{AGENT}/file-read?path={home}/vm.toml")
            assert "disabled" in assert_details(response)
            assert json.loads(response.data)["conflictingRequest"]["code"] == 409
        web.close()
