"""The data of v2 answers, made from records: which fields there are when, and what they say.

A GB is 2^30 bytes, as it is to QEMU and to whoever sizes a VM; a MB and a KB likewise.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from app import gates
from app.api.setting_fields import HOSTNAME_PATTERN, HOSTNAME_RULE, MAX_HOSTNAME_CHARS
from app.api.timestamps import seconds_since, timestamp
from app.api.v2.schemas import OPERATION_STATUSES
from app.api.v2.vps_schemas import ServiceStatus
from app.core import ids
from app.core.records import Job, PowerAction, Vm
from app.history import Disk, Sample
from app.inventory import VmView

_KB = 1024
_MB = 1024**2
_GB = 1024**3
_DIGITS = 3


def operation(job: Job) -> dict[str, Any]:
    """Make the answer to work that takes a while.

    Source: HostUp v2 docs, operation envelope: ``pollUrl`` is v1's job route.
    """
    return {
        "operation": {
            "status": OPERATION_STATUSES[job.state],
            "job_id": job.id,
            "poll_url": f"/api/jobs/{job.id}",
            "result": None,
        }
    }


def power_actions(view: VmView) -> dict[str, gates.Gate]:
    """Make the gates of the power actions."""
    judged = gates.power_gates(view)
    return {f"can_{action}": judged[action] for action in PowerAction}


def vps(view: VmView) -> dict[str, Any]:
    """Make a VPS as lists have it."""
    vm = view.vm
    return {
        "id": ids.vps_id(vm.vmid),
        "vmid": vm.vmid,
        "name": vm.name,
        "primary_ip": None,
        "service_status": ServiceStatus.ACTIVE,
        "power_state": vm.status,
        "operating_system": None,
        "billing": None,
        "resources": _resources(vm),
    }


def vps_alone(view: VmView) -> dict[str, Any]:
    """Make a VPS that was asked for by itself."""
    return vps(view) | {"actions": power_actions(view)}


def vps_details(view: VmView, hostname: str | None) -> dict[str, Any]:
    """Make a VPS with what is known of its service."""
    return (
        vps_alone(view)
        | _resources(view.vm)
        | dict.fromkeys(("product_name", "created_at", "next_due_at", "bandwidth"))
        | {"hostname": hostname, "backups_included": 0}
    )


def vps_status(view: VmView, now: datetime) -> dict[str, Any]:
    """Make the status of a VPS."""
    vm = view.vm
    return {
        "id": ids.vps_id(vm.vmid),
        "power_state": vm.status,
        "uptime_s": seconds_since(vm.booted_at, now),
        "cpu_usage_percent": _percent(vm.cpu),
        "cpu_cores": vm.cpus,
        "memory": _used(vm.mem_bytes, vm.maxmem_bytes),
        "storage": _used(vm.storage_used_bytes, vm.storage_bytes),
        "network": _traffic(vm),
        "agent_available": vm.agent_available,
        "actions": power_actions(view),
    }


def metrics(vps_id: str, timeframe: str, samples: Iterable[Sample]) -> dict[str, Any]:
    """Make what a VPS has used."""
    return {"id": vps_id, "timeframe": timeframe, "samples": [_sample(sample) for sample in samples]}


def disk(vmid: int, found: Disk) -> dict[str, Any]:
    """Make one disk with how much it was used."""
    free_bytes = None
    if found.size_bytes is not None and found.used_bytes is not None:
        free_bytes = max(found.size_bytes - found.used_bytes, 0)
    return {
        "id": ids.disk_id(vmid, found.name),
        "name": found.name,
        "type": None,
        "device": None,
        "is_cdrom": found.removable,
        "boot_order": None,
        "capacity": _used(found.used_bytes, found.size_bytes) | {"free_gb": _in(_GB, free_bytes)},
        "io": {
            "read_gb": _in(_GB, found.read_bytes),
            "write_gb": _in(_GB, found.written_bytes),
            "read_operations": found.reads,
            "write_operations": found.writes,
        },
    }


def hostname(view: VmView, found: str | None) -> dict[str, Any]:
    """Make the hostname of a VPS."""
    return {
        "hostname": found,
        "reload_recommended": False,
        "account_inactive": False,
        "account_status": None,
        "cache_cleared": False,
        "actions": {"can_change": gates.guest_gate(view)},
        "validation_rules": {
            "max_length_chars": MAX_HOSTNAME_CHARS,
            "pattern": f"^{HOSTNAME_PATTERN}$",
            "pattern_description": HOSTNAME_RULE,
        },
    }


def exec_probe(view: VmView) -> dict[str, Any]:
    """Make the answer to whether a command can run."""
    vm = view.vm
    return {
        "available": vm.agent_available,
        "reason": None if vm.agent_available else vm.agent_message,
        "running": vm.running,
    }


def _resources(vm: Vm) -> dict[str, Any]:
    return {
        "cpu_cores": vm.cpus,
        "memory_gb": _in(_GB, vm.maxmem_bytes),
        "storage_gb": _in(_GB, vm.storage_bytes),
    }


def _used(used_bytes: int | None, total_bytes: int | None) -> dict[str, float | None]:
    share = min(used_bytes / total_bytes, 1.0) if used_bytes is not None and total_bytes else None
    return {
        "used_gb": _in(_GB, used_bytes),
        "total_gb": _in(_GB, total_bytes),
        "usage_percent": _percent(share),
    }


def _traffic(vm: Vm) -> dict[str, float | None]:
    known = vm.netin_bytes is not None and vm.netout_bytes is not None
    return {
        "inbound_gb": _in(_GB, vm.netin_bytes),
        "outbound_gb": _in(_GB, vm.netout_bytes),
        "total_gb": _in(_GB, (vm.netin_bytes or 0) + (vm.netout_bytes or 0)) if known else None,
    }


def _sample(sample: Sample) -> dict[str, Any]:
    usage = sample.usage
    return {
        "recorded_at": timestamp(sample.recorded_at),
        "cpu_usage_percent": _percent(usage.cpu),
        "memory_usage_percent": _percent(usage.mem),
        "disk_read_mb_per_s": _in(_MB, usage.diskread_bytes_per_s),
        "disk_write_mb_per_s": _in(_MB, usage.diskwrite_bytes_per_s),
        "network_inbound_kb_per_s": _in(_KB, usage.netin_bytes_per_s),
        "network_outbound_kb_per_s": _in(_KB, usage.netout_bytes_per_s),
    }


def _in(unit_bytes: int, size_bytes: float | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / unit_bytes, _DIGITS)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(share * 100, _DIGITS)
