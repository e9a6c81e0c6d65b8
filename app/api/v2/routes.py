"""All routes of the v2 face."""

from flask import Flask

from app.api.v2 import actions, agent_exec, guest_settings, snapshots, ssh_keys, vps
from app.api.v2.face import BASE, create_api

_BLUEPRINTS = (
    vps.blueprint,
    actions.blueprint,
    agent_exec.blueprint,
    snapshots.blueprint,
    guest_settings.blueprint,
    ssh_keys.blueprint,
)


def register(app: Flask) -> None:
    """Give an application this face."""
    api = create_api(app)
    for blueprint in _BLUEPRINTS:
        api.register_blueprint(blueprint, url_prefix=BASE)
