"""Bodies about snapshots as HostUp documents them go through our schemas, in and out, unchanged."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.api.v1 import snapshot_schemas as v1
from app.api.v2 import snapshot_schemas as v2

DOCUMENTED = json.loads((Path(__file__).parents[1] / "data" / "hostup_snapshots.json").read_text())
MODULES = {"v1": v1, "v2": v2}


@pytest.mark.parametrize("case", DOCUMENTED, ids=lambda case: case["what"])
def test_documented_body_is_loaded_and_dumped_unchanged(case: dict[str, Any]) -> None:
    schema = getattr(MODULES[case["module"]], case["schema"])()
    assert json.dumps(schema.dump(schema.load(case["body"])), sort_keys=True) == json.dumps(
        case["body"], sort_keys=True
    )
