"""Which IP addresses a stranger may make us connect to: only public ones.

Pure. A ``rua`` or an MTA-STS host of a stranger may lead to loopback or into the local network, where a request from
this host means more than one from outside. The special-purpose blocks of IANA's registries (RFC 6890, RFC 8190) are
listed here by name; IPv6 addresses that carry an IPv4 address are judged by that one.

``ipaddress.is_global`` alone does not do: it calls multicast and 64:ff9b::127.0.0.1 global, and what it knows differs
between versions of Python. It has the last word, though: what it calls not global is refused. Not seen: whether a
public address is one of this host's own, or is translated into a private one on the way.
"""

import ipaddress

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_BLOCKS_4 = (
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by carriers"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "for protocols"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "a 6to4 relay"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
)

_BLOCKS_6 = (
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b:1::/48", "of a local translator"),
    ("100::/64", "discard-only"),
    ("2001::/32", "Teredo"),
    ("2001::/23", "for protocols"),
    ("2001:db8::/32", "for documentation"),
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "for segment routing"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)

_NETWORKS = tuple((ipaddress.ip_network(block), what) for block, what in _BLOCKS_4 + _BLOCKS_6)

_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is assigned as global unicast (RFC 4291 section 2.4)."""

_EMBEDDING = tuple(
    (ipaddress.IPv6Network(block), shift, what)
    for block, shift, what in (
        ("::ffff:0:0/96", 0, "IPv4-mapped"),
        ("64:ff9b::/96", 0, "NAT64"),
        ("2002::/16", 80, "6to4"),
    )
)
"""Blocks whose addresses lead to an IPv4 address, which stands so many bits above the lowest."""


def refusal(address: str) -> str | None:
    """Return why an address must not be connected to; ``None``: it is public.

    Args:
        address: an IP address in text form, with or without a zone; anything else is refused, too.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "not an IP address"
    for block, shift, what in _EMBEDDING:
        if parsed in block:
            inner = _refusal(ipaddress.IPv4Address(int(parsed) >> shift & 0xFFFFFFFF))
            return inner and f"{what}, {inner}"
    return _refusal(parsed)


def _refusal(address: _Address) -> str | None:
    for network, what in _NETWORKS:
        if address in network:
            return what
    if address.version == 6 and address not in _UNICAST:  # noqa: PLR2004 - the version of IP
        return "reserved"
    return None if address.is_global else "not public"
