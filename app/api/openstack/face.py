"""The OpenStack face as a whole: its error bodies by path, its OpenAPI document, its routes."""

from typing import Any

from flask import Flask

from app.api.face import FaceApi
from app.api.openstack import discovery, errors, flavors, guest_agent, guest_files, identity, servers
from app.api.openstack.addresses import COMPUTE, IDENTITY
from app.api.openstack.arguments import METHODS
from app.api.openstack.conventions import MICROVERSION, add_headers
from app.api.openstack.schemas import ERROR

_RULES: dict[str, dict[str, Any]] = {
    "ActionBody": {"minProperties": 1, "maxProperties": 1},
    "IdentityBody": {
        "oneOf": [
            {"required": [method], "properties": {"methods": {"items": {"enum": [method]}}}} for method in METHODS
        ]
    },
}
"""What bodies must be like as a whole, in the words of OpenAPI; their schemas check it by functions."""

FACES = {COMPUTE: errors.COMPUTE_FACE, IDENTITY: errors.IDENTITY_FACE}
"""Which error body is whose."""

_ROUTES = (discovery, identity, servers, flavors, guest_agent, guest_files)
_DESCRIPTION = """
The part of Nova and Keystone that `openstack server list | show | start | stop | reboot` and openstacksdk's
`conn.compute` need. Log in at `/identity/v3`: as a user of any name whose password is an API key, or with an
application credential whose secret is an API key. The project is the key's account. A token counts for an hour, and
never longer than its key. `X-Auth-Token` takes an API key itself too. The microversion is 2.1. What OwnUp can't know
(images, networks, when a server was created) is empty, null or absent.

Below a server's `guest-agent` are Virtuozzo's calls to run commands and to move files through the QEMU guest agent.
They need the scope that the role `guest_exec` stands for, but for the list, which shows no output.
"""


class OpenStackApi(FaceApi):
    """Documents the face."""

    ERROR_SCHEMA = ERROR


def register(app: Flask) -> None:
    """Give an application this face."""
    api = OpenStackApi(app, "openstack", title="OwnUp: OpenStack", version=MICROVERSION, description=_DESCRIPTION)
    api.secure("token", {"type": "apiKey", "in": "header", "name": "X-Auth-Token"})
    for routes in _ROUTES:
        api.register_blueprint(routes.blueprint)
    for name, rule in _RULES.items():
        api.spec.components.schemas[name] |= rule
    app.after_request(add_headers)
