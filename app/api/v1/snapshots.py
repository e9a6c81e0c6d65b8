"""v1 routes about snapshots: list them, take one, go back to one, delete one.

Source: HostUp v1 docs, snapshots; that POST takes one, and its body, is our reading of how DELETE is spelt.
"""

import hashlib
import json
from typing import Any

from app.access import Principal, Scope
from app.api.requires import requires
from app.api.v1.arguments import VmPath
from app.api.v1.face import V1Blueprint, example
from app.api.v1.snapshot_schemas import (
    SnapshotActionQuery,
    SnapshotActionSchema,
    SnapshotBody,
    SnapshotQueuedSchema,
    SnapshotSchema,
)
from app.audit_trail import note
from app.core.records import Job, Snapshot
from app.services import services
from app.snapshots import SnapshotsView

blueprint = V1Blueprint("Snapshots", __name__, description="States of a VM, memory included, that it can go back to")

_LIST = [
    {
        "name": "before-update",
        "description": "before the update to 2.0",
        "snaptime": 1769376617,
        "vmstate": 1,
    },
    {
        "name": "current",
        "description": "You are here!",
        "digest": "1c7cb86ef1c5ac85e1bb5b6f9ae9b2ea7d79b6b2",
        "running": 1,
    },
]


def _queued(action: str) -> dict[str, Any]:
    return example({
        "success": True,
        "jobId": f"snapshot_{action}-10000-1769376617096",
        "action": action,
        "snapname": "before-update",
        "message": f"Snapshot {action} queued",
    })


@blueprint.route("/vm/<vmid>/snapshots", methods=["GET"])
@requires(Scope.READ_VM)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 503)
@blueprint.response(200, SnapshotSchema(many=True), example=example(_LIST))
def list_snapshots(principal: Principal, vmid: int) -> list[dict[str, Any]]:
    """List the snapshots of a VM; the last entry is the VM as it is now."""
    found = services().snapshots.read(principal, vmid)
    entries = [_entry(snapshot) for snapshot in found.snapshots]
    return [*entries, _current(found, entries)]


@blueprint.route("/vm/<vmid>/snapshots", methods=["POST"])
@requires(Scope.BACKUP_VM)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.arguments(SnapshotBody(), as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 413, 415, 503)
@blueprint.response(200, SnapshotQueuedSchema(), example=_queued("create"))
def create_snapshot(principal: Principal, vmid: int, name: str, description: str | None) -> dict[str, Any]:
    """Take a snapshot of a running VM."""
    note(snapshot=name)
    return _job("create", services().snapshots.create(principal, vmid, name, description))


@blueprint.route("/vm/<vmid>/snapshots", methods=["DELETE"])
@requires(Scope.BACKUP_VM)
@blueprint.arguments(VmPath(), location="path", as_kwargs=True)
@blueprint.arguments(SnapshotActionQuery(), location="query", as_kwargs=True)
@blueprint.fails(400, 401, 403, 404, 409, 503)
@blueprint.response(
    200,
    SnapshotActionSchema(),
    examples={"rollback": {"value": _queued("rollback")}, "delete": {"value": _queued("delete")}},
)
def act_on_snapshot(principal: Principal, vmid: int, action: str, name: str) -> dict[str, Any]:
    """Take a VM back to a snapshot (its running commands end as lost), or delete the snapshot."""
    note(action=action, snapshot=name)
    act = services().snapshots.restore if action == "rollback" else services().snapshots.delete
    return _job(action, act(principal, vmid, name))


def _job(action: str, job: Job) -> dict[str, Any]:
    return {
        "success": True,
        "job_id": job.id,
        "action": action,
        "name": job.snapshot,
        "message": f"Snapshot {action} queued",
    }


def _entry(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "name": snapshot.name,
        "description": snapshot.description or "",
        "taken_at_s": int(snapshot.taken_at.timestamp()),
        "includes_memory": int(snapshot.includes_memory),
    }


def _current(found: SnapshotsView, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Make the pseudo entry that Proxmox has; its digest changes when the list does."""
    return {
        "name": "current",
        "description": "You are here!",
        "digest": hashlib.sha1(json.dumps(entries).encode(), usedforsecurity=False).hexdigest(),
        "running": int(found.vm_view.vm.running),
    }
