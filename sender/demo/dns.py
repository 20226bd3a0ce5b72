"""The DNS of the made-up internet: one server that knows every name, and a small client to ask it.

:class:`Server` answers from a ``zone.Zone`` over UDP and TCP (RFC 1035 section 4.2) while the zone may
change. Every answer has TTL 0, so that a change is seen at once; negative answers carry no SOA.
:func:`ask` is what the made-up sending MTA and the verifying receiver use; the product's own
resolver is ``policy.resolver``.
"""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.MX
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rrset

from sender.demo import zone as zones

LOOPBACK = "127.0.0.1"

MAX_QUERY = 4096
"""Octets of a query over TCP; a real one has under 512."""

UDP_DEFAULT = 512
"""Octets of an answer over UDP to a client that does not say what it takes (RFC 1035 section 4.2.1)."""

IDLE_SECONDS = 30.0
"""How long a TCP connection may last before the server closes it."""

ASK_SECONDS = 2.0
"""How long :func:`ask` waits: on loopback an answer takes a millisecond, silence is meant."""

BIND_ATTEMPTS = 20
"""How many ports are tried until one is free for UDP and TCP alike."""

_TYPES: dict[type[zones.Record], dns.rdatatype.RdataType] = {
    zones.Txt: dns.rdatatype.TXT,
    zones.Mx: dns.rdatatype.MX,
    zones.A: dns.rdatatype.A,
    zones.Aaaa: dns.rdatatype.AAAA,
}

_KINDS = {code: kind for kind, code in _TYPES.items()}

_RCODES = {
    zones.Temper.NXDOMAIN: dns.rcode.NXDOMAIN,
    zones.Temper.NODATA: dns.rcode.NOERROR,
    zones.Temper.SERVFAIL: dns.rcode.SERVFAIL,
}


class LookupLaterError(Exception):
    """There was no answer, or one that says to ask again."""


class Server:
    """A DNS server on loopback, UDP and TCP on one port; an async context manager.

    Args:
        zone: what it answers from; it may be changed at any time.
    """

    def __init__(self, zone: zones.Zone | None = None) -> None:
        self.zone = zone or zones.Zone()
        self._port = 0
        self._stack = contextlib.AsyncExitStack()
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        """``HOST:PORT``, the form of ``dns.nameservers``."""
        return f"{LOOPBACK}:{self._port}"

    async def __aenter__(self) -> Self:
        tcp, udp = await self._bind()
        self._stack.callback(udp.close)
        self._stack.push_async_callback(self._close, tcp)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _bind(self) -> tuple[asyncio.Server, asyncio.DatagramTransport]:
        loop = asyncio.get_running_loop()
        for _ in range(BIND_ATTEMPTS):
            tcp = await asyncio.start_server(self._serve_tcp, LOOPBACK, 0)
            self._port = tcp.sockets[0].getsockname()[1]
            try:
                address = (LOOPBACK, self._port)
                udp, _protocol = await loop.create_datagram_endpoint(lambda: _Datagrams(self.zone), address)
            except OSError:  # taken for UDP
                tcp.close()
            else:
                return tcp, udp
        raise OSError(f"no port is free for UDP and TCP in {BIND_ATTEMPTS} attempts")

    async def _close(self, tcp: asyncio.Server) -> None:
        tcp.close()
        for writer in tuple(self._connections):
            writer.transport.abort()
        await tcp.wait_closed()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, dns.exception.DNSException):
            async with asyncio.timeout(IDLE_SECONDS):
                while True:
                    query = dns.message.from_wire(await _read_framed(reader))
                    if response := _answer(self.zone, query):
                        writer.write(response.to_wire(prepend_length=True))
                        await writer.drain()
        self._connections.discard(writer)
        writer.close()


async def _read_framed(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(2), "big")
    if length > MAX_QUERY:
        raise dns.exception.TooBig
    return await reader.readexactly(length)


class _Datagrams(asyncio.DatagramProtocol):
    """The UDP side."""

    def __init__(self, zone: zones.Zone) -> None:
        self._zone = zone
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override] # of UDP
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        with contextlib.suppress(dns.exception.DNSException):  # what is not DNS gets no answer
            query = dns.message.from_wire(data)
            response = _answer(self._zone, query)
            if response and self._transport:
                self._transport.sendto(_fit(response, query.payload or UDP_DEFAULT), addr)


def _fit(response: dns.message.Message, limit: int) -> bytes:
    """Return an answer for UDP; one that is too long only says so, and the client asks over TCP."""
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()


def _answer(zone: zones.Zone, query: dns.message.Message) -> dns.message.Message | None:
    """Return the answer to a query; ``None``: silence."""
    response = dns.message.make_response(query, recursion_available=True)
    if len(query.question) != 1:
        response.set_rcode(dns.rcode.FORMERR)
        return response
    question = query.question[0]
    name = question.name.to_text(omit_final_dot=True)
    if zone.is_signed(name):
        response.flags |= dns.flags.AD
    found = zone.find(name, _KINDS.get(question.rdtype))
    if found is zones.Temper.SILENT:
        return None
    if isinstance(found, zones.Temper):
        response.set_rcode(_RCODES[found])
    else:
        response.answer.append(dns.rrset.from_rdata_list(question.name, 0, [_rdata(record) for record in found]))
    return response


def _rdata(record: zones.Record) -> dns.rdata.Rdata:
    match record:
        case zones.Txt(text, split):
            octets = text.encode()
            parts = [octets[start : start + split] for start in range(0, len(octets), split)] or [b""]
            value = " ".join('"' + "".join(f"\\{octet:03d}" for octet in part) + '"' for part in parts)
        case zones.Mx(preference, host):
            value = f"{preference} {host.removesuffix('.')}."
        case zones.A(address) | zones.Aaaa(address):
            value = address
    return dns.rdata.from_text(dns.rdataclass.IN, _TYPES[type(record)], value)


async def ask(server: str, name: str, kind: type[zones.Record]) -> tuple[zones.Record, ...]:
    """Return the records of a name, sorted; ``()`` when it has none of that type.

    Args:
        server: ``HOST:PORT``, IPv4.
        name: the name asked for.
        kind: the type asked for.

    Raises:
        LookupLaterError: no answer in :data:`ASK_SECONDS`, or a temporary error.
    """
    host, _, port = server.rpartition(":")
    query = dns.message.make_query(name, _TYPES[kind])
    try:
        response, _ = await dns.asyncquery.udp_with_fallback(query, host, timeout=ASK_SECONDS, port=int(port))
    except (dns.exception.DNSException, OSError, EOFError) as error:
        raise LookupLaterError(f"{name}: {error}") from error
    if response.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        raise LookupLaterError(f"{name}: {dns.rcode.to_text(response.rcode())}")
    rrsets = [rrset for rrset in response.answer if rrset.rdtype == _TYPES[kind]]
    return tuple(_record(rdata) for rrset in rrsets for rdata in sorted(rrset))


def _record(rdata: dns.rdata.Rdata) -> zones.Record:
    match rdata:
        case dns.rdtypes.ANY.TXT.TXT():
            return zones.Txt(b"".join(rdata.strings).decode(errors="replace"))
        case dns.rdtypes.ANY.MX.MX():
            return zones.Mx(rdata.preference, rdata.exchange.to_text(omit_final_dot=True))
        case dns.rdtypes.IN.A.A():
            return zones.A(rdata.address)
        case dns.rdtypes.IN.AAAA.AAAA():
            return zones.Aaaa(rdata.address)
    raise LookupLaterError(f"not a record that was asked for: {rdata}")
