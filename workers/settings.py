"""What the node half can be told by environment variables."""

from dataclasses import dataclass
from pathlib import Path

from app.core.env import variable
from app.core.redis_url import RedisUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of one worker: one node, all its VMs."""

    redis_url: RedisUrl = variable("REDIS_URL", "redis://127.0.0.1:6379/0", "The Redis both halves share")
    redis_timeout_s: float = variable(
        "REDIS_TIMEOUT_S", "2", "How long to wait for Redis before it counts as away", unit="seconds", minimum=0.1
    )
    log_level: str = variable("LOG_LEVEL", "INFO", "Least level of log lines that are written")
    run_as: str = variable(
        "RUN_AS", "", "User, or user:group, that a worker started by root becomes for good; empty: it stays who it is"
    )
    node_name: str = variable("NODE_NAME", "node-1", "Name of this host in the fleet; its queue is node-<name>")
    vm_dir: Path = variable("VM_DIR", "/etc/ownup/vms", "Folder of this node's VM definitions, *.toml")
    vm_scan_s: float = variable(
        "VM_SCAN_S", "2", "How often VM_DIR is looked at for changes", unit="seconds", minimum=0.1
    )
    spool_dir: Path = variable(
        "SPOOL_DIR", "/var/lib/ownup/spool", "Folder for results that Redis doesn't have yet; one worker per folder"
    )
    exec_ttl_s: int = variable(
        "EXEC_TTL_S", "86400", "How long a command's result can be read after its end", unit="seconds", minimum=1
    )
    exec_output_limit_bytes: int = variable(
        "EXEC_OUTPUT_LIMIT_BYTES", "16777216", "How much of each output stream is kept", unit="bytes", minimum=1
    )
    agent_sync_timeout_s: float = variable(
        "AGENT_SYNC_TIMEOUT_S", "3", "How long a guest agent may take to answer a new connection", unit="seconds",
        minimum=0.1,
    )  # fmt: skip
    agent_rpc_timeout_s: float = variable(
        "AGENT_RPC_TIMEOUT_S", "5", "How long a guest agent may take to answer a short request", unit="seconds",
        minimum=0.1,
    )  # fmt: skip
    agent_idle_close_s: float = variable(
        "AGENT_IDLE_CLOSE_S", "0",
        "Let an agent socket go after so long without use, for other software that shares it; 0 keeps it",
        unit="seconds", minimum=0,
    )  # fmt: skip
    agent_probe_s: float = variable(
        "AGENT_PROBE_S", "10", "How often a VM without a working agent is asked again", unit="seconds", minimum=0.1
    )
    kill_grace_s: float = variable(
        "KILL_GRACE_S", "5", "Between TERM and KILL when a command is killed", unit="seconds", minimum=0.1
    )
    agent_lost_s: float = variable(
        "AGENT_LOST_S", "300",
        "How long an agent may be away before the commands it was running count as lost", unit="seconds", minimum=1,
    )  # fmt: skip
    file_stall_s: float = variable(
        "FILE_STALL_S", "30", "How long the transfer of a file may stand still before it is broken off",
        unit="seconds", minimum=1,
    )  # fmt: skip
    figures_s: float = variable(
        "FIGURES_INTERVAL_S", "5", "How often a VM's CPU, memory, network and disk figures are read", unit="seconds",
        minimum=0.5,
    )  # fmt: skip
    shutdown_timeout_s: float = variable(
        "SHUTDOWN_TIMEOUT_S", "60", "How long a guest may take to shut down or reboot when asked", unit="seconds",
        minimum=1,
    )  # fmt: skip
    snapshot_limit: int = variable("SNAPSHOT_LIMIT", "5", "How many snapshots a VM may have", minimum=0)
    snapshot_timeout_s: float = variable(
        "SNAPSHOT_TIMEOUT_S", "300", "How long QEMU may take to save, load or delete a snapshot", unit="seconds",
        minimum=1,
    )  # fmt: skip
    qemu_binary: str = variable("QEMU_BINARY", "qemu-system-x86_64", "The QEMU that starts VMs with a [machine]")
    qemu_img_binary: str = variable(
        "QEMU_IMG_BINARY", "qemu-img", "The qemu-img that knows the snapshots of VMs that are off"
    )
    qemu_accel: str = variable(
        "QEMU_ACCEL", "", "Accelerator for VMs started here: kvm or tcg; empty tries kvm, then tcg"
    )
