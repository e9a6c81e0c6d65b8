"""The data of v1 answers, made from records: which fields there are when, and what they say."""

import base64
from datetime import datetime
from typing import Any

from app.api.v1.timestamps import timestamp
from app.commands import Result
from app.core import ids
from app.core.records import Command, CommandState, Job, JobState, PowerAction, Vm
from app.inventory import VmView

ESTIMATED_TIMES_S = {
    PowerAction.START: 30,
    PowerAction.STOP: 10,
    PowerAction.SHUTDOWN: 60,
    PowerAction.RESTART: 60,
}
"""Rough guesses for people; 30 for a start is HostUp's example. Nothing in OwnUp waits this long because of them."""

NO_EXIT_CODE = -1
"""What a command that ended without one of its own reads as, so that a client that waits for one gets out."""

_SIGNAL_BASE = 128
"""Source: POSIX.1-2017, Shell Command Language, 2.8.2: the exit status of a signal is above 128; shells add 128."""

_MESSAGES = {
    CommandState.QUEUED: "Command is queued",
    CommandState.RUNNING: "Command is still running",
    CommandState.FAILED: "Command was refused; it has not run",
    CommandState.EXPIRED: "Command was not delivered in time; it has not run",
    CommandState.TIMED_OUT: "Command ran into its timeout; its process group was killed",
    CommandState.CANCELLED: "Command was cancelled; its process group was killed",
    CommandState.LOST: "Command ran, and its result can't be known any more",
    CommandState.UNKNOWN: "Command may have run; the guest agent didn't reply",
}


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
        "uptime_s": _uptime_s(vm, now),
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


def exec_run(view: VmView, result: Result, line: str) -> dict[str, Any]:
    """Make the answer to a command that was started and whose end was waited for."""
    return exec_started(result.command, line) | exec_result(view, result, None)


def exec_probe(view: VmView) -> dict[str, Any]:
    """Make the answer to whether a command can run."""
    return {
        "success": True,
        "available": view.vm.agent_available,
        "message": view.vm.agent_message,
        "running": view.vm.running,
    }


def exec_result(view: VmView, result: Result, encoding: str | None) -> dict[str, Any]:
    """Make the result of a command, as far as there is one."""
    command = result.command
    return (
        {
            "success": True,
            "pid": command.pid,
            "exited": command.state.ended,
            "stdout": _text(result.stdout, encoding),
            "stderr": _text(result.stderr, encoding),
            "available": view.vm.agent_available,
            "running": view.vm.running,
            "state": command.state,
            "message": _message(command),
        }
        | _end(command)
        | ({"encoding": encoding} if encoding else {})
        | ({"out_truncated": True} if command.out_truncated else {})
        | ({"err_truncated": True} if command.err_truncated else {})
    )


def exec_killed(command: Command) -> dict[str, Any]:
    """Make the answer to a kill, of a command that may have ended or not."""
    return {
        "success": True,
        "pid": command.pid,
        "exited": command.state.ended,
        "state": command.state,
        "message": _message(command) if command.state.ended else "Kill requested; the command has not ended yet",
    } | _end(command)


def power_queued(job: Job) -> dict[str, Any]:
    """Make the answer to a power action that was queued."""
    return {
        "success": True,
        "action": job.action,
        "job_id": job.id,
        "message": f"{job.action} operation queued",
        "estimated_time_s": ESTIMATED_TIMES_S[job.action],
    }


def job_status(job: Job) -> dict[str, Any]:
    """Make the answer to how far a job has come.

    Source: HostUp v1 docs, GET jobs. ``statusKey`` and ``progressTextKey`` name texts of HostUp's panel; ours are
    made alike.
    """
    message = job.message or f"{job.action} operation {job.state}"
    return {
        "job_id": job.id,
        "queue_type": "vm-power",
        "type": job.action,
        "state": job.state,
        "status": job.state,
        "progress": job.progress,
        "progress_text_key": f"jobs.progress.{job.action}",
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
        "job_name": f"{job.action} VM {job.vmid}",
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
        "type": job.action,
        "result": {"message": message},
        "timestamp": timestamp(job.finished_at),
    }


def _uptime_s(vm: Vm, now: datetime) -> int | None:
    return max(0, int((now - vm.booted_at).total_seconds())) if vm.booted_at else None


def _text(output: bytes, encoding: str | None) -> str:
    return base64.b64encode(output).decode() if encoding == "base64" else output.decode(errors="replace")


def _end(command: Command) -> dict[str, int]:
    if not command.state.ended:
        return {}
    signal = {} if command.signal is None else {"signal": command.signal}
    return {"exit_code": _exit_code(command)} | signal


def _exit_code(command: Command) -> int:
    """Tell the code of a command that ended by itself; a kill's is no code of the command."""
    if command.state is not CommandState.EXITED:
        return NO_EXIT_CODE
    if command.signal is not None:
        return _SIGNAL_BASE + command.signal
    return NO_EXIT_CODE if command.exit_code is None else command.exit_code


def _message(command: Command) -> str:
    if command.message:
        return command.message
    if command.state is not CommandState.EXITED:
        return _MESSAGES[command.state]
    if command.signal is not None:
        return f"Command was killed by signal {command.signal}"
    return f"Command exited with code {command.exit_code}"
