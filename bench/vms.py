"""Two real VMs from the lab guest: one for the product, and its twin for the raw road."""

from functools import partial

from bench.scene import Node, Scene, until
from lab import definitions, processes
from lab.definitions import DemoVm
from lab.guest import LabGuest

_BOOT_TIMEOUT_S = 120
_RELEASE_TIMEOUT_S = 10


def boot(scene: Scene, node: Node, guest: LabGuest, vmid: int, twin: int) -> None:
    """Boot both through the product; then it forgets the twin, which goes on without it."""
    scene.cleanup.callback(processes.stop_vms, scene.sockets)
    for number in (vmid, twin):
        node.define(number, definitions.render(DemoVm(number, f"bench-{number}"), scene.sockets, guest))
    for number in (vmid, twin):
        until(_BOOT_TIMEOUT_S, f"VM {number} can be started", partial(_is_stopped, scene, number))
        scene.api.post(_path(number), {"action": "start"})
    scene.await_agents((vmid, twin))
    node.drop(twin)
    until(_RELEASE_TIMEOUT_S, f"VM {twin} is let go", lambda: scene.api.find(_path(twin)) is None)


def _is_stopped(scene: Scene, vmid: int) -> bool:
    found = scene.api.find(_path(vmid))
    return bool(found and found["status"] == "stopped")


def _path(vmid: int) -> str:
    return f"/api/vm/{vmid}/status"
