"""Which versions of Nova and Keystone are spoken here; clients ask before they log in."""

from typing import Any

from app.api.face import FaceBlueprint
from app.api.openstack.addresses import COMPUTE, IDENTITY, url
from app.api.openstack.conventions import MICROVERSION
from app.api.openstack.schemas import VersionAnswer, VersionsAnswer

blueprint = FaceBlueprint("Versions", __name__, description="Which versions are spoken here")

_COMPUTE_EXAMPLE = {
    "version": {
        "id": "v2.1",
        "status": "CURRENT",
        "version": "2.1",
        "min_version": "2.1",
        "links": [{"rel": "self", "href": "https://cloud.example/v2.1/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}],
    }
}
_IDENTITY_EXAMPLE = {
    "id": "v3.14",
    "status": "stable",
    "links": [{"rel": "self", "href": "https://cloud.example/identity/v3/"}],
    "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
}


@blueprint.route(COMPUTE, methods=["GET"])
@blueprint.route(f"{COMPUTE}/", methods=["GET"])
@blueprint.doc(security=[])
@blueprint.response(200, VersionAnswer, example=_COMPUTE_EXAMPLE)
def show_compute() -> dict[str, Any]:
    """Tell which version of Nova's API this is.

    Source: Nova API reference, show details of specific API version; of microversions only the first one is spoken.
    """
    return {
        "version": {
            "id": "v2.1",
            "status": "CURRENT",
            "version": MICROVERSION,
            "min_version": MICROVERSION,
            "links": [{"rel": "self", "href": url(f"{COMPUTE}/")}],
            "media_types": [_json("application/vnd.openstack.compute+json;version=2.1")],
        }
    }


@blueprint.route(IDENTITY, methods=["GET"])
@blueprint.route(f"{IDENTITY}/", methods=["GET"])
@blueprint.doc(security=[])
@blueprint.response(300, VersionsAnswer, example={"versions": {"values": [_IDENTITY_EXAMPLE]}})
def list_identity() -> dict[str, Any]:
    """List the versions of Keystone's API.

    Source: Keystone API reference, list versions: 300, multiple choices.
    """
    return {"versions": {"values": [_identity()]}}


@blueprint.route(f"{IDENTITY}/v3", methods=["GET"])
@blueprint.route(f"{IDENTITY}/v3/", methods=["GET"])
@blueprint.doc(security=[])
@blueprint.response(200, VersionAnswer, example={"version": _IDENTITY_EXAMPLE})
def show_identity() -> dict[str, Any]:
    """Tell which version of Keystone's API this is."""
    return {"version": _identity()}


def _identity() -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "links": [{"rel": "self", "href": url(f"{IDENTITY}/v3/")}],
        "media_types": [_json("application/vnd.openstack.identity-v3+json")],
    }


def _json(media_type: str) -> dict[str, str]:
    return {"base": "application/json", "type": media_type}
