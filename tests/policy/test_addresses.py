"""The address guard: a stranger's record or DNS must not lead into the local network."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import addresses

REFUSED = [
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "unspecified"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.1", "shared by carriers"),
    ("100.127.255.255", "shared by carriers"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("169.254.169.254", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.1", "for protocols"),
    ("192.0.0.170", "for protocols"),
    ("192.0.2.1", "for documentation"),
    ("192.88.99.1", "a 6to4 relay"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "for benchmarks"),
    ("198.19.255.255", "for benchmarks"),
    ("198.51.100.1", "for documentation"),
    ("203.0.113.1", "for documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "reserved"),
    ("::ffff:127.0.0.1", "IPv4-mapped, loopback"),
    ("::ffff:10.0.0.1", "IPv4-mapped, private"),
    ("::ffff:0:127.0.0.1", "reserved"),
    ("64:ff9b::127.0.0.1", "NAT64, loopback"),
    ("64:ff9b::192.168.0.1", "NAT64, private"),
    ("64:ff9b:1::1", "of a local translator"),
    ("100::1", "discard-only"),
    ("2001::1", "Teredo"),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
    ("2001:2::1", "for protocols"),
    ("2001:20::1", "for protocols"),
    ("2001:db8::1", "for documentation"),
    ("2002:7f00:1::1", "6to4, loopback"),
    ("2002:c0a8:101::1", "6to4, private"),
    ("3fff::1", "for documentation"),
    ("3fff:fff::1", "for documentation"),
    ("4000::1", "reserved"),
    ("5f00::1", "for segment routing"),
    ("fc00::1", "private"),
    ("fd12:3456::1", "private"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("ff0e::1", "multicast"),
    ("", "not an IP address"),
    ("localhost", "not an IP address"),
    ("127.1", "not an IP address"),
    ("0177.0.0.1", "not an IP address"),
    ("2130706433", "not an IP address"),
    (" 8.8.8.8", "not an IP address"),
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "3ffe::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


@pytest.mark.parametrize(("address", "reason"), REFUSED)
def test_addresses_that_are_not_public_are_refused(address: str, reason: str) -> None:
    """The reason is the kind of address."""
    assert addresses.refusal(address) == reason


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_not_refused(address: str) -> None:
    """The first and last beside each block, and plain ones."""
    assert addresses.refusal(address) is None


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_in_each_disguise(address: ipaddress.IPv4Address) -> None:
    """No way of writing an IPv4 address in IPv6 gets around the guard."""
    plain = addresses.refusal(str(address))
    number = int(address)
    for disguise in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80 | 1):
        assert (addresses.refusal(str(ipaddress.IPv6Address(disguise))) is None) == (plain is None)


@given(st.ip_addresses().filter(lambda address: not address.is_global))
def test_what_python_calls_not_global_is_refused_or_leads_to_a_public_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """A newer Python that knows of a newer special block is heard."""
    embedded = isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.sixtofour)
    assert addresses.refusal(str(address)) or embedded


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    """Never an exception, never a yes."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        assert addresses.refusal(text) == "not an IP address"
