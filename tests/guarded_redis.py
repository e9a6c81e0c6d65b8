"""A real redis-server that keeps strangers out: a password, and TLS with a certificate authority of its own."""

import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import redis

PASSWORD = "s3cret%2Fword-of-redis"  # with a character that a URL must hide
QUOTED_PASSWORD = "s3cret%252Fword-of-redis"
START_TIMEOUT_S = 10

_OPENSSL = (
    "req -x509 -newkey rsa:2048 -noenc -days 2 -subj /CN=ownup-test-ca -keyout ca.key -out ca.crt",
    "req -newkey rsa:2048 -noenc -subj /CN=redis -keyout redis.key -out redis.csr",
    "x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -days 2 -extfile names -out redis.crt",
)


class GuardedRedis:
    """A redis-server on 127.0.0.1 with a password; ``url`` has all that a client needs."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        self._folder = folder
        self._tls = tls
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_with(QUOTED_PASSWORD)

    def url_with(self, quoted_password: str) -> str:
        """Write the URL with another password."""
        if self._tls:
            return f"rediss://:{quoted_password}@127.0.0.1:{self.port}/0?ssl_ca_certs={self._folder}/ca.crt"
        return f"redis://:{quoted_password}@127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        plain, options = (0, self._make_certificates()) if self._tls else (self.port, [])
        command = ["redis-server", "--port", str(plain), "--bind", "127.0.0.1", "--dir", self._folder, "--save", ""]
        command += ["--requirepass", PASSWORD, *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < deadline_s, "redis-server doesn't answer"
            assert self._process.poll() is None, "redis-server ended"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _make_certificates(self) -> list[str]:
        (self._folder / "names").write_text("subjectAltName = IP:127.0.0.1\n")
        for line in _OPENSSL:
            subprocess.run(["openssl", *line.split()], cwd=self._folder, check=True, capture_output=True)
        files = {"cert": "redis.crt", "key": "redis.key", "ca-cert": "ca.crt"}
        words = [word for name, file in files.items() for word in (f"--tls-{name}-file", f"{self._folder}/{file}")]
        return ["--tls-port", str(self.port), "--tls-auth-clients", "no", *words]

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False
