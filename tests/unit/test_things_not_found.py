"""What the web half may not find is what v2 has codes for."""

import ast
from pathlib import Path

from app.api.v2.errors import THINGS

ROOT = Path(__file__).parents[2]


def test_every_thing_that_is_not_found_anywhere_has_a_code():
    named = set()
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "NotFoundError":
                (argument,) = node.args
                named.add(argument.value if isinstance(argument, ast.Constant) else path.name)
    not_in_v2 = {"Flavor", "Token", "API key"}
    assert named - not_in_v2 - {"errors.py"} == set(THINGS)
