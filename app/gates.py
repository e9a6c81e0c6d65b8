"""Action gates: what can be done to a VM as it is now, and why not. Published by reads, and insisted on by writes.

Source: HostUp v2 docs, action gates. Judges by what the VM's worker last told; the worker looks again before it acts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.core.errors import GateClosedError
from app.core.records import PowerAction, Vm, VmStatus
from app.dispatch import insist_on_node
from app.inventory import VmView


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether something can be done.

    Attributes:
        reason: Why not, for people; ``None`` where it can.
        code: Why not, for programs.
    """

    reason: str | None = None
    code: str | None = None

    @property
    def allowed(self) -> bool:
        """Whether it can be done."""
        return self.reason is None


OPEN = Gate()
_NO_MONITOR = Gate("Its definition names no QEMU monitor, so only its guest can be asked to shut down", "no_monitor")
_NO_MACHINE = Gate("Its definition has no machine, so its node can't start it", "not_startable")


def power_gates(view: VmView) -> Mapping[PowerAction, Gate]:
    """Judge every power action."""
    if not view.node_alive:
        return dict.fromkeys(PowerAction, Gate(view.vm.agent_message, "node_unavailable"))
    return {action: judge(view.vm) for action, judge in _JUDGES.items()}


def insist_on_power(view: VmView, action: PowerAction, *, force: bool) -> None:
    """Insist that a power action makes sense as the VM is now.

    Args:
        view: The VM.
        action: What is wanted.
        force: A restart that is forced is a reset.

    Raises:
        NodeUnavailableError: Nobody knows how the VM is.
        GateClosedError: It doesn't.
    """
    insist_on_node(view)
    judged = PowerAction.RESET if force and action is PowerAction.RESTART else action
    gate = _JUDGES[judged](view.vm)
    if gate.reason is not None and gate.code is not None:
        raise GateClosedError(gate_name(action), gate.reason, gate.code)


def guest_gate(view: VmView) -> Gate:
    """Judge whether something can be changed in the guest, through its agent."""
    if not view.node_alive:
        return Gate(view.vm.agent_message, "node_unavailable")
    if not view.vm.running:
        return _is(view.vm)
    return OPEN if view.vm.agent_available else Gate(view.vm.agent_message, "agent_unavailable")


def gate_name(action: PowerAction) -> str:
    """Name the gate of a power action, as HostUp v2 does."""
    return f"can{action.capitalize()}"


def _judge_start(vm: Vm) -> Gate:
    if not vm.startable:
        return _NO_MACHINE
    return OPEN if vm.status in {VmStatus.STOPPED, VmStatus.UNKNOWN} else _is(vm)


def _judge_stop(vm: Vm) -> Gate:
    if not vm.has_monitor:
        return _NO_MONITOR
    return _is(vm) if vm.status is VmStatus.STOPPED else OPEN


def _judge_shutdown(vm: Vm) -> Gate:
    return _is(vm) if vm.status in {VmStatus.STOPPED, VmStatus.STOPPING, VmStatus.PAUSED} else OPEN


def _judge_restart(vm: Vm) -> Gate:
    if not vm.has_monitor:
        return _NO_MONITOR
    return _judge_shutdown(vm)


def _is(vm: Vm) -> Gate:
    return Gate(f"The VPS is {vm.status}", f"vps_{vm.status}")


_JUDGES: Mapping[PowerAction, Callable[[Vm], Gate]] = {
    PowerAction.START: _judge_start,
    PowerAction.STOP: _judge_stop,
    PowerAction.SHUTDOWN: _judge_shutdown,
    PowerAction.RESTART: _judge_restart,
    PowerAction.RESET: _judge_stop,
}
