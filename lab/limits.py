"""Limits for systems that are asked more than anybody may ask for: by tests, fault runs and benchmarks.

They count as the product's own do, so that what counting costs is there, and are never reached.
"""

HIGH_LIMITS = {
    "RATE_LIMIT_READS": "100000000/minute",
    "RATE_LIMIT_EXEC": "100000000/minute",
    "RATE_LIMIT_POWER": "100000000/minute",
    "RATE_LIMIT_FAILED_AUTH": "100000000/minute",
    "EXEC_MAX_RUNNING_PER_VM": "100000000",
    "EXEC_MAX_RUNNING_PER_KEY": "100000000",
}
"""Put these into the environment of the web half."""
