"""`make run`: Redis, web, worker and demo VMs in one terminal, from nothing to a command that has run in a guest.

Puts the lab's pieces together, watches what it started and ends all of it. Doesn't look inside the product: it starts
what the Procfile says and then is a client of the API.
"""

import os
import shlex
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from urllib.parse import quote

from lab import LabError, accel, definitions, demo, guest, processes
from lab.accel import Accelerator
from lab.demo import Api
from lab.watch import StopAskedError, Watch, ask_by_signal, hold, require_free

READY_TIMEOUT_S = 60
_MOST_VMS = 100
_LAST_PORT = 65535


@dataclass(frozen=True)
class Options:
    """What a person can set for `make run`, in the environment."""

    var_dir: Path
    vms: int
    port: int
    redis_url: str
    """Empty: start a private Redis."""


def read_options(environ: Mapping[str, str]) -> Options:
    """Read the options; an empty variable counts as unset.

    Raises:
        LabError: a number is none, or out of range.
    """
    return Options(
        var_dir=Path(environ.get("VAR_DIR") or "var").resolve(),
        vms=_number(environ, "VMS", 1, _MOST_VMS),
        port=_number(environ, "PORT", 8000, _LAST_PORT),
        redis_url=environ.get("REDIS_URL", ""),
    )


def _number(environ: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    raw = environ.get(name) or str(default)
    if not (raw.isascii() and raw.isdecimal()) or not 1 <= int(raw) <= maximum:
        raise LabError(f"{name} must be a whole number from 1 to {maximum}, not {raw!r}")
    return int(raw)


def run(options: Options, cleanup: ExitStack) -> None:
    """Start everything, show how to use it, and stay until asked to stop. `cleanup` ends whatever was started.

    Raises:
        StopAskedError: asked to stop, at any time.
        LabError: something did not start, or has ended by itself.
    """
    cleanup.enter_context(hold(options.var_dir))
    require_free(options.port)
    say("Lab guest: building it, unless it is there (the first time downloads about 30 MB) ...")
    lab_guest = guest.build(options.var_dir)
    say("Accelerator: trying KVM, if this host has it (up to 5 s, once) ...")
    accelerator = accel.choose(options.var_dir, lab_guest)
    say(f"Accelerator: {accelerator}")
    sockets = definitions.socket_dir(options.var_dir, os.environ)
    fleet = definitions.demo_fleet(options.vms)
    definitions.write(options.var_dir / "vms", fleet, sockets, lab_guest, options.var_dir / "disks")

    watch = Watch()
    ask_by_signal(watch.stop_asked)
    redis_url = options.redis_url or start_redis(watch, cleanup, options.var_dir, sockets)
    environ = child_environ(options, redis_url, accelerator)
    key = demo.read_key(options.var_dir / "demo.key", Path(sys.executable).with_name("ownup"), environ)
    start_halves(watch, cleanup, sockets, environ)
    api = Api(options.port, key)
    watch.wait_for("web and worker are ready (/readyz)", READY_TIMEOUT_S, lambda: api.find("/readyz"))
    first_pid = demo.boot(watch, api, fleet, say)
    say(demo.usage(api, fleet, first_pid))
    while True:
        watch.pause()


def start_redis(watch: Watch, cleanup: ExitStack, var_dir: Path, sockets: Path) -> str:
    """Start a private Redis that keeps its data below `var_dir` and listens on no port; answer its URL."""
    say("Redis: starting a private one ...")
    data, path = var_dir / "redis", sockets / "redis.sock"
    data.mkdir(exist_ok=True, mode=0o700)  # what Redis holds stands in its files too
    argv = ["redis-server", "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", str(data)]
    argv += ["--appendonly", "yes", "--save", "", "--logfile", str(data / "redis.log")]
    argv += ["--slowlog-max-len", "0"]  # it would keep the arguments of slow commands
    cleanup.callback(processes.stop, [watch.start("redis", shlex.join(argv), os.environ)])
    watch.wait_for("Redis answers", READY_TIMEOUT_S, lambda: ping_redis(path))
    return f"unix://{quote(str(path))}?db=0"


def ping_redis(path: Path) -> bool | None:
    """Say True when Redis is there and has loaded its data, else None."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(1)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return True if connection.recv(64) == b"+PONG\r\n" else None
    return None


def child_environ(options: Options, redis_url: str, accelerator: Accelerator) -> dict[str, str]:
    """Make the environment of the web half, the worker and the `ownup` command."""
    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "HOST": "127.0.0.1",
        "PORT": str(options.port),
        "REDIS_URL": redis_url,
        "VAR_DIR": str(options.var_dir),
        "VM_DIR": str(options.var_dir / "vms"),
        "SPOOL_DIR": str(options.var_dir / "spool"),
        "NODE_NAME": os.environ.get("NODE_NAME") or "node-1",
        "QEMU_ACCEL": accelerator,
    }
    return {**os.environ, **own}


def start_halves(watch: Watch, cleanup: ExitStack, sockets: Path, environ: Mapping[str, str]) -> None:
    """Start what the Procfile names. The VMs are ended after the worker, which else would see them fall."""
    halves: list[processes.Child] = []
    cleanup.callback(processes.stop_vms, sockets)
    cleanup.callback(processes.stop, halves)
    for name, shell_line in processes.parse_procfile(Path("Procfile").read_text(encoding="utf-8")).items():
        say(f"{name}: {shell_line}")
        halves.append(watch.start(name, shell_line, environ))


def say(text: str) -> None:
    """Tell the person at the terminal, at once, also through a pipe."""
    print(text, flush=True)


def main() -> int:
    """Run; answer with an exit status: 0 when asked to stop, 1 when something went wrong."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # while only files are made, any of them ends us at once
    with ExitStack() as cleanup:
        try:
            run(read_options(os.environ), cleanup)
        except (StopAskedError, KeyboardInterrupt):
            say("\nStopping ...")
            return 0
        except (LabError, CalledProcessError, OSError) as exc:
            say(f"make run: {exc}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
