"""From a JSON value to a method call and back to a reply: what QEMU's generated dispatcher does for qemu-ga.

Responsible for the checks before an RPC and for the form of replies. An RPC is any method `guest_…` of the object it
serves, and the method's signature is the RPC's schema. It doesn't know what the RPCs do.

Source: QEMU, qapi/qmp-dispatch.c; the texts are those of qemu-ga 7.2.
"""

import inspect
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

NO_SUCCESS_RESPONSE = frozenset({"guest-shutdown"})
DELIMITED = frozenset({"guest-sync-delimited"})
# From a parameter's annotation to the name QEMU has for the type, and what the JSON reader makes of it.
SCHEMA_TYPES: Mapping[Any, tuple[str, tuple[type, ...]]] = {
    int: ("integer", (int,)),
    str: ("string", (str,)),
    str | None: ("string", (str,)),
    bool: ("boolean", (bool,)),
    list[str]: ("array", (list,)),
    list[str] | None: ("array", (list,)),
    int | str: ("GuestFileWhence", (int, str)),
}
INT64 = range(-(2**63), 2**63)


class RpcError(Exception):
    """The agent says no. `body` is the reply."""

    def __init__(self, desc: str, class_name: str = "GenericError") -> None:
        super().__init__(desc)
        self.body = {"error": {"class": class_name, "desc": desc}}


@dataclass
class Reply:
    """One line for the client."""

    body: Any
    delimited: bool = False

    def encode(self) -> bytes:
        """Return the line, after the sentinel byte where there is one."""
        return b"\xff" * self.delimited + json.dumps(self.body).encode() + b"\n"


async def dispatch(request: Any, rpcs: object, disabled: Container[str]) -> Reply | None:
    """Let `rpcs` do what `request` asks and return the reply; None for an RPC whose success has none.

    Effect: that of the RPC.
    """
    echo = {"id": request["id"]} if isinstance(request, dict) and "id" in request else {}
    try:
        name = _checked_name(request)
        method = _found(name, rpcs, disabled)
        value = method(rpcs, **_checked_arguments(request.get("arguments", {}), method))
        result = await value if inspect.isawaitable(value) else value
    except RpcError as error:
        return Reply(echo | error.body)
    return None if name in NO_SUCCESS_RESPONSE else Reply({"return": result} | echo, name in DELIMITED)


def supported_commands(rpcs: object, disabled: Container[str]) -> Iterator[dict[str, object]]:
    """List the RPCs as `guest-info` does."""
    for name in _methods(rpcs):
        yield {"name": name, "enabled": name not in disabled, "success-response": name not in NO_SUCCESS_RESPONSE}


def _methods(rpcs: object) -> dict[str, FunctionType]:
    return {name.replace("_", "-"): method for name, method in vars(type(rpcs)).items() if name.startswith("guest_")}


def _found(name: str, rpcs: object, disabled: Container[str]) -> FunctionType:
    method = _methods(rpcs).get(name)
    if method is None:
        raise RpcError(f"The command {name} has not been found", "CommandNotFound")
    if name in disabled:
        raise RpcError(f"Command {name} has been disabled", "CommandNotFound")
    return method


def _checked_name(request: Any) -> str:
    if not isinstance(request, dict):
        raise RpcError("QMP input must be a JSON object")
    for member, value in request.items():
        if member not in {"execute", "arguments", "id"}:
            raise RpcError(f"QMP input member '{member}' is unexpected")
        if member == "execute" and not isinstance(value, str):
            raise RpcError("QMP input member 'execute' must be a string")
        if member == "arguments" and not isinstance(value, dict):
            raise RpcError("QMP input member 'arguments' must be an object")
    if "execute" not in request:
        raise RpcError("QMP input lacks member 'execute'")
    return str(request["execute"])


def _checked_arguments(arguments: Mapping[str, Any], method: FunctionType) -> dict[str, Any]:
    schema = list(inspect.signature(method).parameters.values())[1:]
    names = {parameter.name.replace("_", "-"): parameter for parameter in schema}
    for name, parameter in names.items():
        if name in arguments:
            _check_type(name, arguments[name], parameter.annotation)
        elif parameter.default is inspect.Parameter.empty:
            raise RpcError(f"Parameter '{name}' is missing")
    for name in arguments.keys() - names.keys():
        raise RpcError(f"Parameter '{name}' is unexpected")
    return {names[name].name: value for name, value in arguments.items()}


def _check_type(name: str, value: Any, wanted: Any) -> None:
    json_name, types = SCHEMA_TYPES[wanted]
    beyond_int64 = isinstance(value, int) and value not in INT64
    if type(value) not in types or beyond_int64:
        raise RpcError(f"Invalid parameter type for '{name}', expected: {json_name}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_type(f"{name}[{index}]", item, str)
