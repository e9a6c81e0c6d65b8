"""The audit of packages tells a clean list from one that nobody has looked at; pip-audit is real, OSV is played."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lab.advisories import audit

OLD = {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "version": "2.4.1"}
ADVISORY = {
    "id": "PYSEC-2014-8",
    "affected": [{"package": OLD["package"], "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "2.7.2"}]}]}],
}
NOBODY = ["-s", "osv", "--osv-url", "http://127.0.0.1:9/"]  # the port named discard, where nothing listens


class Osv(BaseHTTPRequestHandler):
    """Knows one advisory."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer({"vulns": [ADVISORY]} if asked == OLD else {})

    def answer(self, reply: object) -> None:
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the screen for the test."""


class Ignorant(Osv):
    """Is there, and has never heard of anything: a package index without advisories."""

    def do_POST(self) -> None:
        self.answer({})


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[list[str]]:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield ["-s", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}/"]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def lock(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "some.lock"
        path.write_text(text)
        return path

    return write


def test_a_package_with_an_advisory_is_named_and_fails(
    lock: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with served(Osv) as osv:
        status = audit([lock("flask==3.1.3\njinja2==2.4.1\n")], {"OSV": osv})
    assert status == 1
    assert capsys.readouterr().out.splitlines() == [
        "pip-audit: 2 packages looked up at OSV, 1 of them vulnerable",
        "  jinja2 2.4.1: PYSEC-2014-8, fixed in 2.7.2",
    ]


def test_packages_without_advisories_pass(lock: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    with served(Osv) as osv:
        status = audit([lock("flask==3.1.3\n")], {"nobody": NOBODY, "OSV": osv})
    assert status == 0
    assert capsys.readouterr().out == "pip-audit: 1 packages looked up at OSV, 0 of them vulnerable\n"


def test_where_no_one_knows_advisories_the_audit_says_that_it_was_skipped(
    lock: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with served(Ignorant) as index:
        status = audit([lock("jinja2==2.4.1\n")], {"nobody": NOBODY, "an index": index})
    assert status == 0
    assert capsys.readouterr().out == (
        "pip-audit: SKIPPED, nothing was checked: no advisories from nobody or an index\n"
    )
