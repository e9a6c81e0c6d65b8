"""Who a request comes from when it came through a proxy: only a trusted proxy is believed, and none by default.

Knows addresses and the three headers that proxies send. Doesn't know what is made of an address.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug.middleware.proxy_fix import ProxyFix

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]

_ADDRESS = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?|([^:\[\]]+):[0-9]{1,5}|([^\[\]]+)")


class TrustedProxies:
    """A WSGI middleware that tells an application its clients' addresses, scheme and host as trusted proxies saw them.

    Any client can send these headers, so what they say counts only as far as those who say it are trusted: each proxy
    appends the address of its own peer to ``X-Forwarded-For``, and the list is read from its end. The other two are
    those of the last proxy.
    """

    def __init__(self, app: WSGIApplication, networks: Networks) -> None:
        self._app = app
        self._behind_proxy = ProxyFix(app, x_for=0, x_proto=1, x_host=1)
        self._networks = networks

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        peer = parse_address(environ.get("REMOTE_ADDR", ""))
        if peer is None or not self._trusts(peer):
            return self._app(environ, start_response)
        environ["REMOTE_ADDR"] = str(self._find_client(peer, environ.get("HTTP_X_FORWARDED_FOR", "")))
        return self._behind_proxy(environ, start_response)

    def _find_client(self, peer: Address, forwarded_for: str) -> Address:
        """Find the rightmost address that is no trusted proxy; what stands before a malformed one proves nothing."""
        client = peer
        for item in reversed(forwarded_for.split(",")):
            address = parse_address(item)
            if address is None:
                break
            client = address
            if not self._trusts(client):
                break
        return client

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def parse_address(text: str) -> Address | None:
    """Read an address, with or without a port; ``None`` if it is none.

    An IPv4 address that was met on an IPv6 socket is the IPv4 address.
    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        return None
    try:
        address = ip_address(match[match.lastindex or 0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
