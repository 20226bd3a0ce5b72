"""As much of DNS messages (RFC 1035 section 4.1) as a nameserver needs that must not be what is measured."""

HEADER = 12
"""Octets before the question."""

TTL = 3600
"""Seconds that answers hold."""

A, MX, TXT, AAAA, TLSA = 1, 15, 16, 28, 52

_OPT = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"
"""EDNS of the answer (RFC 6891 section 6.1.2): 1232 octets, DO."""


def name(labels: list[str]) -> bytes:
    """Return a name as it stands in a message."""
    return b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"


def labels(octets: bytes) -> list[bytes]:
    """Return the labels of the name that octets begin with."""
    found = []
    while length := octets[0]:
        found.append(octets[1 : 1 + length])
        octets = octets[1 + length :]
    return found


def question(query: bytes) -> bytes:
    """Return the question of a query: name, type, class."""
    return query[HEADER : query.index(b"\0", HEADER) + 5]


def text(value: bytes) -> bytes:
    """Return the data of a TXT record of one string."""
    return bytes((len(value),)) + value


def reply(query: bytes, found: bytes | None, *, secure: bool = False) -> bytes:
    """Answer as a recursive resolver does.

    Args:
        query: with one question.
        found: the data of the one record; empty: the name has others; ``None``: there is no such name.
        secure: whether the resolver vouches for it (AD).
    """
    asked = question(query)
    edns = query[10:12] != b"\0\0"
    return b"%b\x81%b\0\1\0%b\0\0\0%b%b%b%b" % (
        query[:2],
        bytes((0x80 | (0x20 if secure else 0) | (3 if found is None else 0),)),
        b"\1" if found else b"\0",
        b"\1" if edns else b"\0",
        asked,
        b"\xc0\x0c%b\0\1%b%b%b" % (asked[-4:-2], TTL.to_bytes(4), len(found).to_bytes(2), found) if found else b"",
        _OPT if edns else b"",
    )
