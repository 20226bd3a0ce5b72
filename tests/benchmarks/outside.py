"""The internet of the policy socket, cheap enough to leave the processors to what is measured: DNS and policy hosts.

Domains are ``d0.example``, ``d1.example``...; every fourth has an MTA-STS policy, and every fourth
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
from tests.benchmarks import dnswire, processes
from tests.lab import namespace

HOST = "127.0.0.1"

NAME_PORT = 53
"""In the namespace: peers ask no other one."""

HTTPS_PORT = 443

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
    return b"%b%b\0\1" % (dnswire.name([*labels, *name(number).split(".")]), kind.to_bytes(2))


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


def _answer(outside: Outside, query: bytes) -> bytes:
    """Answer as a recursive resolver that validates does; what it does not know does not exist."""
    match = _OURS.fullmatch(dnswire.question(query))
    number = int(match["number"]) if match else 0
    found = _records(outside, number).get((match["labels"], match["kind"][1])) if match else None
    return dnswire.reply(query, found, secure=secure(number))


def _records(outside: Outside, number: int) -> dict[tuple[bytes, int], bytes]:
    """Return a domain's records, by labels before it and type; empty: the name has others."""
    mx = b"\2mx"
    records = {
        (b"", dnswire.MX): b"\0\x0a\2mx\xc0\x0c",
        (mx, dnswire.A): socket.inet_aton(HOST),
        (mx, dnswire.AAAA): b"",
    }
    if secure(number):
        records[b"\3_25\4_tcp\2mx", dnswire.TLSA] = b"\3\1\1" + bytes(32)
    if outside.has_policy(number):
        records[b"\x08_mta-sts", dnswire.TXT] = dnswire.text(_RECORD)
        records |= {(b"\x07mta-sts", dnswire.A): socket.inet_aton(HOST), (b"\x07mta-sts", dnswire.AAAA): b""}
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
