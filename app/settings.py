"""Settings of the web half: which environment variables it reads."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Self

from app.core.env import variable
from app.core.redis_url import RedisUrl
from app.rates import Rates


class _Choice(StrEnum):
    """A variable that is one of a few words."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one of the words.

        Raises:
            ValueError: It is none of them.
        """
        if text not in set(cls):
            raise ValueError(f"must be {' or '.join(cls)}")
        return cls(text)


class AuditCommands(_Choice):
    """How a command stands in the audit trail."""

    HASH = "hash"
    FULL = "full"


class Switch(_Choice):
    """Whether something is done."""

    OFF = "off"
    ON = "on"


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The web half's part of the environment; each variable is explained where it is declared."""

    redis_url: RedisUrl = variable(
        "REDIS_URL", "redis://127.0.0.1:6379/0", "The one Redis that all web processes and workers share."
    )
    redis_timeout_s: float = variable(
        "REDIS_TIMEOUT_S",
        "2",
        "How long Redis may take to answer before a request gets 503.",
        unit="seconds",
        minimum=0.1,
    )
    host: str = variable("HOST", "127.0.0.1", "Address the web server listens on.")
    port: int = variable("PORT", "8000", "TCP port the web server listens on.", minimum=1)
    processes: int = variable("WEB_PROCESSES", "2", "Number of web server processes.", minimum=1)
    threads: int = variable(
        "WEB_THREADS",
        "1024",
        "Requests that one web process works on at the same time; at most half of them wait for the end of a command.",
        minimum=2,
    )
    cpu_affinity: Switch = variable(
        "WEB_CPU_AFFINITY",
        "on",
        "Whether each web process stays on a CPU of its own, on or off: it answers about a quarter more there.",
    )
    client_stall_s: float = variable(
        "CLIENT_STALL_S",
        "30",
        "How long a client may take for the head of a request, and let its body or the answer stand still.",
        unit="seconds",
        minimum=0.1,
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = variable(
        "TRUSTED_PROXIES",
        "",
        "Addresses and networks, separated by commas, of proxies whose X-Forwarded-For, -Proto and -Host count.",
    )
    log_level: str = variable("LOG_LEVEL", "INFO", "Least level of log lines: DEBUG, INFO, WARNING or ERROR.")
    max_body_bytes: int = variable(
        "MAX_BODY_BYTES", "1500000", "Largest request body that is accepted.", unit="bytes", minimum=1
    )
    exec_start_timeout_s: float = variable(
        "EXEC_START_TIMEOUT_S",
        "10",
        "Delivery deadline: a command that no worker has taken by then doesn't run any more.",
        unit="seconds",
        minimum=0.1,
    )
    exec_ttl_s: int = variable(
        "EXEC_TTL_S", "86400", "How long the result of a command can be read again.", unit="seconds", minimum=1
    )
    exec_kill_wait_s: float = variable(
        "EXEC_KILL_WAIT_S",
        "12",
        "How long a request to kill a command waits for its end: TERM, 5 seconds, KILL, and a little.",
        unit="seconds",
        minimum=0,
    )
    exec_max_running_per_vm: int = variable(
        "EXEC_MAX_RUNNING_PER_VM", "32", "How many commands and file transfers may be under way in one VM.", minimum=1
    )
    exec_max_running_per_key: int = variable(
        "EXEC_MAX_RUNNING_PER_KEY", "1000", "How many of them may be under way of one API key.", minimum=1
    )
    rate_limit_reads: Rates = variable(
        "RATE_LIMIT_READS",
        "6000/minute",
        "Requests of one API key that only read: like 10/second;6000/hour, or unlimited.",
    )
    rate_limit_exec: Rates = variable(
        "RATE_LIMIT_EXEC", "600/minute", "All other requests of one API key but for those of RATE_LIMIT_POWER."
    )
    rate_limit_power: Rates = variable(
        "RATE_LIMIT_POWER", "60/minute", "Requests of one API key for power actions and for snapshots."
    )
    rate_limit_failed_auth: Rates = variable(
        "RATE_LIMIT_FAILED_AUTH",
        "30/minute",
        "Wrong keys and tokens from one address, or from one /64 of IPv6; then only keys known to be right are served.",
    )
    job_start_timeout_s: float = variable(
        "JOB_START_TIMEOUT_S",
        "60",
        "A power job that no worker has started by then isn't carried out any more.",
        unit="seconds",
        minimum=0.1,
    )
    file_limit_bytes: int = variable(
        "FILE_LIMIT_BYTES", "104857600", "Largest file that is sent to a guest or read from one.", unit="bytes",
        minimum=1,
    )  # fmt: skip
    file_stall_s: float = variable(
        "FILE_STALL_S", "30", "How long the transfer of a file may stand still before it is broken off.",
        unit="seconds", minimum=1,
    )  # fmt: skip
    guard_rules_files: tuple[Path, ...] = variable(
        "GUARD_RULES_FILES", "", "More TOML files with rules for commands that are refused, separated by colons."
    )
    audit_commands: AuditCommands = variable(
        "AUDIT_COMMANDS",
        "hash",
        "How commands stand in the audit trail: hash (only their SHA-256) or full (the text too).",
    )
    audit_reads: Switch = variable(
        "AUDIT_READS",
        "off",
        "Whether plain reads are in the audit trail too: on or off. Clients that poll push everything else out of it.",
    )
    audit_max_entries: int = variable(
        "AUDIT_MAX_ENTRIES", "100000", "How many entries the audit trail keeps in Redis, some 1 KB each.", minimum=1
    )
    audit_secret: str = variable(
        "AUDIT_SECRET", "", "Makes the hashes of the audit trail HMACs, so that nobody without it can make up a chain."
    )
