"""The client for QEMU's own monitor (QMP): one VM's power state, events and figures, from QEMU itself.

``replies`` knows the shapes QEMU answers with, ``lock`` who may hold a socket on this host, ``process`` which process
is a QEMU, ``monitor`` the connection. Nothing in here knows records, RQ or Redis.
"""
