"""How gunicorn serves the web half: a configuration module, one name a gunicorn setting.

Source: gunicorn docs, Settings.
"""

import os
import sys
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import Any

from app import cpu_affinity
from app.connection_shares import Shares
from app.core.env import load
from app.core.memory import keep_freed
from app.core.redis_url import insist_on_access
from app.core.secrecy import forbid_core_files
from app.order import LONGEST_WAIT_S
from app.settings import Switch, WebSettings
from app.slow_clients import PatientWorker

keep_freed()
_SETTINGS = load(WebSettings, os.environ)
insist_on_access(_SETTINGS.redis_url, _SETTINGS.redis_timeout_s)
_KEPT_CONNECTIONS = 1000
_OTHER_FILES = 64


class _Worker(PatientWorker):
    stall_s = _SETTINGS.client_stall_s
    shares = Shares(_SETTINGS.processes)


def _most_connections(threads: int) -> int:
    """Tell how many connections a process may have: as many as are wanted, if it may open so many files.

    Effect: the limit of open files is raised as far as is needed and allowed.
    """
    others = threads + _OTHER_FILES  # a thread may have a connection to Redis too
    soft, hard = (sys.maxsize if limit == RLIM_INFINITY else limit for limit in getrlimit(RLIMIT_NOFILE))
    connections = max(_OTHER_FILES, min(threads + _KEPT_CONNECTIONS, hard - others))
    if soft < connections + others:
        setrlimit(RLIMIT_NOFILE, (min(hard, connections + others), getrlimit(RLIMIT_NOFILE)[1]))
    return connections


forbid_core_files()
bind = f"{_SETTINGS.host}:{_SETTINGS.port}"
worker_class = _Worker  # an answer of megabytes holds up a loop of greenlets, and threads hardly: see bench/README.md
workers = _SETTINGS.processes
threads = _SETTINGS.threads  # made when they are needed; one that waits costs some 30 KB
worker_connections = _most_connections(threads)  # those without a request under way are kept beside the threads
timeout = 30  # seconds without a sign of life of the process, not of a request
graceful_timeout = (
    int(max(_SETTINGS.exec_start_timeout_s + 5 + LONGEST_WAIT_S, _SETTINGS.exec_kill_wait_s)) + 10
)  # the usual longest answers
keepalive = 75  # seconds; clients that poll keep their connection
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190  # all together: see slow_clients
sendfile = False  # it would wait for slow clients without an end
forwarded_allow_ips = ""  # which proxies are trusted is TRUSTED_PROXIES' business alone
forwarder_headers = ""
control_socket_disable = True  # it would be made outside of what OwnUp is told to write to
accesslog = None  # the application logs each request itself
errorlog = "-"
loglevel = "info" if _SETTINGS.log_level.upper() == "DEBUG" else _SETTINGS.log_level.lower()  # see app.core.logs


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Give a process what is its own."""
    _Worker.shares.choose(arbiter, worker)
    if _SETTINGS.cpu_affinity is Switch.ON:
        cpu_affinity.choose(arbiter, worker)


if _SETTINGS.cpu_affinity is Switch.ON:
    post_fork = cpu_affinity.keep
