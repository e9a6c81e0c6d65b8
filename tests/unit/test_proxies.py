"""A client's address comes from trusted proxies or from nobody."""

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from app.core.env import load
from app.core.errors import SettingsError
from app.proxies import TrustedProxies, parse_address
from app.settings import WebSettings

TRUSTED = "10.0.0.0/8, 2001:db8:1::/48,192.0.2.7"
PEER, CLIENT = "10.0.0.1", "198.51.100.9"
ADDRESSES = st.ip_addresses().filter(lambda address: getattr(address, "ipv4_mapped", None) is None)


@Request.application
def tell(request: Request) -> Response:
    return Response(f"{request.remote_addr} {request.url_root}")


def told(peer: str, trusted: str = TRUSTED, **headers: str) -> str:
    networks = load(WebSettings, {"TRUSTED_PROXIES": trusted}).trusted_proxies
    client = Client(TrustedProxies(tell, networks))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get("/", headers=named, environ_base={"REMOTE_ADDR": peer}).text


def address_told(peer: str, *forwarded_for: str, trusted: str = TRUSTED) -> str:
    headers: Any = {"X_Forwarded_For": ", ".join(forwarded_for)} if forwarded_for else {}
    return told(peer, trusted, **headers).partition(" ")[0]


@pytest.mark.parametrize("peer", ["198.51.100.1", "11.0.0.1", "2001:db8:2::1", "::1", "", "nonsense"])
def test_nobody_else_is_believed(peer: str):
    forged = {"X_Forwarded_For": CLIENT, "X_Forwarded_Proto": "https", "X_Forwarded_Host": "evil.example"}
    assert told(peer, **forged) == f"{peer} http://localhost/"


def test_nobody_at_all_is_believed_by_default():
    assert load(WebSettings, {}).trusted_proxies == ()
    assert address_told("127.0.0.1", CLIENT, trusted="") == "127.0.0.1"


@pytest.mark.parametrize("peer", [PEER, "192.0.2.7", "2001:db8:1::5", "::ffff:10.2.3.4"])
def test_a_trusted_proxy_is_believed(peer: str):
    assert address_told(peer, CLIENT) == CLIENT


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ((), PEER),
        (("",), PEER),
        ((CLIENT,), CLIENT),
        (("203.0.113.5", CLIENT), CLIENT),  # what the client itself has sent stands to the left
        ((CLIENT, "10.9.9.9"), CLIENT),
        ((CLIENT, "10.9.9.9", "2001:db8:1::9"), CLIENT),
        (("203.0.113.5", CLIENT, "192.0.2.7"), CLIENT),
        (("10.1.1.1", "10.9.9.9"), "10.1.1.1"),  # none but trusted ones: the one that began
        ((f"{CLIENT}:4711",), CLIENT),
        (("2001:db8::1",), "2001:db8::1"),
        (("[2001:db8::1]",), "2001:db8::1"),
        (("[2001:db8::1]:443",), "2001:db8::1"),
        (("::ffff:198.51.100.9",), CLIENT),
        (("nonsense",), PEER),
        ((CLIENT, "nonsense"), PEER),
        ((CLIENT, "unknown", "10.9.9.9"), "10.9.9.9"),
        ((CLIENT, "", "10.9.9.9"), "10.9.9.9"),
        ((CLIENT, "10.9.9.9:x"), PEER),
        ((CLIENT, "[2001:db8:1::9"), PEER),
        ((CLIENT, "[10.9.9.9]x"), PEER),
        (("198.51.100.09",), PEER),
        (("0x7f000001",), PEER),
    ],
)
def test_the_rightmost_address_that_is_no_proxy_is_the_clients(forwarded_for: tuple[str, ...], client: str):
    assert address_told(PEER, *forwarded_for) == client


@given(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40), max_size=6))
def test_whatever_a_client_sends_cannot_change_what_the_proxy_appends(sent: list[str]):
    assert address_told(PEER, *sent, CLIENT) == CLIENT


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_none(text: str):
    address = parse_address(text)
    assert address is None or ip_address(str(address)) == address


@given(ADDRESSES, st.integers(0, 65535))
def test_an_address_is_read_with_a_port_and_without(address: Any, port: int):
    with_port = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    assert parse_address(f" {address} ") == parse_address(with_port) == address


def test_scheme_and_host_are_those_that_the_last_proxy_tells():
    headers = {"X_Forwarded_Proto": "http, https", "X_Forwarded_Host": "evil.example, ownup.example:8443"}
    assert told(PEER, **headers) == f"{PEER} https://ownup.example:8443/"


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", "10.0.0.1;10.0.0.2", "*"])
def test_a_wrong_network_stops_the_start_and_is_named(wrong: str):
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES="):
        load(WebSettings, {"TRUSTED_PROXIES": f"127.0.0.1, {wrong}"})
