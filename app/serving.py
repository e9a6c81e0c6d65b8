"""How gunicorn serves the web half: a configuration module, one name a gunicorn setting.

Source: gunicorn docs, Settings.
"""

import os

from app.core.env import load
from app.order import LONGEST_WAIT_S
from app.settings import WebSettings

_SETTINGS = load(WebSettings, os.environ)

bind = f"{_SETTINGS.host}:{_SETTINGS.port}"
worker_class = "gthread"  # an answer of megabytes holds up a loop of greenlets, and threads hardly: see bench/README.md
workers = _SETTINGS.processes
threads = _SETTINGS.threads  # made when they are needed; one that waits costs some 30 KB
worker_connections = _SETTINGS.threads + 1000  # those without a request under way are kept beside the threads
timeout = 30  # seconds without a sign of life of the process, not of a request
graceful_timeout = (
    int(max(_SETTINGS.exec_start_timeout_s + 5 + LONGEST_WAIT_S, _SETTINGS.exec_kill_wait_s)) + 10
)  # the usual longest answers
keepalive = 75  # seconds; clients that poll keep their connection
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
control_socket_disable = True  # it would be made outside of what OwnUp is told to write to
accesslog = None  # the application logs each request itself
errorlog = "-"
loglevel = _SETTINGS.log_level.lower()
