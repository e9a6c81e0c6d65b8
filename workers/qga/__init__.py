"""The guest-agent client, from bytes to the one connection that a VM's agent has.

``wire`` knows bytes and shapes, ``session`` one synchronised connection, ``channel`` who may hold one and for how long.
Nothing in here knows records, RQ or Redis.
"""
