"""Addresses that an API key is limited to: how its networks are written, and what lies within them."""

import ipaddress
import re
from collections.abc import Iterable

PATTERN = "[0-9a-fA-F:.]+(/[0-9]{1,3})?"
"""What looks like one. No netmasks: ``ipaddress`` takes ``/0.0.0.255`` too. No zones: each host has its own."""
_MAPPED_BITS = 96
"""Source: RFC 4291, 2.5.5.2: an IPv4 address in IPv6 has so many bits before it."""

RULE = "must be an address or a network such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32, with no bits after the prefix"


def normalise(text: str) -> str:
    """Write a network in the one way in which keys have it; an address is a network of one.

    What is IPv4 within IPv6 becomes IPv4, which is how such a client is seen. Bits after the prefix are refused rather
    than masked: who wrote 10.1.2.3/8 may have meant less than sixteen million addresses.

    Raises:
        ValueError: It is none.
    """
    if not re.fullmatch(PATTERN, text):
        raise ValueError(RULE)
    try:
        network = ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError(RULE) from exc
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        return f"{mapped}/{network.prefixlen - _MAPPED_BITS}"
    return str(network)


def is_within(address: str | None, networks: Iterable[str]) -> bool:
    """Tell whether an address lies in one of some networks; one that can't be read lies in none."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in ipaddress.ip_network(network) for network in networks)


def are_within(networks: Iterable[str], others: Iterable[str]) -> bool:
    """Tell whether each of some networks is a part of one of the others."""
    outer = [ipaddress.ip_network(other) for other in others]
    return all(any(_is_part(ipaddress.ip_network(network), other) for other in outer) for network in networks)


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _is_part(network: _Network, other: _Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and network.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and network.subnet_of(other)
