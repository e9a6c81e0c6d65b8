"""Settings of the web half: which environment variables it reads."""

from dataclasses import dataclass
from pathlib import Path

from app.core.env import variable


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The web half's part of the environment; each variable is explained where it is declared."""

    redis_url: str = variable(
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
