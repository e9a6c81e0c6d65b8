"""What a worker that root has started may do afterwards, and may not do again. Needs root, as the tests of VMs do."""

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis

from lab import packages
from tests.faults.peers import Customer, Worker, fake_agents, until
from tests.guarded_redis import GuardedRedis

ROOT = Path(__file__).parents[2]
NOBODY = pwd.getpwnam("nobody")
VMID = 10001

REPORT = """
import json, os, pwd, sys
from pathlib import Path
from workers.privileges import restrict
from app.core.errors import OwnUpError

def comes_back(step):
    try:
        step()
    except PermissionError:
        return False
    return True

if sys.argv[2:]:
    other = pwd.getpwnam(sys.argv[2])
    os.setgroups([])
    os.setresgid(other.pw_gid, other.pw_gid, other.pw_gid)
    os.setresuid(other.pw_uid, other.pw_uid, other.pw_uid)
try:
    restrict(sys.argv[1])
except OwnUpError as exc:
    sys.exit(f"{exc}")
lines = Path("/proc/self/status").read_text().splitlines()
status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
back = [lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0),
        lambda: os.setgroups([0]), lambda: os.chown(sys.executable, 0, 0), lambda: os.chroot("/")]
told = {"back": [comes_back(step) for step in back] if os.getuid() else []}
told |= {name: status[name] for name in ("Uid", "Gid", "Groups", "NoNewPrivs", "CapEff", "CapPrm", "CapInh", "CapAmb")}
print(json.dumps(told | {"umask": os.umask(0)}))
"""


@pytest.fixture
def root() -> list[str]:
    """What makes a program root's."""
    prefix = packages.root_prefix()
    assert prefix is not None, "these tests need root, or sudo"
    return prefix


def python() -> str:
    """Name a Python whose library all users can read; that of the tests may be in root's home."""
    private = [folder for folder in Path(os.__file__).resolve().parents if not folder.stat().st_mode & stat.S_IXOTH]
    return f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}" if private else sys.executable


LIBRARIES = f"{ROOT}:{Path(redis.__file__).parents[1]}"


def run(prefix: list[str], run_as: str, *before: str) -> "subprocess.CompletedProcess[str]":
    """Restrict a process that root has started, perhaps after it has become somebody; answer what it tells."""
    argv = [*prefix, "env", f"PYTHONPATH={LIBRARIES}", python(), "-c", REPORT, run_as, *before]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize(("run_as", "group"), [("nobody", "nogroup"), ("nobody:daemon", "daemon")])
def test_root_becomes_somebody_else_for_good(root: list[str], run_as: str, group: str) -> None:
    told = json.loads(run(root, run_as).stdout)
    uid, gid = [str(NOBODY.pw_uid)] * 4, [str(shutil._get_gid(group))] * 4
    assert (told["Uid"], told["Gid"]) == (uid, gid)
    assert "0" not in told["Groups"]
    assert told["back"] == [False] * 7
    assert all(int(told[name][0], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"))
    assert (told["NoNewPrivs"], told["umask"]) == (["1"], 0o077)


def test_it_joins_the_groups_of_the_user(root: list[str]) -> None:
    groups = {user.pw_name: set(os.getgrouplist(user.pw_name, user.pw_gid)) for user in pwd.getpwall() if user.pw_uid}
    name = max(groups, key=lambda name: len(groups[name]))
    told = json.loads(run(root, name).stdout)
    assert {int(gid) for gid in told["Groups"]} == groups[name]


def test_who_stays_who_it_is_gains_no_rights_and_writes_for_itself() -> None:
    told = json.loads(run([], "").stdout)
    assert told["Uid"] == [str(os.getuid())] * 4
    assert (told["NoNewPrivs"], told["umask"]) == (["1"], 0o077)


@pytest.mark.parametrize(
    ("run_as", "words"),
    [
        ("nosuchuser", "RUN_AS='nosuchuser': there is no user 'nosuchuser'"),
        ("nobody:nosuchgroup", "RUN_AS='nobody:nosuchgroup': there is no group 'nosuchgroup'"),
        (":daemon", "RUN_AS=':daemon': there is no user ''"),
    ],
)
def test_an_unknown_name_stops_the_start(root: list[str], run_as: str, words: str) -> None:
    done = run(root, run_as)
    assert (done.returncode, done.stderr.strip()) == (1, words)


def test_only_root_can_become_somebody_else(root: list[str]) -> None:
    done = run(root, "nobody", "daemon")
    assert (done.returncode, done.stderr.strip()) == (1, "RUN_AS='nobody': only root can become somebody else")


def test_who_is_that_user_already_needs_not_be_root(root: list[str]) -> None:
    done = run(root, "nobody", "nobody")
    assert json.loads(done.stdout)["Uid"] == [str(NOBODY.pw_uid)] * 4


def test_a_programs_setuid_bit_gives_nothing(root: list[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    program = tmp_path / "id"
    shutil.copy(shutil.which("id") or "", program)
    program.chmod(0o4755)
    code = "import sys, subprocess; from workers.privileges import restrict; restrict('nobody');"
    code += f"print(subprocess.run([{str(program)!r}, '-u'], capture_output=True, text=True).stdout)"
    for folder in tmp_path.parents:
        if folder.owner() == tmp_path.owner() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    done = subprocess.run([*root, python(), "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(NOBODY.pw_uid)


def test_a_user_who_cannot_read_the_program_is_refused(root: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="ownup") as name:  # for root's eyes only
        for half in ("app", "workers"):
            shutil.copytree(ROOT / half, Path(name) / half)
        argv = [*root, python(), "-c", REPORT, "nobody"]
        done = subprocess.run(argv, cwd=name, capture_output=True, text=True, check=False)
        assert done.stderr.strip() == f"RUN_AS='nobody': this user can't read {name}/workers/privileges.py"


def give(folder: Path) -> None:
    """Let all of a folder be the user's that the worker becomes."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)


def uids_of(pid: int) -> list[int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [int(uid) for line in lines if line.startswith("Uid:") for uid in line.split()[1:]]


def libraries_for(interpreter: str, folder: Path) -> str:
    """Give an interpreter what the product's lock says; what is locked differs between Python 3.11.2 and 3.11.3."""
    if interpreter == sys.executable:
        return LIBRARIES
    options = [
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        str(folder),
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    pip = [sys.executable, "-m", "pip", "--python", interpreter, "install", *options]
    subprocess.run([*pip, "-r", ROOT / "requirements.lock"], check=True, timeout=100)
    return f"{ROOT}:{folder}"


def test_a_worker_without_roots_rights_does_its_work(root: list[str]) -> None:
    assert root == [], "this one needs root itself: a file changes its owner"
    with tempfile.TemporaryDirectory(prefix="ownup") as name, GuardedRedis(Path(name) / "redis") as server:
        folder = Path(name)
        worker = Worker(
            folder,
            server.url,
            prefix=["sh", "-c", 'shift; exec "$0" "$@"', python()],
            RUN_AS="nobody",
            PYTHONPATH=libraries_for(python(), folder / "libraries"),
        )
        with fake_agents(folder, VMID, 1):
            give(folder)
            with worker, Customer(server.url) as customer:
                worker.carry(VMID, folder / f"{VMID}.qga")
                customer.wait_available(VMID)
                assert customer.run(VMID, "echo hello").stdout == b"hello\n"
                assert set(uids_of(worker.process.pid)) == {NOBODY.pw_uid}
                spool = (folder / "spool").stat()
                assert (spool.st_uid, stat.S_IMODE(spool.st_mode)) == (NOBODY.pw_uid, 0o700)
                worker.process.send_signal(signal.SIGTERM)
                assert worker.process.wait(20) == 0, worker.log
                until(5, "it says so", lambda: "event=worker_stopped" in worker.log)
