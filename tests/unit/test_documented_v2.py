"""Bodies as HostUp documents v2 go through our schemas, in and out, unchanged: names, types, digits."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from app.api.v2 import arguments, exec_schemas, schemas, vps_schemas
from app.core.records import CommandRequest
from app.order import Order

DATA = Path(__file__).parents[1] / "data" / "hostup_v2"
DOCUMENTED = {path.stem: json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))}
TAKEN_IN = {name: case for name, case in DOCUMENTED.items() if case["module"] == "arguments"}
GIVEN_OUT = {name: case for name, case in DOCUMENTED.items() if name not in TAKEN_IN}


def schema_of(case: dict[str, Any]) -> Any:
    return getattr(importlib.import_module(f"app.api.v2.{case['module']}"), case["schema"])()


@pytest.mark.parametrize("name", GIVEN_OUT)
def test_documented_answer_is_loaded_and_dumped_unchanged(name: str):
    case = DOCUMENTED[name]
    schema = schema_of(case)
    dumped = schema.dump(schema.load(case["body"]))
    assert json.dumps(dumped, sort_keys=True) == json.dumps(case["body"], sort_keys=True)


def test_documented_bodies_are_taken_in_as_they_are_meant():
    assert schema_of(TAKEN_IN["post_agent_exec_body"]).load({"command": "uname -a"}) == Order(
        request=CommandRequest(line="uname -a")
    )
    assert schema_of(TAKEN_IN["post_restart_body"]).load(TAKEN_IN["post_restart_body"]["body"]) == {"force": True}
    assert schema_of(TAKEN_IN["post_restart_body"]).load({}) == {"force": False}


def test_every_answer_of_ours_that_is_documented_is_held_against_a_documented_body():
    not_documented = {"DisksSchema", "KillSchema"}
    ours = {
        name
        for module in (schemas, vps_schemas, exec_schemas)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and name.endswith("Schema")
    }
    within = {
        nested
        for name in ours
        for module in (schemas, vps_schemas, exec_schemas)
        if hasattr(module, name)
        for nested in nested_names(getattr(module, name)())
    }
    bases = {"DiskSchema"}
    assert ours - within - bases - not_documented == {case["schema"] for case in GIVEN_OUT.values()} - within
    assert {"ExecBody", "RestartBody"} <= set(vars(arguments))


def nested_names(schema: Any) -> set[str]:
    found = set()
    for field in schema.fields.values():
        for part in (field, getattr(field, "inner", None), getattr(field, "value_field", None)):
            if part is not None and hasattr(part, "nested"):
                found.add(type(part.schema).__name__)
    return found
