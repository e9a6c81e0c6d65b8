"""HostUp v1: ``/api``, the envelope ``{success, timestamp, requestId, data}``, the error body of five fields."""
