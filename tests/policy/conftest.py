"""A made-up internet on loopback for the tests of this room: a DNS server and certificates of a CA of its own."""

import asyncio
import contextlib
import datetime as dt
import errno
import ipaddress
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Zone = Mapping[tuple[str, str], Sequence[str] | str]
"""(name, type) to records in zone file form, or ``SILENT``, ``GARBAGE``, ``BOGUS`` or an rcode's name; read anew each
time. Besides the types of the DNS: (name, ``SIGNED``) and (name, ``UNSIGNED``) say whether this name and all below it
are secure, with any value (none are by default); (name, ``TTL``) has the seconds of its records (60 by default);
(name, ``ASKED CNAME``) says what happens only when this type is asked for. The SOA of the name itself or the nearest
above it goes with negative answers."""

_UDP_SIZE = 512


def _answer(zone: Zone, wire: bytes) -> bytes | None:
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    name, kind = query.question[0].name, query.question[0].rdtype
    secure = bool(query.flags & dns.flags.AD and query.ednsflags & dns.flags.DO)
    asked = zone.get((_text(name), f"ASKED {kind.name}"))
    if isinstance(asked, str):
        return _special(asked, wire, response)
    for _ in range(8):
        text = _text(name)
        found = zone.get((text, kind.name))
        alias = zone.get((text, "CNAME"))
        ttl = int(zone.get((text, "TTL"), ["60"])[0])
        secure = secure and _nearest(zone, name, "SIGNED", "UNSIGNED")[1] == "SIGNED"
        if isinstance(found, str):
            return _special(found, wire, response)
        if found is not None:
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *found))
        if found is not None or alias is None:
            break
        response.answer.append(dns.rrset.from_text(name, ttl, "IN", "CNAME", *alias))
        name = dns.name.from_text(alias[0])
    last = _text(name)
    if not any(known == last for known, _ in zone):
        response.set_rcode(dns.rcode.NXDOMAIN)
    apex, soa = _nearest(zone, name, "SOA")
    if soa and found is None:
        ttl = int(zone.get((_text(apex), "TTL"), ["60"])[0])
        response.authority.append(dns.rrset.from_text(apex, ttl, "IN", soa, *zone[_text(apex), soa]))
    response.flags |= dns.flags.AD if secure else 0
    return response.to_wire(max_size=65535)


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _nearest(zone: Zone, name: dns.name.Name, *kinds: str) -> tuple[dns.name.Name, str]:
    """Return the nearest name with one of these kinds, from the name itself upwards, and the kind; empty: none."""
    while True:
        for kind in kinds:
            if (_text(name), kind) in zone:
                return name, kind
        if name == dns.name.root:
            return name, ""
        name = name.parent()


def _special(word: str, wire: bytes, response: dns.message.Message) -> bytes | None:
    if word == "SILENT":
        return None
    if word == "GARBAGE":
        return wire[:2] + b"\x81\x80\xff\xff" + wire[6:]
    if word == "BOGUS":
        response.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS, "signature")])
        word = "SERVFAIL"
    response.set_rcode(dns.rcode.from_text(word))
    return response.to_wire(max_size=65535)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = _answer(self._zone, data)
        if answer and len(answer) > _UDP_SIZE:
            short = dns.message.make_response(dns.message.from_wire(data))
            short.flags |= dns.flags.TC
            answer = short.to_wire()
        if answer:
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def _serve(zone: Zone) -> AsyncIterator[str]:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            answer = _answer(zone, await reader.readexactly(size))
            if answer:
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        writer.close()

    server, transport = await _bind(stream, zone)
    port = server.sockets[0].getsockname()[1]
    try:
        async with server:
            yield f"127.0.0.1:{port}"
    finally:
        transport.close()


async def _bind(
    stream: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], zone: Zone
) -> tuple[asyncio.Server, asyncio.DatagramTransport]:
    """Listen on one port of TCP and UDP; a port that is free for the one may be taken for the other."""
    loop = asyncio.get_running_loop()
    while True:
        transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(zone), local_addr=("127.0.0.1", 0))
        try:
            return await asyncio.start_server(stream, *transport.get_extra_info("sockname")), transport
        except OSError as error:
            transport.close()
            if error.errno != errno.EADDRINUSE:
                raise


@pytest.fixture(scope="session")
def nameserver() -> Callable[[Zone], AbstractAsyncContextManager[str]]:
    """Give a context manager that answers from a zone over UDP (512 octets) and TCP; its value is ``HOST:PORT``."""
    return _serve


_NOW = dt.datetime.now(dt.UTC)
_DAY = dt.timedelta(days=1)


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, end: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - 30 * _DAY)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = _builder("Test CA", "Test CA", key, _NOW + 30 * _DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(usage, critical=True).sign(key, hashes.SHA256()), key


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class _Certificates:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._certificate, self._key = _authority()
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, host: str, days: int = 10, *, named: bool = True) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = _builder(host, "Test CA", key, _NOW + days * _DAY).add_extension(issuer_key, critical=False)
        if named:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return self._context(key, certificate)

    def self_signed(self, host: str, days: int = 10) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(host, host, key, _NOW + days * _DAY)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        return self._context(key, builder.sign(key, hashes.SHA256()))

    def _context(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> ssl.SSLContext:
        file = self._folder / f"{x509.random_serial_number()}.pem"
        pkcs8, clear = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem = serialization.Encoding.PEM
        file.write_bytes(key.private_bytes(pem, pkcs8, clear) + certificate.public_bytes(pem))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context


@pytest.fixture(scope="session")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> _Certificates:
    return _Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def ca_file(_certificates: _Certificates) -> str:
    """Give the path of the CA's certificate in PEM."""
    return str(_certificates.ca_file)


@pytest.fixture(scope="session")
def server_tls(_certificates: _Certificates) -> Callable[..., ssl.SSLContext]:
    """Give a function of (host, days=10, named=True): server side TLS with a certificate for it.

    The certificate ends in so many days; the host stands in its common name, and if named in its SAN, too.
    """
    return _certificates.server


@pytest.fixture(scope="session")
def self_signed(_certificates: _Certificates) -> Callable[..., ssl.SSLContext]:
    """Give a function of (host, days=10): server side TLS with a certificate for it that only it itself vouches for."""
    return _certificates.self_signed


@pytest.fixture(scope="session")
def unknown_issuer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ssl.SSLContext]:
    """Give what ``server_tls`` gives, of a CA that nobody has heard of."""
    return _Certificates(tmp_path_factory.mktemp("unknown issuer")).server
