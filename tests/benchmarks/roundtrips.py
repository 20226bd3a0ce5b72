"""The round trips that it takes to find out about domains, in the order that the RFCs demand, and nothing else.

DANE: MX, the addresses of the host, its TLSA records (RFC 7672 section 2.2: TLSA not before the addresses). MTA-STS, at
the same time: its record, the addresses of the policy host, the policy (RFC 8461 section 3). Nothing is kept, judged,
retried, or limited in time.
"""

import asyncio
import itertools
import ssl
import time
from collections.abc import Iterator

import uvloop

from tests.benchmarks import dnswire, outside

_QUERY = b"%b\1\x20\0\1\0\0\0\0\0\1%b" + b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"
"""RD and AD set, one question, EDNS with DO."""


class _Names(asyncio.DatagramProtocol):
    """Asks the DNS."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._ids = itertools.cycle(number.to_bytes(2, "big") for number in range(2**16))

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # of UDP
        self._transport = transport

    def ask(self, number: int, labels: tuple[str, ...], kind: int) -> asyncio.Future[None]:
        """Ask one question."""
        id_, answered = next(self._ids), asyncio.get_running_loop().create_future()
        self._waiting[id_] = answered
        self._transport.sendto(_QUERY % (id_, outside.question(number, labels, kind)))
        return answered

    def datagram_received(self, data: bytes, _: object) -> None:
        self._waiting.pop(data[:2]).set_result(None)


async def _dane(names: _Names, number: int) -> None:
    await names.ask(number, (), dnswire.MX)
    if outside.secure(number):
        await _addresses(names, number, outside.MX_HOST)
        await names.ask(number, outside.TLSA_BASE, dnswire.TLSA)


async def _addresses(names: _Names, number: int, host: tuple[str, ...]) -> None:
    await asyncio.gather(names.ask(number, host, dnswire.AAAA), names.ask(number, host, dnswire.A))


async def _mta_sts(names: _Names, number: int, tls: ssl.SSLContext, *, policy: bool) -> None:
    await names.ask(number, outside.MTA_STS, dnswire.TXT)
    if policy:
        await _addresses(names, number, outside.POLICY_HOST)
        host = f"{outside.POLICY_HOST[0]}.{outside.name(number)}"
        reader, writer = await asyncio.open_connection(outside.HOST, outside.HTTPS_PORT, ssl=tls, server_hostname=host)
        writer.write(f"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.rpartition(b":")[2]))
        writer.transport.abort()


def seconds(where: outside.Outside, domains: int, at_once: int) -> float:
    """Find out about domains, so many at once; return how long it took."""
    tls = ssl.create_default_context(cafile=where.ca_file)

    async def work(names: _Names, numbers: Iterator[int]) -> None:
        for number in numbers:
            policy = where.has_policy(number)
            await asyncio.gather(_dane(names, number), _mta_sts(names, number, tls, policy=policy))

    async def main() -> float:
        loop = asyncio.get_running_loop()
        transport, names = await loop.create_datagram_endpoint(_Names, remote_addr=(outside.HOST, where.port))
        numbers = iter(range(domains))
        started = time.perf_counter()
        await asyncio.gather(*(work(names, numbers) for _ in range(at_once)))
        transport.close()
        return time.perf_counter() - started

    return uvloop.run(main())
