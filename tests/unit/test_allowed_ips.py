"""Networks that a key is limited to."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.allowed_ips import are_within, is_within, normalise

ADDRESSES = [
    *(str(address) for address in ipaddress.ip_network("192.0.2.0/28")),
    *(str(address) for address in ipaddress.ip_network("2001:db8::/125")),
]
NETWORKS = st.sampled_from([
    str(network)
    for whole in (ipaddress.ip_network("192.0.2.0/28"), ipaddress.ip_network("2001:db8::/125"))
    for length in range(whole.prefixlen, whole.max_prefixlen + 1)
    for network in whole.subnets(new_prefix=length)
])


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::1", "2001:db8::1/128"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_is_written_in_one_way(text: str, written: str):
    assert normalise(text) == normalise(written) == written


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a", "192.0.2.7/24", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/255.255.255.0", "192.0.2.0/0.0.0.255",
        "192.0.2", "192.0.02.1", " 192.0.2.0/24", "192.0.2.0/24\n", "fe80::1%eth0", "2001:db8::1/32", "2001:db8::/129",
        "1", "/8", "example.com", "192.0.2.0-192.0.2.9", "192.0.2.0/-1", "192.0.2.0/\u0663",
    ],
)  # fmt: skip
def test_what_is_none_is_refused(text: str):
    with pytest.raises(ValueError, match="must be an address or a network"):
        normalise(text)


@given(st.lists(NETWORKS, max_size=4), st.lists(NETWORKS, max_size=4))
def test_what_lies_within_others_has_no_address_that_they_have_not(inner: list[str], outer: list[str]):
    if are_within(inner, outer):
        assert all(is_within(address, outer) for address in ADDRESSES if is_within(address, inner))


@given(NETWORKS, NETWORKS)
def test_one_lies_within_another_whenever_all_its_addresses_do(inner: str, outer: str):
    lies_within = all(is_within(address, [outer]) for address in ADDRESSES if is_within(address, [inner]))
    assert are_within([inner], [outer]) == lies_within


@pytest.mark.parametrize("address", [None, "", "unix", "192.0.2.7:80", "::1%lo"])
def test_an_address_that_can_t_be_read_lies_nowhere(address: str | None):
    assert not is_within(address, ["0.0.0.0/0", "::/0"]) or address == "::1%lo"


def test_ipv4_within_ipv6_is_ipv4():
    assert is_within("::ffff:192.0.2.7", ["192.0.2.0/24"])
    assert not is_within("::ffff:192.0.2.7", ["::/0"])
