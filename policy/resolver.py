"""Questions to the DNS, through the recursive resolvers of this host or those of the configuration.

The one module that imports dnspython. Absent and temporary are kept apart: no records say that the name or the type
does not exist, :class:`TemporaryError` that nobody knows just now, or that DNSSEC proves the answer forged. UDP first,
TCP when an answer was truncated; CNAMEs are followed; search lists are not used.

An answer is secure when the server says so (the AD bit, RFC 4035 section 3.2.3). That is its word: DANE needs servers
that validate, all of them, on a way nobody can write on, which is the loopback interface.

Known limits: no cache (the recursive resolver has one); /etc/resolv.conf is read once, when a resolver is made.
"""

import asyncio
import dataclasses
import ipaddress
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.TLSA
import dns.resolver

from policy import tlsa

SERVER_TIMEOUT = 3.0
"""Seconds one server may take: a recursive resolver that has to ask far-off servers needs more than one."""

LIFETIME = 8.0
"""Seconds all servers together may take for one question; there are often two, and each is asked again."""

MAX_ADDRESSES = 8
"""Addresses of each family of one host: more would only give a stranger more connections out of one name."""

MAX_TTL = 86_400
"""Seconds an answer is said to hold at most: whoever made a mistake in his zone need not wait longer than a day."""

MAX_NEGATIVE_TTL = 3600
"""Seconds an absence is said to hold at most, the low end of what RFC 2308 section 5 recommends: something may come."""

RETRY = 60
"""Seconds until a question that had no answer is asked again: resolvers keep failures for some seconds, mail waits
minutes."""

RESOLV_CONF = Path("/etc/resolv.conf")

_PAYLOAD = 1232
"""Octets of a UDP answer we ask for: what passes everywhere without fragments (DNS flag day 2020)."""

dns.rdtypes.ANY.TLSA.TLSA._cert_length_by_mtype = {}  # noqa: SLF001 - dnspython has no option for it
"""A digest of the wrong length makes one record unusable (RFC 6698 section 4.1), not the whole answer unreadable."""

_PORT = 53
_MAX_PORT = 65535


_DNSSEC_ERRORS = range(6, 13)
"""Extended errors that mean: validation failed (RFC 8914 sections 4.7 to 4.13)."""


class TemporaryError(Exception):
    """The question has no answer now: ask again later. The text names question, servers and what happened."""

    def __init__(self, text: str, code: str = "dns-failure") -> None:
        super().__init__(text)
        self.code = code
        """In one word: ``dns-timeout``, ``dns-servfail`` (or another code of the server), ``dnssec-bogus``, or
        ``dns-failure``. A server that does not tell why it fails (RFC 8914) says ``dns-servfail`` to a forgery, too."""


_Record = TypeVar("_Record")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer(Generic[_Record]):
    """What the DNS has of one type at a name, or where the CNAMEs of the name lead."""

    records: tuple[_Record, ...]
    """Empty: absent."""
    exists: bool
    """Whether the name exists (no NXDOMAIN), be it without records of this type."""
    secure: bool
    """Whether DNSSEC vouches for all of the answer (RFC 7672 section 2.1.1), CNAMEs and absence included."""
    ttl: int
    """Seconds until it is to be asked again, 0 to :data:`MAX_TTL`; :data:`MAX_NEGATIVE_TTL` when absent."""
    expanded: str
    """The name at the end of the CNAMEs in lower case, without a final dot."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mx:
    """A mail host of a domain (RFC 5321 section 5.1)."""

    preference: int
    host: str
    """In lower case, without a final dot; ``.``: the domain takes no mail (RFC 7505). May have any character."""


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """The addresses of a host, with what DANE needs to know of the way there (RFC 7672 section 2.2.2)."""

    addresses: tuple[str, ...]
    """IPv6 first, at most :data:`MAX_ADDRESSES` of each family; empty: the host has none."""
    expanded: str
    """The name at the end of the CNAMEs in lower case, without a final dot."""
    secure: bool
    """Whether DNSSEC vouches for the whole way: CNAMEs and addresses, or their absence."""
    first_secure: bool
    """Whether it vouches for the first step at least: a CNAME out of a signed zone into one that is not."""
    ttl: int
    """As in :class:`Answer`."""


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
            _configure(self._resolver, resolv_conf)
        self._resolver.lifetime = lifetime
        self._resolver.timeout = min(SERVER_TIMEOUT, lifetime)
        self._resolver.set_flags(dns.flags.RD | dns.flags.AD)  # RFC 6840 section 5.7: tell whether it is secure
        self._resolver.use_edns(0, dns.flags.DO, _PAYLOAD)

    async def txt(self, name: str) -> tuple[str, ...] | None:
        """Return what :meth:`texts` finds; ``None``: absent.

        Raises:
            TemporaryError: ask again later.
        """
        return (await self.texts(name)).records or None

    async def texts(self, name: str) -> Answer[str]:
        """Return the TXT records of a name, each with its strings joined (RFC 8460 section 3, RFC 8461 section 3.1).

        Octets become characters one to one (Latin-1), so none is lost.

        Args:
            name: A-labels.

        Raises:
            TemporaryError: ask again later.
        """
        return _read(await self._ask(name, dns.rdatatype.TXT), lambda txt: b"".join(txt.strings).decode("latin-1"))

    async def mx(self, domain: str) -> Answer[Mx]:
        """Return the mail hosts of a domain, best preference first.

        Args:
            domain: A-labels.

        Raises:
            TemporaryError: ask again later.
        """
        answer = await self._ask(domain, dns.rdatatype.MX)
        hosts = _read(answer, lambda mx: Mx(mx.preference, _text(mx.exchange)))
        return dataclasses.replace(hosts, records=tuple(sorted(hosts.records, key=lambda mx: (mx.preference, mx.host))))

    async def tlsa(self, name: str) -> Answer[tlsa.Record]:
        """Return the TLSA records of a name (RFC 6698 section 2), usable or not.

        Args:
            name: A-labels, with port and protocol.

        Raises:
            TemporaryError: ask again later.
        """
        answer = await self._ask(name, dns.rdatatype.TLSA)
        return _read(answer, lambda one: tlsa.Record(one.usage, one.selector, one.mtype, one.cert))

    async def host(self, name: str) -> Host:
        """Return the addresses of a host and how far DNSSEC vouches for them.

        Args:
            name: A-labels, in lower case, without a final dot.

        Raises:
            TemporaryError: as for :meth:`addresses`, or whether a CNAME is secure has no answer now.
        """
        answers = await self._addresses(name)
        secure, expanded = all(answer.secure for answer in answers), answers[0].expanded
        addresses = tuple(address for answer in answers for address in answer.records[:MAX_ADDRESSES])
        if addresses and not secure and expanded != name:
            alias = await self._ask(name, dns.rdatatype.CNAME)
            answers = (*answers, alias)
            first_secure = alias.secure and bool(alias.records)
        else:
            first_secure = secure
        return Host(addresses, expanded, secure, first_secure, min(answer.ttl for answer in answers))

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return the IP addresses of a host, IPv6 first, at most :data:`MAX_ADDRESSES` of each family.

        Args:
            host: A-labels.

        Raises:
            TemporaryError: none was found, and at least one of the two questions has no answer now.
        """
        answers = await self._addresses(host)
        return tuple(address for answer in answers for address in answer.records[:MAX_ADDRESSES])

    async def _addresses(self, host: str) -> tuple[Answer[str], ...]:
        """Return the answers for each family that has addresses; when none has, those that say so."""
        kinds = (dns.rdatatype.AAAA, dns.rdatatype.A)
        asked = await asyncio.gather(*(self._family(host, kind) for kind in kinds))
        found = tuple(answer for answer in asked if isinstance(answer, Answer) and answer.records)
        for answer in asked:
            if isinstance(answer, TemporaryError) and not found:
                raise answer
        return found or tuple(answer for answer in asked if isinstance(answer, Answer))

    async def _family(self, host: str, kind: dns.rdatatype.RdataType) -> Answer[str] | TemporaryError:
        try:
            return _read(await self._ask(host, kind), lambda record: str(record.address))
        except TemporaryError as error:
            return error

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> Answer[Any]:
        """Return the records of a type at a name, or where its CNAMEs lead.

        Raises:
            TemporaryError: ask again later.
        """
        impossible: Answer[Any] = Answer((), exists=False, secure=False, ttl=MAX_NEGATIVE_TTL, expanded=name)
        try:
            absolute = dns.name.from_text(name)
        except dns.exception.DNSException:  # too long, an empty label: cannot exist
            return impossible
        try:
            found = await self._resolver.resolve(absolute, kind, search=False, raise_on_no_answer=False)
            return _answer(found.response, found.chaining_result)
        except dns.resolver.NXDOMAIN as error:
            response = error.kwargs["responses"][absolute]
            return _answer(response, response.resolve_chaining())
        except dns.resolver.YXDOMAIN:  # a DNAME makes it too long
            return impossible
        except (dns.exception.DNSException, OSError) as error:
            raise _explain(f"{name} {kind.name}", error) from error


def _answer(response: dns.message.QueryMessage, chain: dns.message.ChainingResult) -> Answer[Any]:
    records = tuple(chain.answer or ())
    return Answer(
        records,
        exists=response.rcode() == dns.rcode.NOERROR,
        secure=bool(response.flags & dns.flags.AD),
        ttl=min(chain.minimum_ttl, MAX_TTL if records else MAX_NEGATIVE_TTL),
        expanded=_text(chain.canonical_name),
    )


def _read(answer: Answer[Any], read: Callable[[Any], _Record]) -> Answer[_Record]:
    """Turn dnspython's records into ours."""
    records = tuple(read(record) for record in answer.records)
    return Answer(records, answer.exists, answer.secure, answer.ttl, answer.expanded)


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _explain(question: str, error: Exception) -> TemporaryError:
    """Say in our words what dnspython's exceptions mean."""
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return TemporaryError(f"{question}: no answer in time: {_told(error)}", "dns-timeout")
    if isinstance(error, dns.resolver.NoNameservers):
        return TemporaryError(f"{question}: no usable answer: {_told(error)}", _code(error))
    return TemporaryError(f"{question}: {type(error).__name__}: {error}")


def _told(error: dns.resolver.LifetimeTimeout | dns.resolver.NoNameservers) -> str:
    """Tell what the servers answered, each thing once."""
    told = (_one(address, port, what, response) for address, _, port, what, response in error.kwargs["errors"])
    return ", ".join(dict.fromkeys(told)) or "nothing was asked"


def _one(server: str, port: int, what: object, response: dns.message.Message | None) -> str:
    """Put one server's error as ``127.0.0.1:53 SERVFAIL``; ``what`` is an rcode's name or an exception."""
    address = server.removeprefix("Do53:").rpartition("@")[0] or server
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if isinstance(what, dns.exception.Timeout | TimeoutError):
        return f"{shown} timed out"
    return f"{shown} {what} (DNSSEC validation failed)" if _bogus(response) else f"{shown} {what}"


def _code(error: dns.resolver.NoNameservers) -> str:
    """Put what the servers answered in one word: that of the last one, if none tells of a forgery."""
    code = "dns-failure"
    for *_, what, response in error.kwargs["errors"]:
        if _bogus(response):
            return "dnssec-bogus"
        code = f"dns-{what.lower()}" if isinstance(what, str) else "dns-failure"
    return code


def _bogus(response: dns.message.Message | None) -> bool:
    return response is not None and any(error.code in _DNSSEC_ERRORS for error in response.extended_errors())


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


def _configure(resolver: dns.asyncresolver.Resolver, path: Path) -> None:
    try:
        resolver.read_resolv_conf(str(path))
        resolver.nameservers = [_nameserver(str(address)) for address in resolver.nameservers]
    except (dns.exception.DNSException, OSError, ValueError) as error:
        cure = 'name servers in dns.nameservers, for example "127.0.0.1:53"'
        raise ValueError(f"dns.nameservers is empty and {path} names no usable server ({error}): {cure}") from error
