"""Facts that hold the deployment together: what one file promises, another one keeps."""

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from app.core import env, queues, store
from app.core.queues import queue_name
from app.settings import WebSettings
from lab.processes import parse_procfile
from workers.__main__ import _build
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
HALVES = ("app", "workers")
SHIPPED_WITH = {"qemu": "qemu-qmp", "werkzeug": "flask"}
"""The distribution that brings a module, where it has another name. Flask's API includes werkzeug's."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def distribution_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s<>=!~\[;]", text)[0].lower().replace("_", "-").replace(".", "-") for text in requirements}


def sources(half: str) -> Iterator[Path]:
    return (ROOT / half).rglob("*.py")


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


# --- names that both halves use ---------------------------------------------------------------------------------------


def test_every_job_the_web_half_can_name_is_one_the_worker_knows_and_no_other(tmp_path: Path) -> None:
    named = {value for name, value in vars(queues).items() if name.isupper()}
    settings = env.load(WorkerSettings, {"SPOOL_DIR": str(tmp_path), "NODE_NAME": "n7"})
    client = redis.asyncio.Redis()
    parts = _build(settings, store.AsyncStore(client), client)
    assert set(parts.rq_worker._jobs) == named
    assert parts.rq_worker.queue_names() == [queue_name("n7")] == ["node-n7"]


def test_the_name_of_a_job_is_never_something_that_could_be_imported() -> None:
    for name in (value for key, value in vars(queues).items() if key.isupper()):
        module, _, function = name.rpartition(".")
        assert not hasattr(importlib.import_module(module), function), "RQ's own worker would call it without a record"


# --- files ------------------------------------------------------------------------------------------------------------


def test_env_example_is_what_the_settings_say() -> None:
    assert (ROOT / ".env.example").read_text() == env.example({"web": WebSettings, "worker": WorkerSettings})


def test_variables_that_both_halves_read_have_one_default() -> None:
    defaults = [
        {line for line in env.example({"": half}).splitlines() if not line.startswith("#")}
        for half in (WebSettings, WorkerSettings)
    ]
    names = [{line.partition("=")[0] for line in lines if line} for lines in defaults]
    both = names[0] & names[1]
    assert "REDIS_URL" in both
    for name in both:
        assert len({line for lines in defaults for line in lines if line.partition("=")[0] == name}) == 1, name


def test_the_procfile_names_programs_that_are_installed_and_modules_that_are_there() -> None:
    commands = {name: shlex.split(line) for name, line in parse_procfile((ROOT / "Procfile").read_text()).items()}
    assert set(commands) == {"web", "worker"}
    for program, *_ in commands.values():
        assert shutil.which(program, path=str(Path(sys.executable).parent)), program
    [configuration] = [word.removeprefix("python:") for word in commands["web"] if word.startswith("python:")]
    modules = [configuration, commands["web"][-1].partition(":")[0], f"{commands['worker'][-1]}.__main__"]
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


# --- the package ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES)
def test_every_folder_with_code_is_a_package(half: str) -> None:
    assert {path.parent for path in sources(half)} == {path.parent for path in sources(half) if path.stem == "__init__"}


def test_files_that_the_web_half_reads_are_packaged(project: dict[str, Any]) -> None:
    patterns = project["tool"]["setuptools"]["package-data"]["app"]
    packaged = {path for pattern in patterns for path in (ROOT / "app").glob(pattern)}
    present = {path for path in (ROOT / "app").rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert packaged == present


def test_every_library_that_the_product_imports_is_declared_and_none_besides(project: dict[str, Any]) -> None:
    declared = distribution_names(project["project"]["dependencies"])
    ours = {*HALVES, *sys.stdlib_module_names}
    used = {name for half in HALVES for path in sources(half) for name in imported_modules(path) if name not in ours}
    distributions = {SHIPPED_WITH.get(name, name).replace("_", "-") for name in used}
    started_by_name = {"gunicorn"}
    assert distributions | started_by_name == declared


def locked(name: str) -> dict[str, set[str]]:
    """Read a lock: to each package at its exact version the hashes of its files."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.match(r"[\w.-]+==[\w.]+ ", line) for line in lines), "every line is an exact version"
    return {line.split()[0]: set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", line)) for line in lines}


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.lock", ["build"]), ("requirements-dev.lock", ["build", "dev"]), ("lab/openstack_clients.lock", [])],
)
def test_every_library_has_one_exact_version_with_its_hashes(
    project: dict[str, Any], lock: str, extras: list[str]
) -> None:
    packages = locked(lock)
    assert all(packages.values())
    wanted = [name for extra in extras for name in project["project"]["optional-dependencies"][extra]]
    wanted += project["project"]["dependencies"] if extras else ["python-openstackclient"]
    assert distribution_names(wanted) <= distribution_names(list(packages))


def test_what_is_tested_is_what_is_installed() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock", "lab/openstack_clients.lock"])
def test_no_lock_says_where_packages_are_fetched(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text()


# --- what is loaded where ---------------------------------------------------------------------------------------------


def test_the_worker_half_loads_no_web_framework() -> None:
    foreign = {"flask", "flask_smorest", "marshmallow", "werkzeug", "webargs", "apispec", "gunicorn", "lab"}
    code = f"import sys, workers.__main__; print(sorted({foreign} & {{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("half", HALVES)
def test_the_product_never_imports_the_lab_the_tests_or_the_benchmarks(half: str) -> None:
    used = {name for path in sources(half) for name in imported_modules(path)}
    assert not used & {"lab", "tests", "bench", "pytest"}
