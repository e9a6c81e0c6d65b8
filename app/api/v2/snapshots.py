"""v2 routes about snapshots: list them, take one, go back to one, delete one.

Source: HostUp v2 docs, snapshots.
"""

from typing import Any

from app.access import Principal, Scope
from app.api.requires import requires
from app.api.timestamps import timestamp
from app.api.v2 import bodies
from app.api.v2.arguments import VpsPath
from app.api.v2.face import V2Blueprint
from app.api.v2.schemas import OperationSchema
from app.api.v2.snapshot_schemas import SnapshotBody, SnapshotPath, SnapshotsSchema
from app.audit_trail import note
from app.core.records import Snapshot
from app.services import services

blueprint = V2Blueprint("VPS snapshots", __name__, description="States of a VPS, memory included, to go back to")


@blueprint.route("/vps/<vps_id>/snapshots", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, SnapshotsSchema())
def list_snapshots(principal: Principal, vps_id: str) -> dict[str, Any]:
    """List the snapshots of a VPS, oldest first."""
    found = services().snapshots.read(principal, services().vps_ids.get_vmid(principal, vps_id))
    available = found.available
    return {
        "data": [_entry(snapshot) for snapshot in found.snapshots],
        "limits": {"total_snapshots": found.limit},
        "available": available.allowed,
        "reason": available.reason,
        "actions": {
            "can_create": found.can_create,
            "can_restore": found.can_restore,
            "can_delete": found.can_delete,
        },
    }


@blueprint.route("/vps/<vps_id>/snapshots", methods=["POST"])
@requires(Scope.BACKUP_VM)
@blueprint.arguments(VpsPath(), location="path", as_kwargs=True)
@blueprint.arguments(SnapshotBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 413, 415, 503)
@blueprint.response(202, OperationSchema())
def create_snapshot(principal: Principal, vps_id: str, name: str, description: str | None) -> dict[str, Any]:
    """Take a snapshot of a running VPS."""
    note(snapshot=name)
    vmid = services().vps_ids.get_vmid(principal, vps_id)
    return bodies.operation(services().snapshots.create(principal, vmid, name, description))


@blueprint.route("/vps/<vps_id>/snapshots/<snapshot_id>/actions/restore", methods=["POST"])
@requires(Scope.BACKUP_VM)
@blueprint.arguments(SnapshotPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 503)
@blueprint.response(202, OperationSchema())
def restore_snapshot(principal: Principal, vps_id: str, snapshot_id: str) -> dict[str, Any]:
    """Take a VPS back to a snapshot; its running commands end as lost."""
    vmid = services().vps_ids.get_vmid(principal, vps_id)
    return bodies.operation(services().snapshots.restore(principal, vmid, snapshot_id))


@blueprint.route("/vps/<vps_id>/snapshots/<snapshot_id>", methods=["DELETE"])
@requires(Scope.BACKUP_VM)
@blueprint.arguments(SnapshotPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 503)
@blueprint.response(202, OperationSchema())
def delete_snapshot(principal: Principal, vps_id: str, snapshot_id: str) -> dict[str, Any]:
    """Delete a snapshot."""
    vmid = services().vps_ids.get_vmid(principal, vps_id)
    return bodies.operation(services().snapshots.delete(principal, vmid, snapshot_id))


def _entry(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "display_id": snapshot.name,
        "name": snapshot.name,
        "description": snapshot.description,
        "created_at": timestamp(snapshot.taken_at),
        "expires_at": None,
        "includes_memory_state": snapshot.includes_memory,
        "parent_name": None,
    }
