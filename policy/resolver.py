"""Questions to the DNS, through the recursive resolvers of this host or those of the configuration.

The one module that imports dnspython. Absent and temporary are kept apart: ``None`` or ``()`` says that the name or
the type does not exist, :class:`TemporaryError` that nobody knows just now. UDP first, TCP when an answer was
truncated; CNAMEs are followed; search lists are not used.

Known limits: no cache (the recursive resolver has one); /etc/resolv.conf is read once, when a resolver is made;
DNSSEC is not looked at.
"""

import asyncio
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

SERVER_TIMEOUT = 3.0
"""Seconds one server may take: a recursive resolver that has to ask far-off servers needs more than one."""

LIFETIME = 8.0
"""Seconds all servers together may take for one question; there are often two, and each is asked again."""

MAX_ADDRESSES = 8
"""Addresses of each family of one host: more would only give a stranger more connections out of one name."""

RESOLV_CONF = Path("/etc/resolv.conf")

_PAYLOAD = 1232
"""Octets of a UDP answer we ask for: what passes everywhere without fragments (DNS flag day 2020)."""

_PORT = 53
_MAX_PORT = 65535


class TemporaryError(Exception):
    """The question has no answer now: ask again later. The text names question, servers and what happened."""


class Resolver:
    """Asks recursive resolvers. Without state between questions, so any number may be asked at once.

    Args:
        nameservers: ``127.0.0.1:53``, ``[::1]:53`` or an address alone (port 53); none: those of ``resolv_conf``.
        lifetime: seconds a question may take.
        resolv_conf: file in the format of /etc/resolv.conf.

    Raises:
        ValueError: a nameserver cannot be used, or there is none; the text names it and the cure.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        lifetime: float = LIFETIME,
        resolv_conf: Path = RESOLV_CONF,
    ) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        if nameservers:
            self._resolver.nameservers = [_nameserver(text) for text in nameservers]
        else:
            _read(self._resolver, resolv_conf)
        self._resolver.lifetime = lifetime
        self._resolver.timeout = min(SERVER_TIMEOUT, lifetime)
        self._resolver.use_edns(0, 0, _PAYLOAD)

    async def txt(self, name: str) -> tuple[str, ...] | None:
        """Return the TXT records of a name, each with its strings joined (RFC 8460 section 3).

        Octets become characters one to one (Latin-1), so none is lost.

        Args:
            name: A-labels.

        Raises:
            TemporaryError: ask again later.
        """
        records = await self._ask(name, dns.rdatatype.TXT)
        if records is None:
            return None
        return tuple(b"".join(record.strings).decode("latin-1") for record in records)

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return the IP addresses of a host, IPv6 first, at most :data:`MAX_ADDRESSES` of each family.

        Args:
            host: A-labels.

        Raises:
            TemporaryError: none was found, and at least one of the two questions has no answer now.
        """
        kinds = (dns.rdatatype.AAAA, dns.rdatatype.A)
        answers = await asyncio.gather(*(self._addresses(host, kind) for kind in kinds))
        found = tuple(address for answer in answers if isinstance(answer, tuple) for address in answer)
        for answer in answers:
            if isinstance(answer, TemporaryError) and not found:
                raise answer
        return found

    async def _addresses(self, host: str, kind: dns.rdatatype.RdataType) -> tuple[str, ...] | TemporaryError:
        try:
            records = await self._ask(host, kind)
        except TemporaryError as error:
            return error
        return tuple(record.address for record in records or ())[:MAX_ADDRESSES]

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> tuple[Any, ...] | None:
        """Return the records of a type at a name, or where its CNAMEs lead; ``None``: absent.

        Raises:
            TemporaryError: ask again later.
        """
        question = f"{name} {kind.name}"
        try:
            absolute = dns.name.from_text(name)
        except dns.exception.DNSException:  # too long, an empty label: cannot exist
            return None
        try:
            return tuple(await self._resolver.resolve(absolute, kind, search=False))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer, dns.resolver.YXDOMAIN):
            return None
        except dns.resolver.LifetimeTimeout as error:
            raise TemporaryError(f"{question}: no answer in time: {_told(error)}") from error
        except dns.resolver.NoNameservers as error:
            raise TemporaryError(f"{question}: no usable answer: {_told(error)}") from error
        except (dns.exception.DNSException, OSError) as error:
            raise TemporaryError(f"{question}: {type(error).__name__}: {error}") from error


def _told(error: dns.resolver.LifetimeTimeout | dns.resolver.NoNameservers) -> str:
    """Tell what the servers answered, each thing once."""
    told = (_one(address, port, what) for address, _, port, what, _ in error.kwargs["errors"])
    return ", ".join(dict.fromkeys(told)) or "nothing was asked"


def _one(server: str, port: int, what: object) -> str:
    """Put one server's error as ``127.0.0.1:53 SERVFAIL``; ``what`` is an rcode's name or an exception."""
    address = server.removeprefix("Do53:").rpartition("@")[0] or server
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if isinstance(what, dns.exception.Timeout | TimeoutError):
        return f"{shown} timed out"
    return f"{shown} {what}"


_SERVER = re.compile(
    r"\[(?P<v6>[^\[\]]+)\](:(?P<port6>[0-9]{1,5}))?|(?P<v4>[^:]+)(:(?P<port4>[0-9]{1,5}))?|(?P<bare>.+)"
)


def _nameserver(text: str) -> dns.nameserver.Nameserver:
    match = _SERVER.fullmatch(text)
    address, port = _server(match) if match else ("", _PORT)
    try:
        ipaddress.ip_address(address)
    except ValueError:
        port = 0
    if not 0 < port <= _MAX_PORT:
        cure = 'give an IP address and a port, for example "127.0.0.1:53" or "[::1]:53"'
        raise ValueError(f'dns.nameservers: "{text}": {cure}')
    return dns.nameserver.Do53Nameserver(address, port)


def _server(match: re.Match[str]) -> tuple[str, int]:
    address = match["v6"] or match["v4"] or match["bare"]
    return address, int(match["port6"] or match["port4"] or _PORT)


def _read(resolver: dns.asyncresolver.Resolver, path: Path) -> None:
    try:
        resolver.read_resolv_conf(str(path))
        resolver.nameservers = [_nameserver(str(address)) for address in resolver.nameservers]
    except (dns.exception.DNSException, OSError, ValueError) as error:
        cure = 'name servers in dns.nameservers, for example "127.0.0.1:53"'
        raise ValueError(f"dns.nameservers is empty and {path} names no usable server ({error}): {cure}") from error
