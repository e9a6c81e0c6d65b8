"""Bodies as HostUp documents them go through our schemas, in and out, unchanged: names, types, digits."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from app.api.v1 import setting_schemas as v1
from app.api.v2 import setting_schemas as v2

DATA = Path(__file__).parents[1] / "data"
DOCUMENTED = {
    face: json.loads((DATA / f"hostup_{name}_guest_settings.json").read_text())
    for face, name in ((v1, "v1"), (v2, "v2"))
}
CASES = [(face, case) for face, cases in DOCUMENTED.items() for case in cases]
NOT_DOCUMENTED = {
    v1: {"SshKeyRemovedSchema"},
    v2: {"KeyIdsBody", "GuestKeySchema", "GuestKeysSchema"},
}
"""What HostUp documents by its name only, or has no word of."""
WITHIN = {
    v1: {"TrafficSchema", "ReverseDnsSchema", "SshKeySchema", "AddedSchema"},
    v2: {"ReverseDnsSchema", "SshKeyGatesSchema"},
}


@pytest.mark.parametrize(("face", "case"), CASES, ids=lambda value: value["what"] if isinstance(value, dict) else "")
def test_documented_body_is_loaded_and_dumped_unchanged(face: ModuleType, case: dict[str, Any]):
    schema = getattr(face, case["schema"])()
    dumped = schema.dump(schema.load(case["body"]))
    assert json.dumps(dumped, sort_keys=True) == json.dumps(case["body"], sort_keys=True)


@pytest.mark.parametrize("face", [v1, v2])
def test_every_schema_of_ours_is_held_against_a_documented_body(face: ModuleType):
    ours = {
        name
        for name, kind in vars(face).items()
        if isinstance(kind, type) and kind.__module__ == face.__name__ and name.endswith(("Schema", "Body"))
    }
    assert ours - WITHIN[face] - NOT_DOCUMENTED[face] == {case["schema"] for case in DOCUMENTED[face]}
