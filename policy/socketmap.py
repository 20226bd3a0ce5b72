"""The socketmap protocol as values, without I/O: netstrings, requests, keys (Postfix's socketmap_table(5)).

A client sends ``NAME KEY`` as a netstring, and gets a netstring for each, in order. :class:`Reader` takes octets as
they come and gives requests; when it has given all, it holds less than one. What is no netstring, or announces to be
longer than :data:`MAX_REQUEST`, is refused at its first wrong octet: the connection cannot be used any more.

A key is the next hop of mail. :func:`key` tells the domain whose MX hosts mail goes to. MTA-STS and DANE for MX hosts
are about those; a host in brackets, another port, an address, a parent domain (``.example.com``) are not looked up.
"""

import dataclasses
import re
from collections.abc import Iterator

from policy import names

MAX_REQUEST = 512
"""Octets of a request: a map name and a domain in U-labels."""


class ProtocolError(ValueError):
    """The client does not speak netstrings; its connection is to be closed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A question; both parts have any octets."""

    map_name: bytes
    key: bytes
    """Empty also when there was no space."""


class Reader:
    """Gives the requests, or any netstrings, in a stream of octets, however it is cut.

    Args:
        limit: octets of one netstring.
    """

    __slots__ = ("_buffer", "_limit", "_max_digits")

    def __init__(self, limit: int = MAX_REQUEST) -> None:
        self._buffer = bytearray()
        self._limit, self._max_digits = limit, len(str(limit))

    def feed(self, octets: bytes) -> Iterator[Request]:
        """Take octets; yield the requests that are complete now. What is not asked for now is given next time.

        Raises:
            ProtocolError: while iterating, after the requests before; the reader is of no use any more.
        """
        self._buffer += octets
        return self._requests()

    def payloads(self, octets: bytes) -> Iterator[bytes]:
        """Do as :meth:`feed` does, for netstrings that are no requests: answers."""
        self._buffer += octets
        return iter(self._take, None)

    @property
    def unfinished(self) -> bool:
        """Whether there is a part of a request that has not come whole."""
        return bool(self._buffer)

    def _requests(self) -> Iterator[Request]:
        while (payload := self._take()) is not None:
            name, _, key_ = payload.partition(b" ")
            yield Request(name, key_)

    def _take(self) -> bytes | None:
        """Take the first netstring out of the buffer; ``None``: it is not complete."""
        colon = self._buffer.find(b":", 0, self._max_digits + 1)
        head = bytes(self._buffer[: colon if colon >= 0 else self._max_digits + 1])
        if not head and colon < 0:
            return None
        end = colon + 1 + _length(head, self._limit)
        if colon < 0 or len(self._buffer) <= end:
            return None
        if self._buffer[end] != _COMMA:
            raise ProtocolError("no comma where the netstring must end")
        payload = bytes(self._buffer[colon + 1 : end])
        del self._buffer[: end + 1]
        return payload


_COMMA = ord(",")
_LENGTH = re.compile(rb"0|[1-9][0-9]*")


def _length(digits: bytes, limit: int) -> int:
    """Return the length that these digits announce, or the least that they can when more follow."""
    if not _LENGTH.fullmatch(digits):
        raise ProtocolError(f"not the length of a netstring: {digits!a}")
    length = int(digits)
    if length > limit:
        raise ProtocolError(f"longer than {limit} octets")
    return length


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
