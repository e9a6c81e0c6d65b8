"""Everything OwnUp keeps in Redis outside RQ: each key, each script, each time to live.

An operation is a ``Call``: one Redis command and the way to read its reply. Most are scripts, so that each is atomic
and one round trip. Deadlines are judged by Redis's clock, the only one that all hosts share. Scripts derive keys from
their arguments, so a Redis Cluster isn't supported.

=============================== ====== =====================================================================
key                             type   holds
=============================== ====== =====================================================================
``ownup:cmd:<id>``              hash   a ``Command``
``ownup:cmd:<id>:request``      hash   its ``CommandRequest``, until it has started or ended; expires
``ownup:cmd:<id>:out``/``:err`` string its output, compressed by zstd
``ownup:cmd:<id>:parts``        hash   its output where that is bulky, in parts; ``…:new`` until the record says that it
                                       ended
``ownup:pid:<vmid>:<pid>``      string id of the latest command that got this pid
``ownup:vm:<vmid>``             hash   a ``Vm``
``ownup:vm:<vmid>:pid``         string guest pid of the VM's latest command
``ownup:vm:<vmid>:commands``    zset   ids of the VM's commands by the time of their making; loses what has expired
``ownup:vm:<vmid>:open``        set    ids of the VM's commands that have not ended; ``ownup:key:<id>:open``: of a key's
``ownup:vm:<vmid>:snapshots``   string its ``VmSnapshots`` as JSON, as its worker told them
``ownup:vm:<vmid>:notes``       hash   what QEMU doesn't keep of its snapshots, as JSON, by name
``ownup:metrics:<a>:<vmid>:<t>`` string what a VM has used, a ring for each timeframe; expires unless written
``ownup:disks:<a>:<vmid>``      string its ``Disk`` records as JSON; expires a week after they were last told
``ownup:account:<a>:vms``       set    vmids of an account; ``ownup:vms``: of all
``ownup:account:<a>:sshkeys``   hash   its ``SshKey`` records as JSON, by fingerprint
``ownup:account:<a>:keys``      set    ids of its API keys that aren't revoked
``ownup:account:<a>:revoked``   zset   ids of the latest of its API keys that are, by when
``ownup:sshkeys:last``          string number of the latest SSH key
``ownup:node:<n>``              string a ``Node`` as JSON; expires when its worker stops beating
``ownup:node:<n>:open``         set    ids of the node's commands that have not ended
``ownup:node:<n>:jobs``         set    ids of the node's jobs that have not ended
``ownup:nodes``                 set    names of all nodes ever seen
``ownup:job:<id>``              hash   a ``Job``
``ownup:file:<id>:bytes``/``:word`` list messages of the transfer of a file; expires
``ownup:call:<id>``             hash   a ``GuestCall``; expires
``ownup:call:<id>:secret``      string what goes with it, until a worker has it; expires
``ownup:key:<id>``              hash   an ``ApiKey``
``ownup:accounts``              set    accounts that have had an API key
``ownup:token:<sha>``           hash   a ``Token``, by the digest of what its owner shows; expires
``ownup:idem:<a>:<vmid>:<sha>`` hash   what an ``Idempotency-Key`` stands for
``ownup:limit:…``               string how much of a limit is used, as the library ``limits`` keeps it; expires
``ownup:audit``                 stream the audit trail: ``entry`` and its ``hash``; bounded
``ownup:audit:head``            hash   where it begins and ends: ``seq``, ``hash``, ``first``, ``seal``
``ownup:audit:open``            hash   requests whose entry comes when they end, by their ids
``ownup:wake`` (channel)               ids of records that have just changed; a command's with its state and pid, and
                                       at its end with its result
=============================== ====== =====================================================================
"""

from app.core.store import (
    audit,
    commands,
    disks,
    files,
    guest_calls,
    idempotency,
    jobs,
    keys,
    metrics,
    nodes,
    snapshots,
    ssh_keys,
    tokens,
    vms,
)
from app.core.store.calls import (
    WAKE_CHANNEL,
    AsyncStore,
    Call,
    PatientStore,
    Store,
    all_of,
    is_away,
    ping,
    script,
    tell_absence,
    time,
)
from app.core.store.lines import Lines
from app.core.store.sight import EVERYTHING, Sight

__all__ = [
    "EVERYTHING",
    "WAKE_CHANNEL",
    "AsyncStore",
    "Call",
    "Lines",
    "PatientStore",
    "Sight",
    "Store",
    "all_of",
    "audit",
    "commands",
    "disks",
    "files",
    "guest_calls",
    "idempotency",
    "is_away",
    "jobs",
    "keys",
    "metrics",
    "nodes",
    "ping",
    "script",
    "snapshots",
    "ssh_keys",
    "tell_absence",
    "time",
    "tokens",
    "vms",
]
