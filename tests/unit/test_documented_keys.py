"""Bodies about API keys as HostUp documents them go through our schemas, in and out, unchanged."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.api.v1 import key_schemas

DOCUMENTED = json.loads((Path(__file__).parents[1] / "data" / "hostup_v1_keys.json").read_text())
ADDED = {
    "account", "prefix", "is_active", "is_test", "expires_at", "last_used_at", "allowed_ips", "allowed_vmids",
    "allowed_commands",
}  # fmt: skip
"""Fields of answers that HostUp doesn't document: its clients don't miss them and don't mind them."""
NOT_DOCUMENTED = {"KeySchema", "KeysSchema", "KeyDeletedSchema", "ScopeSchema", "ScopesSchema"}
"""What HostUp documents by its name only, or has no word of."""


@pytest.mark.parametrize("case", DOCUMENTED, ids=lambda case: case["what"])
def test_documented_body_is_loaded_and_dumped_unchanged(case: dict[str, Any]):
    schema = getattr(key_schemas, case["schema"])()
    dumped = schema.dump(schema.load(case["body"], partial=ADDED))
    assert json.dumps(dumped, sort_keys=True) == json.dumps(case["body"], sort_keys=True)


@pytest.mark.parametrize("case", DOCUMENTED, ids=lambda case: case["what"])
def test_what_hostup_has_in_a_body_is_all_that_is_required(case: dict[str, Any]):
    schema = getattr(key_schemas, case["schema"])()
    required = {field.data_key or name for name, field in schema.fields.items() if field.required}
    assert required - ADDED <= set(case["body"])


def test_every_schema_of_ours_is_held_against_a_documented_body():
    ours = {
        name
        for name, kind in vars(key_schemas).items()
        if isinstance(kind, type) and kind.__module__ == key_schemas.__name__ and name.endswith(("Schema", "Body"))
    }
    assert ours - NOT_DOCUMENTED - {"_Body"} == {case["schema"] for case in DOCUMENTED}
