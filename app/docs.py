"""``/docs``: the OpenAPI documents for people, with no need of the internet."""

from pathlib import Path

import swagger_ui_bundle
from flask import Blueprint, Response, redirect, render_template, send_from_directory
from werkzeug import Response as BaseResponse

from app.api.v2.errors import explain_codes

DOCUMENTS = (
    {"name": "HostUp v1", "url": "/openapi/v1.json"},
    {"name": "HostUp v2", "url": "/openapi/v2.json"},
    {"name": "OpenStack", "url": "/openapi/openstack.json"},
)
"""The documents to choose from, the first one shown first."""

_VENDOR = next(Path(swagger_ui_bundle.__file__).parent.glob("vendor/swagger-ui-*"))

blueprint = Blueprint("docs", __name__)


@blueprint.get("/")
def index() -> BaseResponse:
    """Lead to the documents."""
    return redirect("/docs")


@blueprint.get("/docs")
def docs() -> str:
    """Show the documents."""
    return render_template("docs.html", documents=DOCUMENTS)


@blueprint.get("/docs/errors")
def error_codes() -> str:
    """Explain the codes of v2's problem documents, whose ``type`` leads here."""
    return render_template("errors.html", codes=explain_codes())


@blueprint.get("/docs/assets/<name>")
def asset(name: str) -> Response:
    """Give one file of Swagger UI."""
    return send_from_directory(_VENDOR, name, max_age=86400)
