"""What travels through RQ: the names of queues and of the coroutine jobs. Only record ids go with them."""

START_COMMAND = "workers.jobs.start_command"
"""Starts a command; the arguments are its record's id and its vmid."""

KILL_COMMAND = "workers.jobs.kill_command"
"""Kills a running command; the argument is its record's id."""

MOVE_FILE = "workers.jobs.move_file"
"""Reads or writes a file in a guest; the arguments are its record's id and its vmid."""

RUN_JOB = "workers.jobs.run_job"
"""Carries out the job whose record's id is the only argument."""

ASK_AGENT = "workers.jobs.ask_agent"
"""Performs a guest call; the arguments are its record's id and its vmid."""


def queue_name(node: str) -> str:
    """Name the RQ queue that the worker of a node consumes."""
    return f"node-{node}"
