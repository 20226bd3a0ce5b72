"""Delivering built reports against loops that only send the finished messages, or only make the requests.

The store has a report for each of many domains; each round makes all their deliveries due again and delivers them as
the reporter does: claimed with a lease, composed, signed with RSA-2048, sent, and noted in SQLite. Relay, receivers and
DNS are one process on loopback, the same for the yardstick.
"""

import asyncio
import collections
import contextlib
import datetime as dt
import functools
import io
import json
import pathlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

import aiohttp
import aiohttp.abc
import aiosmtplib
from aiohttp import web

from policy import tlsrpt
from sender import config, counting, daily, delivering, report
from sender.demo import certificates, receivers
from sender.store import deliveries, engine, reports
from tests.benchmarks import dnswire, installation, measure, processes, traffic

MAILS = 2000

SHORT_MAILS = 200

HOSTS = 200

SHORT_HOSTS = 100

DAY = dt.date(2026, 11, 23)

ORGANIZATION = "sender.example"

SELECTOR = "tlsrpt"

RECEIVERS = "receivers.example"

DUE = (
    "UPDATE deliveries SET state = 'due', attempts = 0, first_attempt = NULL, settled = NULL, leased_until = NULL,"
    " next_attempt = rowid"
)


@contextlib.contextmanager
def started(
    scratch: pathlib.Path, serve: Callable[[], contextlib.AbstractAsyncContextManager[object]]
) -> Iterator[dict[str, int]]:
    """Run servers in a process of its own; yield what they tell of themselves (ports)."""
    told = scratch / "told.json"
    with processes.running(functools.partial(_serve, serve, told)):
        processes.wait(told.exists)
        yield json.loads(told.read_text())


def _serve(serve: Callable[[], contextlib.AbstractAsyncContextManager[object]], told: pathlib.Path) -> None:
    async def run() -> None:
        async with serve() as ports:
            draft = told.with_suffix(".new")
            draft.write_text(json.dumps(ports))
            draft.rename(told)
            await asyncio.Event().wait()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def relay() -> AsyncIterator[dict[str, int]]:
    """Serve a relay."""
    async with receivers.MailReceiver() as mail:
        yield {"mail": mail.port}


@contextlib.asynccontextmanager
async def web_hosts(addresses: Sequence[str], context: ssl.SSLContext) -> AsyncIterator[dict[str, int]]:
    """Serve HTTPS receivers, each at an address of its own, and the DNS that knows them."""
    application = web.Application()
    application.router.add_post("/", _take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    port = 0
    for address in addresses:
        await web.TCPSite(runner, address, port, ssl_context=context).start()
        port = runner.addresses[0][1]
    known = {name(number): socket.inet_aton(address) for number, address in enumerate(addresses)}
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Names(known), ("127.0.0.1", 0))
    yield {"https": port, "dns": transport.get_extra_info("sockname")[1]}


class _Names(asyncio.DatagramProtocol):
    """A DNS server that takes as little time as a real one: it answers A, and knows nothing else."""

    def __init__(self, known: Mapping[str, bytes]) -> None:
        self._known = {dnswire.name(name.split(".")) + b"\0\1\0\1": address for name, address in known.items()}

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override] # of UDP
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(dnswire.reply(data, self._known.get(dnswire.question(data), b"")), addr)


async def _take(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=201)


def name(number: int) -> str:
    """Return the name of an HTTPS receiver."""
    return f"r{number}.{RECEIVERS}"


def fill(store: engine.Store, settings: config.Config, rua: Sequence[str]) -> None:
    """Put a report for each rua into the store, each about a domain of its own."""
    identity, now = config.identity(settings), dt.datetime.now(dt.UTC)
    domains = counting.count(collections.Counter(traffic.datagrams(5 * len(rua), len(rua)))).domains.values()
    with store.write() as connection:
        for number, (counts, uri) in enumerate(zip(domains, rua, strict=True)):
            report_id, about = report.report_id(f"{number:016x}", identity), (DAY, f"d{number}.example")
            document = report.document(identity, DAY, report_id, _by_policy(counts))
            made = reports.Report(report_id, *about, now, counts.successful, counts.failed, report.pack(document))
            reports.add(connection, [made])
            record = tlsrpt.parse_record(f"v=TLSRPTv1; rua={uri}")
            due = [(one, now) for one in record.rua]
            deliveries.add(connection, [deliveries.Addressed(report_id, *about, due)])


def _by_policy(counts: counting.DomainCounts) -> list[report.PolicyCount]:
    return [
        report.PolicyCount(policy, one.successful, one.failed, tuple(one.failures.items()))
        for policy, one in counts.policies.items()
    ]


async def deliver(settings: config.Config, store: engine.Store, number: int) -> float:
    """Deliver everything as the reporter does; return how many a second."""
    with store.write() as connection:
        connection.exec_driver_sql(DUE)
    async with daily.open_daily(settings, store) as job:
        started = time.perf_counter()
        done = [attempt async for attempt in job.deliver()]
        seconds = time.perf_counter() - started
    delivered = sum(attempt.step.answer.startswith("2") for attempt in done)
    if delivered != number:
        raise AssertionError(f"{delivered} of {number} delivered: {done[0]}")
    return number / seconds


@contextlib.contextmanager
def _mailing(place: measure.Place) -> Iterator[measure.Round]:
    number = SHORT_MAILS if place.short else MAILS
    key = place.scratch / "dkim.pem"
    key.write_bytes(certificates.dkim_key().private_pem)
    with started(place.scratch, relay) as ports:
        settings = installation.configured(
            place.scratch,
            f'[mail]\nrelay = "smtp://127.0.0.1:{ports["mail"]}"\ndkim_selector = "{SELECTOR}"\ndkim_key = "{key}"',
        )
        store = engine.open_store(settings.store.url)
        fill(store, settings, [f"mailto:tls-reports@d{one}.example" for one in range(number)])
        messages = _composed(settings, store)

        def one_round() -> measure.Sample:
            yardstick = asyncio.run(_only_send(ports["mail"], messages))
            return measure.Sample(asyncio.run(deliver(settings, store, number)), yardstick)

        yield one_round
        store.close()


Message = tuple[str, str, bytes]
"""Sender, recipient, content."""


def _composed(settings: config.Config, store: engine.Store) -> list[Message]:
    identity = config.identity(settings)
    signer = daily.load_signer(settings, identity)
    with store.read() as connection:
        due = [deliveries.from_row(row) for row in connection.exec_driver_sql("SELECT * FROM deliveries")]
        made = reports.by_id(connection, {one.report_id for one in due})
    return [
        (identity.sender, one.target, delivering.compose(identity, signer, one, made[one.report_id])) for one in due
    ]


async def _only_send(port: int, messages: Sequence[Message]) -> float:
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, local_hostname=ORGANIZATION, start_tls=False)
    async with client:
        began = time.perf_counter()
        for sender, recipient, content in messages:
            await client.sendmail(sender, [recipient], content)
        return len(messages) / (time.perf_counter() - began)


@contextlib.contextmanager
def _posting(place: measure.Place) -> Iterator[measure.Round]:
    number = SHORT_HOSTS if place.short else HOSTS
    addresses = [f"127.64.{one // 250}.{one % 250 + 1}" for one in range(number)]
    authority = certificates.Authority()
    ca_file = authority.write_ca(place.scratch / "ca.pem")
    context = certificates.server_context(authority.issue((f"*.{RECEIVERS}",)))
    with started(place.scratch, functools.partial(web_hosts, addresses, context)) as ports:
        settings = installation.configured(
            place.scratch,
            f'[dns]\nnameservers = ["127.0.0.1:{ports["dns"]}"]\n[https]\nca_file = "{ca_file}"\nallow_private = true',
        )
        store = engine.open_store(settings.store.url)
        urls = [f"https://{name(one)}:{ports['https']}/" for one in range(number)]
        fill(store, settings, urls)
        with store.read() as connection:
            bodies = [row[0] for row in connection.exec_driver_sql("SELECT packed FROM reports ORDER BY report_id")]
        addresses_of = dict(zip((name(one) for one in range(number)), addresses, strict=True))

        def one_round() -> measure.Sample:
            yardstick = asyncio.run(_only_post(ca_file, addresses_of, list(zip(urls, bodies, strict=True))))
            return measure.Sample(asyncio.run(deliver(settings, store, number)), yardstick)

        yield one_round
        store.close()


class _Known(aiohttp.abc.AbstractResolver):
    """Knows all names."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        return [{"hostname": host, "host": self._names[host], "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


async def _only_post(ca_file: pathlib.Path, names: dict[str, str], requests: Sequence[tuple[str, bytes]]) -> float:
    context = ssl.create_default_context()
    context.load_verify_locations(ca_file)
    connector = aiohttp.TCPConnector(ssl=context, resolver=_Known(names), force_close=True)
    gate = asyncio.Semaphore(delivering.BATCH)

    async with aiohttp.ClientSession(connector=connector) as session:

        async def post(url: str, body: bytes) -> None:
            async with gate, session.post(url, data=io.BytesIO(body)) as response:
                await response.read()
                if response.status != 201:
                    raise AssertionError(response.status)

        began = time.perf_counter()
        await asyncio.gather(*(post(url, body) for url, body in requests))
        return len(requests) / (time.perf_counter() - began)


BENCHMARKS = (
    measure.Benchmark(
        id="deliver-mail",
        what="reports by mail: claim, compose, sign (RSA-2048), send, note",
        unit="messages/s",
        yardstick="aiosmtplib alone sends the finished messages",
        target=0.5,
        guard=0.2,
        prepare=_mailing,
    ),
    measure.Benchmark(
        id="deliver-https",
        what="reports by HTTPS, each to a host of its own: claim, look up, post, note",
        unit="reports/s",
        yardstick="aiohttp alone posts them",
        target=0.6,
        guard=0.2,
        prepare=_posting,
    ),
)
