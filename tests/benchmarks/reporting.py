"""The daily run (close, discover, build, gzip, store) against a loop that only encodes and gzips the same documents."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
import gzip
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import resource
import shutil
import signal
import socket
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator

import msgspec

from policy import resolver
from sender import building, config, daily, report, tally
from sender.store import engine
from tests.benchmarks import dnswire, installation, measure, peers, processes, tallying, traffic

DOMAINS = 20_000

SHORT = 2_000

RECORD = "v=TLSRPTv1;rua=mailto:tls-reports@"
"""What each domain publishes, but for its name at the end."""

SESSIONS = 5
"""For each domain, on average."""


def nameserver(sock: socket.socket) -> None:
    """Answer with a TLSRPT record for each domain of the traffic, and none for MX hosts, as quickly as can be."""
    while True:
        query, client = sock.recvfrom(512)
        domain = b".".join(dnswire.labels(dnswire.question(query))[2:])
        found = b"" if domain.startswith(b"mx.") else dnswire.text(RECORD.encode() + domain)
        sock.sendto(dnswire.reply(query, found), client)


@contextlib.contextmanager
def answering() -> Iterator[str]:
    """Run the nameserver; yield ``HOST:PORT``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        sock.bind(("127.0.0.1", 0))
        with processes.running(functools.partial(nameserver, sock)):
            yield f"127.0.0.1:{sock.getsockname()[1]}"


def tallied(scratch: pathlib.Path, domains: int, now: dt.datetime) -> pathlib.Path:
    """Return a store with a day of sessions of so many domains."""
    directory, file = scratch / "journal", scratch / "tallied.db"
    tallying.write(directory, traffic.datagrams(SESSIONS * domains, domains), now.timestamp())
    store = engine.open_store(f"sqlite:///{file}")
    tally.Tally(store, directory, "mta.example").catch_up(now)
    store.close()
    return file


NOBODY = ["127.0.0.1"]
"""Nameservers that are not asked."""

NO_DNS = '[dns]\nnameservers = ["127.0.0.1"]'
"""The same, in a configuration."""


class Remembered(resolver.Resolver):
    """Answers from memory what the nameserver would, so that what is measured is not dnspython."""

    async def texts(self, name: str) -> resolver.Answer[str]:
        """Return the TLSRPT record of each domain of the traffic, and none for MX hosts."""
        domain = name.partition("._tls.")[2]
        records = () if domain.startswith("mx.") else (RECORD + domain,)
        return resolver.Answer(records, exists=True, secure=False, ttl=dnswire.TTL, expanded=name)


async def run(
    settings: config.Config, store: engine.Store, now: dt.datetime, dns: resolver.Resolver | None = None
) -> int:
    """Close the day and build all reports; return how many."""
    async with daily.open_daily(settings, store, clock=lambda: now) as opened:
        job = (
            opened if dns is None else dataclasses.replace(opened, builder=dataclasses.replace(opened.builder, dns=dns))
        )
        await job.close(last=now.date())
        built = 0
        async for _ in job.build():
            built += 1
        return built


def _reported(
    template: pathlib.Path, settings: config.Config, now: dt.datetime, dns: resolver.Resolver | None = None
) -> float:
    """Report a copy of a store; return how many reports a second."""
    file = template.with_name("tlsrpt.db")
    file.unlink(missing_ok=True)
    shutil.copy(template, file)
    store = engine.open_store(settings.store.url)
    started = time.perf_counter()
    built = asyncio.run(run(settings, store, now, dns))
    seconds = time.perf_counter() - started
    store.close()
    return built / seconds


def documents(file: pathlib.Path) -> list[report.Document]:
    """Return the reports in a store."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT packed FROM reports").fetchall()
    return [report.parse(report.unpack(packed)) for (packed,) in rows]


def _bare(made: list[report.Document]) -> float:
    started = time.perf_counter()
    for document in made:
        gzip.compress(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n", mtime=0)
    return len(made) / (time.perf_counter() - started)


@contextlib.contextmanager
def _daily(place: measure.Place) -> Iterator[measure.Round]:
    domains = SHORT if place.short else DOMAINS
    now = dt.datetime.now(dt.UTC)
    template = tallied(place.scratch, domains, now)
    settings = installation.configured(place.scratch, NO_DNS)

    def one_round() -> measure.Sample:
        figure = _reported(template, settings, now, Remembered(NOBODY))
        made = documents(place.scratch / "tlsrpt.db")
        if len(made) < domains:
            raise AssertionError(f"{len(made)} reports for {domains} domains")
        return measure.Sample(figure, _bare(made))

    yield one_round


async def _looked_up(dns: resolver.Resolver, domains: int) -> float:
    """Look the records up, as many at once as the daily run does, and drop them; return how many a second."""
    numbers = iter(range(domains))

    async def work() -> None:
        for number in numbers:
            await dns.txt(f"_smtp._tls.d{number}.example")

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(building.AHEAD * building.LOOKUPS)))
    return domains / (time.perf_counter() - started)


@contextlib.contextmanager
def _discovering(place: measure.Place) -> Iterator[measure.Round]:
    now = dt.datetime.now(dt.UTC)
    template = tallied(place.scratch, SHORT, now)
    with answering() as dns:
        settings = installation.configured(place.scratch, f'[dns]\nnameservers = ["{dns}"]')

        def one_round() -> measure.Sample:
            yardstick = asyncio.run(_looked_up(resolver.Resolver([dns]), SHORT))
            return measure.Sample(_reported(template, settings, now), yardstick)

        yield one_round


MANY = 1_000_000

FEW = 10_000

MEMORY = 200.0
"""Megabytes that a run about :data:`MANY` domains may take."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What a daily run took."""

    each: float
    """Microseconds of a processor for a domain."""
    memory: float
    """Megabytes at most, of the whole process."""


def _cost(scratch: pathlib.Path, domains: int) -> Cost:
    """Tally and report so many domains, each in a process of its own."""
    scratch.mkdir()
    now = dt.datetime.now(dt.UTC)
    with processes.running(functools.partial(_fill, scratch, domains, now)) as filling:
        filling.join()
    reading, writing = multiprocessing.Pipe(duplex=False)
    with processes.running(functools.partial(_run_and_tell, scratch, now, writing)):
        writing.close()
        built, seconds, memory = reading.recv()
    shutil.rmtree(scratch)
    if built < domains:
        raise AssertionError(f"{built} reports for {domains} domains")
    return Cost(seconds / domains * 1e6, memory)


def _fill(scratch: pathlib.Path, domains: int, now: dt.datetime) -> None:
    lines = (traffic.datagram(f"d{index}.example", index, failed=not index % 20) for index in range(domains))
    tallying.write(scratch / "journal", lines, now.timestamp())
    store = engine.open_store(f"sqlite:///{scratch}/tlsrpt.db")
    tally.Tally(store, scratch / "journal", "mta.example").catch_up(now)
    store.close()


def _run_and_tell(scratch: pathlib.Path, now: dt.datetime, telling: multiprocessing.connection.Connection) -> None:
    settings = installation.configured(scratch, NO_DNS)
    store = engine.open_store(settings.store.url)
    started = time.process_time()
    built = asyncio.run(run(settings, store, now, Remembered(NOBODY)))
    seconds = time.process_time() - started
    telling.send((built, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


@functools.cache
def _many() -> Cost:
    """Measure once what both benchmarks of it are about: it takes minutes."""
    with tempfile.TemporaryDirectory(prefix="tlsrpt-bench-") as scratch:
        return _cost(pathlib.Path(scratch) / "many", MANY)


@contextlib.contextmanager
def _time(place: measure.Place) -> Iterator[measure.Round]:
    few = [_cost(place.scratch / f"few{number}", FEW).each for number in range(3)]
    yield lambda: measure.Sample(_many().each, statistics.median(few))


@contextlib.contextmanager
def _memory(_place: measure.Place) -> Iterator[measure.Round]:
    yield lambda: measure.Sample(_many().memory, MEMORY)


PEER_DOMAINS = 60


def _peers_reports(scratch: pathlib.Path) -> float:
    """Have the peer collect, close and report a few domains; return how many a second."""
    scratch.mkdir()
    path = scratch / "collectd.sock"
    lines = traffic.datagrams(PEER_DOMAINS, PEER_DOMAINS)
    with processes.running(functools.partial(peers.collectd, scratch, path)) as collecting:
        processes.wait(path.is_socket)
        traffic.send(path, lines)
        time.sleep(1)  # it does not tell when it has read them
        os.kill(collecting.pid or 0, signal.SIGUSR2)  # its way to make today yesterday
        processes.wait((scratch / "collectd.sqlite.yesterday").exists)
    with processes.running(functools.partial(peers.reportd, scratch)):
        processes.wait(lambda: _rows(scratch, "reportdata") == PEER_DOMAINS)
        started = time.perf_counter()
        processes.wait(lambda: _rows(scratch, "reports") == PEER_DOMAINS)
        return PEER_DOMAINS / (time.perf_counter() - started)


def _rows(scratch: pathlib.Path, table: str) -> int:
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{scratch}/reportd.sqlite?mode=ro", uri=True)) as connection,
    ):
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    return 0


@contextlib.contextmanager
def _peer(place: measure.Place) -> Iterator[measure.Round]:
    peers.installed("tlsrpt-reporter")
    numbers = itertools.count()
    with _daily(measure.Place(place.scratch, short=True)) as ours:
        yield lambda: measure.Sample(ours().figure, _peers_reports(place.scratch / f"peer{next(numbers)}"))


BENCHMARKS = (
    measure.Benchmark(
        id="daily",
        what=f"daily run: close, build, gzip, store, {DOMAINS:,} domains",
        unit="reports/s",
        yardstick="a loop that only encodes and gzips the same documents",
        target=0.3,
        guard=0.06,
        prepare=_daily,
        known="SQLite takes as long as the yardstick, Python three times as long",
    ),
    measure.Benchmark(
        id="daily-dns",
        what=f"the same with look-ups, {SHORT:,} domains",
        unit="reports/s",
        yardstick="a loop that only looks the same records up with dnspython",
        target=0.5,
        prepare=_discovering,
    ),
    measure.Benchmark(
        id="daily-peer",
        what="the same against the peer",
        unit="reports/s",
        yardstick="tlsrpt-reportd",
        target=200,
        prepare=_peer,
    ),
    measure.Benchmark(
        id="daily-million",
        what=f"the same for {MANY:,} domains: time for each",
        unit="microseconds",
        yardstick=f"for {FEW:,} domains",
        target=1.25,
        at_most=True,
        known="first deliveries are due at random times",
        rounds=1,
        prepare=_time,
    ),
    measure.Benchmark(
        id="daily-memory",
        what=f"the same for {MANY:,} domains: memory of the process",
        unit="MB",
        yardstick="what it may take",
        target=1,
        at_most=True,
        rounds=1,
        prepare=_memory,
    ),
)
