"""Keystone's routes about tokens: log in, look one up, end one.

A login is open to all; the others want a token, and no scope: they tell a key only of itself.

Source: Keystone API reference, v3, authentication and token management.
"""

from typing import Any

from flask import Response, request

from app.access import Principal
from app.api.face import FaceBlueprint
from app.api.openstack import bodies
from app.api.openstack.addresses import IDENTITY
from app.api.openstack.arguments import AuthBody, Credentials, SubjectHeader
from app.api.openstack.conventions import by_token
from app.api.openstack.schemas import TokenAnswer
from app.api.requires import count
from app.audit_trail import note_login
from app.present import present
from app.services import services
from app.tokens import TokenView

blueprint = FaceBlueprint("Identity", __name__, description="Log in, and look at what a token is good for")

_TOKENS = f"{IDENTITY}/v3/auth/tokens"
_SUBJECT = "X-Subject-Token"
_SUBJECT_DOC = {_SUBJECT: {"description": "The token.", "schema": {"type": "string"}}}
_DOMAIN = {"id": "default", "name": "Default"}
_EXAMPLE = {
    "token": {
        "methods": ["password"],
        "user": {"id": "0123456789abcdef", "name": "ci", "domain": _DOMAIN},
        "project": {"id": "acme", "name": "acme", "domain": _DOMAIN},
        "is_domain": False,
        "roles": [{"id": "reader", "name": "reader"}],
        "audit_ids": [],
        "issued_at": "2026-02-10T00:00:00.000000Z",
        "expires_at": "2026-02-10T01:00:00.000000Z",
        "catalog": [
            {
                "id": "nova",
                "name": "nova",
                "type": "compute",
                "endpoints": [
                    {
                        "id": "nova-public",
                        "interface": "public",
                        "region": "RegionOne",
                        "region_id": "RegionOne",
                        "url": "https://cloud.example/v2.1",
                    }
                ],
            }
        ],
    }
}


@blueprint.route(_TOKENS, methods=["POST"])
@blueprint.doc(security=[])
@blueprint.arguments(AuthBody, as_kwargs=True)
@blueprint.fails(400, 401, 413, 415, 503)
@blueprint.response(201, TokenAnswer, example=_EXAMPLE, headers=_SUBJECT_DOC)
def log_in(credentials: Credentials) -> tuple[dict[str, Any], dict[str, str]]:
    """Log in: get a token for an API key."""
    note_login(credentials.method, credentials.secret)
    tokens = services().tokens
    issue = tokens.exchange if credentials.method == "token" else tokens.log_in
    login = issue(credentials.secret, credentials.method, credentials.project, address=request.remote_addr)
    present().principal = Principal.of(login.view.key)
    return _answer(login.view), {_SUBJECT: login.secret}


@blueprint.route(_TOKENS, methods=["GET"])
@blueprint.arguments(SubjectHeader, location="headers", as_kwargs=True)
@blueprint.fails(400, 401, 404, 503)
@blueprint.response(200, TokenAnswer, example=_EXAMPLE, headers=_SUBJECT_DOC)
def show_token(subject: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Tell what a token of your key is good for."""
    principal = present().principal = by_token()
    count(principal)
    return _answer(services().tokens.get(principal, subject)), {_SUBJECT: subject}


@blueprint.route(_TOKENS, methods=["DELETE"])
@blueprint.arguments(SubjectHeader, location="headers", as_kwargs=True)
@blueprint.fails(400, 401, 404, 503)
@blueprint.response(204)
def revoke_token(subject: str) -> Response:
    """End a token of your key at once."""
    principal = present().principal = by_token()
    count(principal)
    services().tokens.revoke(principal, subject)
    return Response(status=204)


def _answer(view: TokenView) -> dict[str, Any]:
    return {"token": bodies.token(view)}
