"""The internet of the policy socket, cheap enough to leave the processors to what is measured: DNS and policy hosts.

Domains are ``d0.example``, ``d1.example``...; as in ``traffic``, every fourth has an MTA-STS policy, and every fourth
DNSSEC and TLSA records. The port of policy hosts is 443, so there are some only as root, in a network namespace
(``tests.lab.namespace``); elsewhere no domain has a policy.
"""

import asyncio
import contextlib
import dataclasses
import functools
import pathlib
import re
import socket
import ssl
from collections.abc import Iterator

import uvloop

from sender.demo import certificates
from tests.benchmarks import processes
from tests.lab import namespace

HOST = "127.0.0.1"

NAME_PORT = 53
"""In the namespace: peers ask no other one."""

HTTPS_PORT = 443

A, MX, TXT, AAAA, TLSA = 1, 15, 16, 28, 52

MTA_STS = ("_mta-sts",)

POLICY_HOST = ("mta-sts",)

MX_HOST = ("mx",)

TLSA_BASE = ("_25", "_tcp", "mx")

_POLICY = "version: STSv1\r\nmode: enforce\r\nmx: mx.{domain}\r\nmax_age: 604800\r\n"

_RECORD = b"v=STSv1; id=20260101;"


@dataclasses.dataclass(frozen=True, slots=True)
class Outside:
    """Where it is."""

    port: int
    """Of the DNS server, at :data:`HOST`."""
    ca_file: pathlib.Path
    """Whom to trust about policy hosts."""
    policies: bool
    """Whether there are policy hosts."""

    @property
    def nameserver(self) -> str:
        """As ``dns.nameservers`` has it."""
        return f"{HOST}:{self.port}"

    def has_policy(self, number: int) -> bool:
        """Tell whether a domain has an MTA-STS policy."""
        return self.policies and number % 4 == 0


def name(number: int) -> str:
    """Return a domain."""
    return f"d{number}.example"


def secure(number: int) -> bool:
    """Tell whether a domain has DNSSEC and TLSA records."""
    return number % 4 == 1


def question(number: int, labels: tuple[str, ...], kind: int) -> bytes:
    """Return a question of the DNS (RFC 1035 section 4.1.2) about a name below a domain."""
    parts = (*labels, *name(number).split("."))
    octets = b"".join(bytes((len(part),)) + part.encode() for part in parts)
    return b"%b\0%b\0\1" % (octets, kind.to_bytes(2, "big"))


@contextlib.contextmanager
def running(scratch: pathlib.Path, domains: int, *, delay: float = 0.0) -> Iterator[Outside]:
    """Be where it is, until the end.

    Args:
        scratch: a folder.
        domains: how many there are.
        delay: seconds until the DNS answers.
    """
    ca_file = scratch / "ca.pem"
    authority = certificates.Authority()
    authority.write_ca(ca_file)
    with contextlib.ExitStack() as stack:
        policies = namespace.missing() is None
        if policies:
            stack.enter_context(namespace.entered(()))
        names = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        names.bind((HOST, NAME_PORT if policies else 0))
        outside = Outside(names.getsockname()[1], ca_file, policies)
        stack.enter_context(processes.running(functools.partial(_answer_questions, names, outside, delay)))
        if policies:
            hosts = stack.enter_context(socket.socket())
            hosts.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            hosts.bind((HOST, HTTPS_PORT))
            hosts.listen(1000)
            numbers = filter(outside.has_policy, range(domains))
            tls = _policy_hosts(authority, [f"{POLICY_HOST[0]}.{name(number)}" for number in numbers])
            stack.enter_context(processes.running(functools.partial(_serve_policies, hosts, tls)))
        yield outside


class _Names(asyncio.DatagramProtocol):
    def __init__(self, outside: Outside, delay: float) -> None:
        self._outside, self._delay = outside, delay

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # of UDP
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = _answer(self._outside, data)
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._transport.sendto, reply, addr)
        else:
            self._transport.sendto(reply, addr)


_OURS = re.compile(rb"(?P<labels>.*).d(?P<number>[0-9]+)\x07example\x00(?P<kind>..)\x00\x01", re.DOTALL)

_OPT = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"
"""EDNS of the answer (RFC 6891 section 6.1.2): 1232 octets, DO."""


def _answer(outside: Outside, query: bytes) -> bytes:
    """Answer as a recursive resolver that validates does; what it does not know does not exist."""
    end = query.index(b"\0", 12) + 5
    asked = query[12:end]
    match = _OURS.fullmatch(asked)
    number = int(match["number"]) if match else 0
    found = _records(outside, number).get((match["labels"], match["kind"][1])) if match else None
    edns = query[10:12] != b"\0\0"
    return b"%b\x81%b\0\1\0%b\0\0\0%b%b%b%b" % (
        query[:2],
        bytes((0x80 | (0x20 if secure(number) else 0) | (3 if found is None else 0),)),
        b"\1" if found else b"\0",
        b"\1" if edns else b"\0",
        asked,
        b"\xc0\x0c%b\0\1\0\0\x0e\x10%b%b" % (asked[-4:-2], len(found).to_bytes(2, "big"), found) if found else b"",
        _OPT if edns else b"",
    )


def _records(outside: Outside, number: int) -> dict[tuple[bytes, int], bytes]:
    """Return a domain's records, by labels before it and type; empty: the name has others."""
    mx = b"\2mx"
    records = {(b"", MX): b"\0\x0a\2mx\xc0\x0c", (mx, A): socket.inet_aton(HOST), (mx, AAAA): b""}
    if secure(number):
        records[b"\3_25\4_tcp\2mx", TLSA] = b"\3\1\1" + bytes(32)
    if outside.has_policy(number):
        records[b"\x08_mta-sts", TXT] = bytes((len(_RECORD),)) + _RECORD
        records |= {(b"\x07mta-sts", A): socket.inet_aton(HOST), (b"\x07mta-sts", AAAA): b""}
    return records


def _answer_questions(sock: socket.socket, outside: Outside, delay: float) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Names(outside, delay), sock=sock)
        await asyncio.Event().wait()

    uvloop.run(main())


_NAMES = 20
"""Of one certificate."""


def _policy_hosts(authority: certificates.Authority, hosts: list[str]) -> ssl.SSLContext:
    """Return a context that shows each host's certificate to who asks for it."""
    contexts: dict[str, ssl.SSLContext] = {}
    for start in range(0, len(hosts), _NAMES):
        some = tuple(hosts[start : start + _NAMES])
        contexts |= dict.fromkeys(some, certificates.server_context(authority.issue(some)))

    def choose(connection: ssl.SSLObject, host: str | None, _: ssl.SSLContext) -> None:
        connection.context = contexts[host or ""]

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.sni_callback = choose
    return context


class _PolicyHost(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is a stream
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        found = re.search(rb"(?i)\r\nhost: mta-sts\.([a-z0-9.-]+)\r\n", data)
        text = _POLICY.format(domain=found[1].decode() if found else "").encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
        )


def _serve_policies(sock: socket.socket, tls: ssl.SSLContext) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_PolicyHost, sock=sock, ssl=tls, backlog=1000)
        await server.serve_forever()

    uvloop.run(main())
