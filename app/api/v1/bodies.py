"""The data of v1 answers, made from records: which fields there are when, and what they say."""

from datetime import datetime
from typing import Any

from app.api.command_bodies import exec_result
from app.api.timestamps import seconds_since, timestamp
from app.core import ids
from app.core.records import Command, Job, JobState, PowerAction
from app.inventory import VmView
from app.results import Reach, Result

ESTIMATED_TIMES_S = {
    PowerAction.START: 30,
    PowerAction.STOP: 10,
    PowerAction.SHUTDOWN: 60,
    PowerAction.RESTART: 60,
    PowerAction.RESET: 10,
}
"""Rough guesses for people; 30 for a start is HostUp's example. Nothing in OwnUp waits this long because of them."""


def vm_summary(view: VmView) -> dict[str, Any]:
    """Make a VM of a list."""
    vm = view.vm
    return {
        "vmid": vm.vmid,
        "vps_id": ids.vps_id(vm.vmid),
        "name": vm.name,
        "node": vm.node,
        "status": vm.status,
        "running": vm.running,
    }


def vm_status(view: VmView, now: datetime) -> dict[str, Any]:
    """Make the status of a VM."""
    vm = view.vm
    return {
        "success": True,
        "vmid": vm.vmid,
        "name": vm.name,
        "node": vm.node,
        "status": vm.status,
        "running": vm.running,
        "last_pid": view.last_pid,
        "qemu_pid": vm.qemu_pid,
        "uptime_s": seconds_since(vm.booted_at, now),
        "cpus": vm.cpus,
        "cpu": vm.cpu,
        "mem_bytes": vm.mem_bytes,
        "maxmem_bytes": vm.maxmem_bytes,
        "netin_bytes": vm.netin_bytes,
        "netout_bytes": vm.netout_bytes,
        "diskread_bytes": vm.diskread_bytes,
        "diskwrite_bytes": vm.diskwrite_bytes,
        "agent": vm,
    }


def exec_started(command: Command, line: str) -> dict[str, Any]:
    """Make the answer to a command that was started."""
    return {"success": True, "pid": command.pid, "command": line, "message": "Command execution started"}


def exec_run(reach: Reach, result: Result, line: str) -> dict[str, Any]:
    """Make the answer to a command that was started and whose end was waited for."""
    return exec_started(result.command, line) | exec_result(reach, result, None)


def exec_probe(view: VmView) -> dict[str, Any]:
    """Make the answer to whether a command can run."""
    return {
        "success": True,
        "available": view.vm.agent_available,
        "message": view.vm.agent_message,
        "running": view.vm.running,
    }


def power_queued(job: Job) -> dict[str, Any]:
    """Make the answer to a power action that was queued."""
    return {
        "success": True,
        "action": job.kind,
        "job_id": job.id,
        "message": f"{job.kind} operation queued",
        "estimated_time_s": ESTIMATED_TIMES_S[PowerAction(job.kind)],
    }


def job_status(job: Job) -> dict[str, Any]:
    """Make the answer to how far a job has come.

    Source: HostUp v1 docs, GET jobs. ``statusKey`` and ``progressTextKey`` name texts of HostUp's panel; ours are
    made alike.
    """
    message = job.message or f"{job.kind} operation {job.state}"
    return {
        "job_id": job.id,
        "queue_type": "vm-power" if job.snapshot is None else "vm-snapshot",
        "type": job.kind,
        "state": job.state,
        "status": job.state,
        "progress": job.progress,
        "progress_text_key": f"jobs.progress.{job.kind}",
        "progress_details": {"percentage": job.progress, "message": message, "current": job.progress, "total": 100},
        "progress_message": message,
        "message": message,
        "result": _job_result(job, message),
        "is_completed": job.state is JobState.COMPLETED,
        "is_failed": job.state is JobState.FAILED,
        "is_running": job.state is JobState.RUNNING,
        "is_waiting": job.state is JobState.QUEUED,
        "created_at": timestamp(job.created_at),
        "finished_at": job.finished_at and timestamp(job.finished_at),
        "job_name": f"{job.kind} VM {job.vmid}",
        "vm_id": str(job.vmid),
        "is_scheduled": False,
        "delay": 0,
        "status_key": f"jobs.status.{job.state}",
    }


def _job_result(job: Job, message: str) -> dict[str, Any] | None:
    if job.finished_at is None:
        return None
    return {
        "success": job.state is JobState.COMPLETED,
        "type": job.kind,
        "result": {"message": message},
        "timestamp": timestamp(job.finished_at),
    }
