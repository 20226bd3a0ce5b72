"""The socketmap protocol as values, without I/O: netstrings, requests, keys (Postfix's socketmap_table(5)).

A client sends ``NAME KEY`` as a netstring, and gets a netstring for each, in order. :class:`Reader` takes octets as
they come and gives netstrings; what it holds is less than one. What is no netstring, or announces to be
longer than :data:`MAX_REQUEST`, is refused at its first wrong octet: the connection cannot be used any more.

A key is the next hop of mail. :func:`key` tells the domain whose MX hosts mail goes to. MTA-STS and DANE for MX hosts
are about those; a host in brackets, another port, an address, a parent domain (``.example.com``) are not looked up.
"""

import dataclasses
import re

from policy import names

MAX_REQUEST = 512
"""Octets of a request: a map name and a domain in U-labels."""


class ProtocolError(ValueError):
    """The client does not speak netstrings; its connection is to be closed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.before: list[bytes] = []
        """The netstrings that were right before it."""


class Reader:
    """Gives the netstrings in a stream of octets, however it is cut.

    Args:
        limit: octets of one netstring.
    """

    __slots__ = ("_limit", "rest")

    def __init__(self, limit: int = MAX_REQUEST) -> None:
        self.rest = b""
        """What has come of a netstring that is not complete."""
        self._limit = limit

    def feed(self, octets: bytes) -> list[bytes]:
        """Take octets; return the netstrings that are complete now, from length to comma.

        Raises:
            ProtocolError: the reader is of no use any more.
        """
        rest = self.rest + octets
        found: list[bytes] = []
        try:
            while rest and (end := _end(rest, self._limit)):
                found.append(rest[:end])
                rest = rest[end:]
        except ProtocolError as error:
            error.before = found
            raise
        finally:
            self.rest = rest
        return found


_COMMA = ord(",")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,8}")


def _end(octets: bytes, limit: int) -> int:
    """Return the octets of the first netstring, from length to comma; 0: it has not come whole."""
    digits, colon, tail = octets.partition(b":")
    length = _length(digits, limit)
    if not colon or len(tail) <= length:
        return 0
    if tail[length] != _COMMA:
        raise ProtocolError("no comma where the netstring must end")
    return len(digits) + length + 2


def _length(digits: bytes, limit: int) -> int:
    """Return the length that these digits announce, or the least that they can when more follow."""
    if not _LENGTH.fullmatch(digits):
        raise ProtocolError(f"not the length of a netstring: {digits[:10]!a}")
    length = int(digits)
    if length > limit:
        raise ProtocolError(f"longer than {limit} octets")
    return length


def text(netstring: bytes) -> bytes:
    """Return what is in a netstring that :meth:`Reader.feed` gave."""
    return netstring.partition(b":")[2][:-1]


def request(octets: bytes) -> tuple[bytes, bytes] | None:
    """Return map name and key of a request; ``None``: this is not one netstring, or more than one.

    Both have any octets; the key is empty also when there is no space.
    """
    try:
        whole = _end(octets, MAX_REQUEST) == len(octets)
    except ProtocolError:
        return None
    name, _, key_ = text(octets).partition(b" ")
    return (name, key_) if whole else None


def reply(text: bytes) -> bytes:
    """Return an answer as a netstring.

    Args:
        text: status, a space, and what belongs to it; Postfix takes at most 100,000 octets.
    """
    return b"%d:%b," % (len(text), text)


@dataclasses.dataclass(frozen=True, slots=True)
class Domain:
    """A next-hop domain that is to be looked up."""

    a_label: str
    """A-labels in lower case."""


_PORTS = frozenset(("25", "smtp"))
"""Ports of a next hop that do not make it another one; for any other, neither policies nor TLSA records were meant."""


def key(octets: bytes) -> Domain | None:
    """Return the domain that a key is about; ``None``: it is not to be looked up.

    Args:
        octets: of the request; UTF-8, a domain in U-labels or A-labels.
    """
    try:
        host, colon, port = octets.decode("utf-8").partition(":")
        name = names.a_label(host)
    except (UnicodeDecodeError, names.InvalidNameError):
        return None
    if (colon and port not in _PORTS) or not _is_public(name):
        return None
    return Domain(name)


def _is_public(name: str) -> bool:
    """Tell whether a name can be a domain in the DNS: has a dot, is no IPv4 address."""
    _, dot, last = name.rpartition(".")
    return bool(dot) and not last.isdigit()
