"""A fleet on PostgreSQL: what rows cost, what a thousand hosts make of it, and how reporters add up.

``python -m tests.benchmarks.fleet`` measures what rows cost a real PostgreSQL (processor time of its processes, bytes
of its log, disk) and works out from that the load of :data:`HOSTS` hosts that send to :data:`DOMAINS` domains, for
several ``store.flush``. As benchmarks: the tally into PostgreSQL against SQLite, and several reporters against one.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
import itertools
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import rich.box
import rich.console
import rich.table

from sender import config, counting
from sender.store import closings, counts, engine, partitions
from tests import postgresql
from tests.benchmarks import installation, measure, processes, reporting, tallying, traffic

HOSTS = 1_000
DOMAINS = 5_000_000
RATES = (1, 10, 100)
"""Sessions a second of one host."""
FLUSHES = (1, 10, 60, 300)
"""Seconds between two commits of a host."""

EXPONENT = 1.0
"""Of Zipf's law for how mail spreads over domains: the n-th is sent to 1/n as often as the first. A fleet that sends to
more different domains writes more rows; 1 is what is found for web and mail traffic, and on the careful side."""

DAY_SECONDS = 86_400

TICKS = os.sysconf("SC_CLK_TCK")

SYNCED = {"fsync": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"}
"""As an operator runs it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What something costs the server."""

    processor: float
    """Seconds."""
    log: float
    """Bytes written ahead."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.processor + other.processor, self.log + other.log)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.processor * times, self.log * times)


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """What a fleet's rows cost."""

    commit: Cost
    """One transaction of the tally, without its rows."""
    known: Cost
    """Adding to a domain-day that is there."""
    new: Cost
    """A domain-day that is not."""
    report: Cost
    """Claiming and deciding a domain-day, and its report with one delivery."""
    disk: float
    """Bytes of a domain-day with a policy, and all indexes."""


def distinct(sessions: float, domains: int = DOMAINS) -> float:
    """Return how many different domains so many sessions go to, on average, by Zipf's law.

    Args:
        sessions: how many.
        domains: there are.
    """
    harmonic = sum(weight * count for weight, count in _ranks(domains))
    return sum(count * -math.expm1(-sessions * weight / harmonic) for weight, count in _ranks(domains))


@functools.cache
def _ranks(domains: int) -> list[tuple[float, int]]:
    """Return weights with how many domains have them; far down, a hundredth of the ranks together."""
    ranks, first = [], 1
    while first <= domains:
        last = min(domains, max(first, int(first * 1.01)))
        ranks.append((((first + last) / 2) ** -EXPONENT, last - first + 1))
        first = last + 1
    return ranks


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What a fleet asks of the server."""

    commits: float
    """A second, of all hosts."""
    rows: float
    """Domain-days that are added to, a second, of all hosts."""
    processor: float
    """Processors kept busy."""
    log: float
    """Bytes a second."""
    disk: float
    """Bytes a day."""


def load(costs: Costs, rate: float, flush: float, hosts: int = HOSTS) -> Load:
    """Work out what hosts ask of the server, as an average over the day.

    Args:
        costs: measured.
        rate: sessions a second of one host.
        flush: seconds between two commits of a host.
        hosts: how many.
    """
    rows = hosts * distinct(rate * flush) / flush
    new = distinct(hosts * rate * DAY_SECONDS) / DAY_SECONDS
    asked = costs.commit * (hosts / flush) + costs.known * (rows - new) + (costs.new + costs.report) * new
    return Load(hosts / flush, rows, asked.processor, asked.log, new * DAY_SECONDS * costs.disk)


def measured(server: postgresql.Server, *, short: bool) -> Costs:
    """Measure what rows cost a server."""
    store = engine.open_store(server.url("postgres"))
    number = 2_000 if short else 20_000
    day = dt.date(2026, 11, 24)
    lines = [traffic.datagram(f"d{index}.example", index, failed=index % 20 == 0) for index in range(number)]
    counted = counting.count(dict.fromkeys(lines, 1))
    nothing = counting.Counts()
    numbers = itertools.count()

    def add(what: counting.Counts) -> None:
        name = f"segment {next(numbers)}"

        def work(connection: engine.Connection) -> None:
            counts.advance(connection, "journal", name, day, start=0, end=1)
            counts.add(connection, "host", day, what)

        store.change(work)

    partitions.prepare(store, day)
    add(counting.count({lines[0]: 1}))
    times = 100
    commit = _cost(server, lambda: _repeat(times, lambda: add(nothing))) * (1 / times)
    size = _size(server)
    new = _cost(server, lambda: add(counted)) * (1 / number)
    disk = (_size(server) - size) / number
    known = _cost(server, lambda: _repeat(3, lambda: add(counted))) * (1 / (3 * number))
    store.change(lambda connection: closings.close(connection, day))
    settings = installation.configured(pathlib.Path("/nonexistent"), reporting.NO_DNS)
    made = _cost(server, lambda: asyncio.run(_built(settings, store))) * (1 / number)
    store.close()
    return Costs(commit, known, new, made, disk)


def _repeat(times: int, work: Callable[[], object]) -> None:
    for _ in range(times):
        work()


async def _built(settings: config.Config, store: engine.Store) -> None:
    now = dt.datetime(2026, 11, 25, 0, 5, tzinfo=dt.UTC)
    await reporting.run(settings, store, now, reporting.Remembered(reporting.NOBODY))


def _cost(server: postgresql.Server, work: Callable[[], object]) -> Cost:
    """Return what something cost the server; a checkpoint belongs to it."""
    server.run("CHECKPOINT")
    processor, log = _processor(server), _log(server)
    work()
    server.run("CHECKPOINT")
    return Cost(_processor(server) - processor, _log(server) - log)


def _processor(server: postgresql.Server) -> float:
    """Return the seconds of processor time that the server's processes have used, those that ended included."""
    parent = (server.folder / "data" / "postmaster.pid").read_text().split()[0]
    ticks = sum(_ticks(pathlib.Path("/proc") / parent, ended=True), 0)
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "stat").read_text().rpartition(")")[2].split()[1] == parent:
                ticks += sum(_ticks(path, ended=False))
    return ticks / TICKS


def _ticks(process: pathlib.Path, *, ended: bool) -> list[int]:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return [int(field) for field in fields[11 : 15 if ended else 13]]


def _log(server: postgresql.Server) -> float:
    return float(server.run("SELECT pg_current_wal_lsn() - '0/0'")[0])


def _size(server: postgresql.Server) -> float:
    server.run("VACUUM")
    return float(server.run("SELECT pg_database_size('postgres')")[0])


@contextlib.contextmanager
def _running() -> Iterator[postgresql.Server]:
    if postgresql.programs() is None:
        raise measure.CannotError("PostgreSQL is not installed")
    with postgresql.start(SYNCED) as server:
        yield server


@contextlib.contextmanager
def _tally(place: measure.Place) -> Iterator[measure.Round]:
    """Tally the same journal into SQLite and into PostgreSQL."""
    number, domains = tallying.SHORT if place.short else (tallying.DATAGRAMS, tallying.DOMAINS)
    now = dt.datetime.now(dt.UTC)
    directory = place.scratch / "journal"
    tallying.write(directory, traffic.datagrams(number, domains), now.timestamp())
    numbers = itertools.count()
    with _running() as server:

        def one_round() -> measure.Sample:
            name = f"round{next(numbers)}"
            server.run(f"CREATE DATABASE {name}")
            urls = (server.url(name), f"sqlite:///{place.scratch}/{name}.db")
            return measure.Sample(*(tallying.tallied(url, directory, now, number) for url in urls))

        yield one_round


REPORTERS = 20


@contextlib.contextmanager
def _reporters(place: measure.Place, several: int) -> Iterator[measure.Round]:
    """Build the reports of a day by several processes at once, and by one."""
    number = reporting.SHORT if place.short else reporting.DOMAINS
    day = dt.date(2026, 11, 24)
    lines = [traffic.datagram(f"d{index}.example", index, failed=index % 20 == 0) for index in range(number)]
    with _running() as server:
        store = engine.open_store(server.url("postgres"))
        partitions.prepare(store, day)
        counted = counting.count(dict.fromkeys(lines, 1))
        store.change(lambda connection: counts.add(connection, "host", day, counted))
        store.change(lambda connection: closings.close(connection, day))
        store.close()
        server.run("CREATE DATABASE counted TEMPLATE postgres", "template1")
        numbers = itertools.count()

        def one_round() -> measure.Sample:
            return measure.Sample(*(_by(server, next(numbers), several_, number) for several_ in (several, 1)))

        yield one_round


def _by(server: postgresql.Server, round_: int, reporters: int, number: int) -> float:
    """Build all reports with so many processes; return how many a second. None may be missing, or made twice."""
    name = f"round{round_}"
    server.run(f"CREATE DATABASE {name} TEMPLATE counted", "template1")
    url = server.url(name)
    with contextlib.ExitStack() as stack:
        started = time.perf_counter()
        for _ in range(reporters):
            stack.enter_context(processes.running(functools.partial(_report, url)))
        processes.wait(lambda: int(server.run(_UNDECIDED, name)[0]) == 0, 600)
        figure = number / (time.perf_counter() - started)
    (made,) = server.run("SELECT count(*) || ' ' || count(DISTINCT domain) FROM reports", name)
    (deadlocks,) = server.run(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'")
    if len(set(made.split())) != 1 or deadlocks != "0":
        raise AssertionError(f"{made} reports and domains, {deadlocks} deadlocks")
    server.run(f"DROP DATABASE {name} WITH (FORCE)", "template1")
    return figure


_UNDECIDED = "SELECT count(*) FROM domain_days WHERE state = 'undecided'"


def _report(url: str) -> None:
    settings = installation.configured(pathlib.Path("/nonexistent"), reporting.NO_DNS)
    asyncio.run(_built(settings, engine.open_store(url)))


BENCHMARKS = (
    measure.Benchmark(
        id="tally-postgresql",
        what=f"tally: {tallying.DATAGRAMS:,} datagrams of {tallying.DOMAINS:,} domains into PostgreSQL",
        unit="datagrams/s",
        yardstick="the same into SQLite",
        target=0.5,
        guard=0.2,
        prepare=_tally,
    ),
    *(
        measure.Benchmark(
            id=f"reporters-{several}",
            what=f"build the reports of {reporting.DOMAINS:,} domains on PostgreSQL with {several} processes",
            unit="reports/s",
            yardstick="with one",
            target=target,
            prepare=functools.partial(_reporters, several=several),
            rounds=3,
        )
        for several, target in ((2, 1.2), (4, 1.2), (REPORTERS, 1.0))
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Measure, work out, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fleet", description=__doc__)
    parser.add_argument("--short", action="store_true", help="measure less")
    options = parser.parse_args(arguments)
    with _running() as server:
        costs = measured(server, short=options.short)
    console = rich.console.Console(width=None if sys.stdout.isatty() else 120)
    console.print(_costs(costs))
    console.print(_loads(costs))
    return 0


def _costs(costs: Costs) -> rich.table.Table:
    table = rich.table.Table("what", "processor", "log", title="What rows cost the server", box=rich.box.SIMPLE_HEAD)
    for name in ("commit", "known", "new", "report"):
        cost: Cost = getattr(costs, name)
        table.add_row(name, f"{cost.processor * 1e6:,.0f} µs", f"{cost.log:,.0f} bytes")
    table.caption = f"A domain-day takes {costs.disk:,.0f} bytes of disk"
    return table


def _loads(costs: Costs) -> rich.table.Table:
    columns = (
        "sessions/s of a host",
        "flush",
        "rows/s of a host",
        "commits/s",
        "rows/s",
        "processors",
        "log",
        "disk a day",
    )
    title = f"{HOSTS:,} hosts, {DOMAINS:,} domains"
    table = rich.table.Table(*columns, "hosts for a processor", title=title, box=rich.box.SIMPLE_HEAD)
    for rate, flush in itertools.product(RATES, FLUSHES):
        one = load(costs, rate, flush)
        table.add_row(
            f"{rate}",
            f"{flush} s",
            f"{one.rows / HOSTS:,.2f}",
            f"{one.commits:,.0f}",
            f"{one.rows:,.0f}",
            f"{one.processor:.2f}",
            f"{one.log / 1e6:.1f} MB/s",
            f"{one.disk / 1e9:.1f} GB",
            f"{HOSTS / one.processor:,.0f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
