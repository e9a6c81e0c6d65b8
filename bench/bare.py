"""The baseline of a read: Flask, one view and the same JSON, with nothing behind it. `gunicorn … bench.bare:app`."""

import os
from pathlib import Path
from typing import Any

from flask import Flask

from app.api.json_text import CompactJson

app = Flask("bare", static_folder=None)
app.json = CompactJson(app)

_ANSWERS: dict[str, Any] = {
    name: app.json.loads(Path(os.environ["BENCH_ANSWERS"], f"{name}.json").read_bytes())
    for name in ("result", "status")
}


@app.get("/<name>")
def answer(name: str) -> Any:
    """Answer as the product did."""
    return _ANSWERS[name]
