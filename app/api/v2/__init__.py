"""HostUp's API v2: bare resources, operations, problem documents."""
