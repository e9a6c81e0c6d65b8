"""What a QEMU says when nothing is wrong with it: the good answers that generated ones are made of.

Each was taken from QEMU 7.2, and stripped of what nobody reads.
"""

from pathlib import Path
from typing import Any

QGA = Path("/run/ownup/10001.qga")

GREETING = {
    "QMP": {"version": {"qemu": {"micro": 17, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}
}
_SNAPSHOT = {
    "id": "1",
    "name": "before",
    "date-sec": 1_795_305_362,
    "date-nsec": 500_000_000,
    "vm-clock-sec": 3,
    "vm-clock-nsec": 1,
    "vm-state-size": 105_428_692,
    "icount": 0,
}
_IMAGE = {"virtual-size": 1_073_741_824, "actual-size": 204_800, "format": "qcow2", "snapshots": [_SNAPSHOT]}
_STATS = {"rd_bytes": 1024, "wr_bytes": 2048, "rd_operations": 3, "wr_operations": 4, "flush_operations": 0}

ANSWERS: dict[str, Any] = {
    "qmp_capabilities": {},
    "query-status": {"status": "running", "singlestep": False, "running": True},
    "query-cpus-fast": [{"cpu-index": 0, "thread-id": 7, "target": "x86_64"}, {"cpu-index": 1}],
    "query-memory-size-summary": {"base-memory": 268_435_456, "plugged-memory": 0},
    "query-blockstats": [
        {"device": "virtio0", "stats": _STATS, "node-name": "#block1"},
        {"device": "", "qdev": "/machine/cd", "stats": _STATS},
    ],
    "query-chardev": [
        {"label": "qga", "frontend-open": True, "filename": f"unix:{QGA},server=on"},
        {"label": "qmp", "frontend-open": True, "filename": "disconnected:unix:/run/ownup/10001.qmp,server=on"},
    ],
    "query-block": [
        {
            "device": "virtio0",
            "removable": False,
            "locked": False,
            "inserted": {"node-name": "#block1", "drv": "qcow2", "ro": False, "image": _IMAGE},
        },
        {"device": "", "qdev": "/machine/cd", "removable": True, "locked": False, "tray_open": False},
    ],
    "query-jobs": [
        {"id": "ownup-1", "type": "snapshot-save", "status": "running", "current-progress": 0, "total-progress": 1},
        {"id": "ownup-2", "type": "snapshot-save", "status": "concluded", "error": "No space left on device"},
    ],
    "qemu-img info": _IMAGE | {"filename": "web-1.qcow2", "cluster-size": 65536},
}
"""A good answer to each query that the worker makes."""

EVENTS = [
    {"event": "VSERPORT_CHANGE", "data": {"open": True, "id": "qga0"}},
    {"event": "RESET", "data": {"guest": True, "reason": "guest-reset"}},
    {"event": "STOP"},
    {"event": "RESUME"},
    {"event": "JOB_STATUS_CHANGE", "data": {"status": "concluded", "id": "ownup-1"}},
]
