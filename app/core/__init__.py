"""The contract between the web half and the node half: errors, ids, records, Redis keys, settings, logs.

Nothing in here knows Flask, RQ or QEMU.
"""
