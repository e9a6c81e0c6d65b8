"""The node half of OwnUp: one worker process per hypervisor host, which owns every agent and monitor socket there."""
