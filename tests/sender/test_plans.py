"""What the store does often costs the same, however many days and domains it holds: nothing searches through them.

The measure is not time: for SQLite the instructions of its virtual machine, for PostgreSQL the pages that statements
touch (``EXPLAIN (ANALYZE, BUFFERS)``).
"""

import collections
import contextlib
import dataclasses
import datetime as dt
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from policy import tlsrpt
from sender import counting, outcome
from sender.store import (
    bulk,
    closings,
    counts,
    deliveries,
    engine,
    hosts,
    listings,
    partitions,
    recorders,
    reports,
    retention,
    schema,
)

pytestmark = pytest.mark.both_stores

TODAY = dt.date(2026, 11, 24)
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
YESTERDAY = TODAY - dt.timedelta(days=1)

BATCH = 200
"""Rows of those operations that take many at once."""

REPORTED = 10
"""One of so many domains asks for reports, and so many have a failure."""


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How much a store holds."""

    days: int
    """Decided ones, before yesterday and today."""
    domains: int
    """On each day."""


def fill(store: engine.Store, size: Size) -> None:
    """Fill a store: decided days, yesterday closed and not decided, today open."""
    for age in range(size.days + 2):
        day = TODAY - dt.timedelta(days=age)
        partitions.prepare(store, day)
        store.change(functools.partial(_fill_day, day=day, number=size.domains))
    with store.write() as connection:
        connection.exec_driver_sql("ANALYZE")


def _fill_day(connection: engine.Connection, day: dt.date, number: int) -> None:
    names = [f"d{place}.example" for place in range(number)]
    decided = day < YESTERDAY
    states = [_state(place) if decided else (schema.UNDECIDED, None) for place in range(number)]
    rows = [(day, name, 1, None, 9, 1, *state, None) for name, state in zip(names, states, strict=True)]
    bulk.insert(connection, schema.domain_days, rows)
    told = int(decided)
    kinds = itertools.cycle([("tlsa", f"mx{place}.example") for place in range(100)] + [("sts", "x.example")] * 100)
    policies = [(day, name, 1, "p", *kind, "[]", "[]", told, 9, 1) for name, kind in zip(names, kinds, strict=False)]
    bulk.insert(connection, schema.policies, policies)
    some = names[::REPORTED]
    details = [(day, name, 1, "p", "f", "sts-policy-fetch-error", *[None] * 6, 1) for name in some]
    bulk.insert(connection, schema.failures, details)
    if day < TODAY:
        closings.close(connection, day)
    if decided:
        _fill_reports(connection, day, some)


def _state(place: int) -> tuple[str, str | None]:
    return (schema.SKIPPED, "there is no TLSRPT record") if place % REPORTED else (schema.REPORTED, None)


def _fill_reports(connection: engine.Connection, day: dt.date, names: list[str]) -> None:
    ids = [f"{day:%Y%m%d}.{name}@s.example" for name in names]
    reports.add(
        connection,
        [reports.Report(id_, day, name, NOW, 9, 1, b"packed") for id_, name in zip(ids, names, strict=True)],
    )
    deliveries.add(
        connection,
        [deliveries.Addressed(id_, day, name, [(_rua(name), NOW)]) for id_, name in zip(ids, names, strict=True)],
    )
    table = schema.deliveries
    change = sa.update(table).where(table.c.day == day, table.c.day < YESTERDAY - dt.timedelta(days=1))
    state = outcome.State.DELIVERED.value
    connection.execute(change.values(state=state, settled=int(NOW.timestamp()), next_attempt=None))


def _rua(domain: str) -> tlsrpt.Rua:
    (rua,) = tlsrpt.parse_record(f"v=TLSRPTv1;rua=mailto:r@{domain}").rua
    return rua


def _read(domain: str | None) -> Callable[[engine.Connection], object]:
    def look(connection: engine.Connection) -> object:
        listed = listings.pending_days(connection, domain, 101)
        return list(listed), list(listings.pending_deliveries(connection, domain, 101))

    return look


def _claimed(connection: engine.Connection) -> list[reports.DomainDay]:
    return reports.claim(connection, NOW, BATCH)


def _settled(connection: engine.Connection) -> object:
    claimed = _claimed(connection)
    return reports.settle(connection, [(one, schema.SKIPPED, "no record") for one in claimed])


def _middle(connection: engine.Connection) -> object:
    after = reports.DomainDay(YESTERDAY, "d15.example", 1, None, 0, 0)
    return reports.claim(connection, NOW, BATCH, after=after)


_TOLD = [
    f'{{"d":"d{place}.example","policies":[{{"policy-type":9,"f":1,"failure-details":[{{"c":201}}]}}]}}'.encode()
    for place in range(BATCH)
]
NAMES = [f"d{place}.example" for place in range(BATCH)]

# id, what is done
OPERATIONS: list[tuple[str, Callable[[engine.Connection], object]]] = [
    ("pending, the first screens", _read(None)),
    ("pending, one domain", _read("d7.example")),
    ("history, the last screens", lambda c: list(listings.settled_deliveries(c, None, 101))),
    ("history, one domain", lambda c: list(listings.settled_deliveries(c, "d10.example", 101))),
    ("show, the newest day of a domain", lambda c: reports.last_day(c, "d10.example")),
    ("show, the reports of a day", lambda c: reports.of_domain(c, "d10.example", YESTERDAY)),
    ("hosts missing", lambda c: recorders.missing(c, YESTERDAY)),
    ("days to close", lambda c: closings.days_to_close(c, YESTERDAY)),
    ("closing", lambda c: closings.close(c, TODAY)),
    ("dry run", lambda c: reports.undecided(c, BATCH)),
    ("claiming domain-days", _claimed),
    ("claiming domain-days, further on", _middle),
    ("claiming one domain", lambda c: reports.claim(c, NOW, BATCH, domain="d7.example")),
    ("deciding", _settled),
    ("counts of a batch", lambda c: len(reports.counted(c, reports.undecided(c, BATCH)))),
    ("hosts to be told", lambda c: hosts.untold(c, BATCH)),
    ("counting", lambda c: counts.add(c, "journal", TODAY, counting.count(collections.Counter(_TOLD)))),
    ("report mails sent to domains", lambda c: deliveries.mailed(c, NAMES, NOW, NOW + dt.timedelta(hours=1))),
    ("claiming deliveries", lambda c: deliveries.claim(c, NOW, 50)),
    ("reports of deliveries", lambda c: reports.by_id(c, [f"20261121.{name}@s.example" for name in NAMES[::10]])),
]

DAY_BY_DAY = {"pending, one domain", "history, one domain", "show, the newest day of a domain"}
"""What looks at each day that is kept: keys lead with the day."""

FEW = Size(days=3, domains=3000)
MORE_DAYS = Size(days=10, domains=3000)
MORE_DOMAINS = Size(days=3, domains=12000)

GROWTH = 1.6
"""The most that an operation may cost more: an index that is a level deeper. What is searched costs 4 or 5 times."""

FREE = 5000
"""Cost (instructions, or pages times a hundred) that is not looked at: it is next to nothing."""


@pytest.fixture
def other_store(store_url: str, request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Callable[[], engine.Store]]:
    """Return what opens further empty stores of the kind."""
    opened: list[engine.Store] = []

    def open_another() -> engine.Store:
        if store_url.startswith("sqlite"):
            url = f"sqlite:///{tmp_path / f'other{len(opened)}.db'}"
        else:
            server = request.getfixturevalue("postgresql_server")
            name = f"plans{len(opened)}"
            server.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            server.run(f"CREATE DATABASE {name} TEMPLATE template_tlsrpt")
            url = server.url(name)
        opened.append(engine.open_store(url))
        return opened[-1]

    yield open_another
    for one in opened:
        one.close()


@pytest.mark.sqlite_store  # PostgreSQL rightly reads tables of this size whole: tests/lab/test_million.py
def test_no_operation_costs_more_with_more_days_or_domains(
    store: engine.Store, other_store: Callable[[], engine.Store]
) -> None:
    """Listing, closing, claiming, deciding, counting and delivering stay look-ups in an index."""
    stores = {FEW: store, MORE_DAYS: other_store(), MORE_DOMAINS: other_store()}
    for size, one in stores.items():
        fill(one, size)
    searched = []
    for name, operation in OPERATIONS:
        few, days, domains = (cost(one, operation) for one in stores.values())
        most = GROWTH * max(few, FREE)
        if domains > most or (days > most and name not in DAY_BY_DAY):
            searched.append(f"{name}: {few}, with more days {days}, with more domains {domains}")
    assert not searched, "\n".join(searched)


def test_dropping_a_day_costs_the_same_however_many_there_are(
    store: engine.Store, other_store: Callable[[], engine.Store]
) -> None:
    """On PostgreSQL the counts are dropped; reports and deliveries are found by their day."""
    more = other_store()
    fill(store, FEW)
    fill(more, MORE_DAYS)
    least = cost(store, lambda c: retention.delete_before(c, TODAY - dt.timedelta(days=FEW.days)))
    most = cost(more, lambda c: retention.delete_before(c, TODAY - dt.timedelta(days=MORE_DAYS.days)))
    assert most <= GROWTH * least


def cost(store: engine.Store, operation: Callable[[engine.Connection], object]) -> float:
    """Return what an operation costs; it is undone."""
    return _pages(store, operation) if store.is_shared else _instructions(store, operation)


@contextlib.contextmanager
def undone(store: engine.Store) -> Iterator[engine.Connection]:
    """Yield a writing connection; what it changes is rolled back."""
    with store.write() as connection:
        yield connection
        connection.rollback()


def _instructions(store: engine.Store, operation: Callable[[engine.Connection], object]) -> float:
    """Return how many instructions SQLite's machine runs."""
    ticks = 0

    def tick() -> int:
        nonlocal ticks
        ticks += 1
        return 0

    with undone(store) as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(tick, 10)
        operation(connection)
        driver.set_progress_handler(None, 0)
    return 10 * ticks


def size_of(store: engine.Store) -> int:
    """Return how many domain-days a store has."""
    with store.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(schema.domain_days)).scalar_one()


def _pages(store: engine.Store, operation: Callable[[engine.Connection], object]) -> float:
    """Return how many pages (times a hundred) PostgreSQL touches."""
    seen: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, ___: object, many: bool) -> None:  # noqa: FBT001 - called so
        seen.append((statement, parameters[0] if many else parameters))

    with undone(store) as connection:
        sa.event.listen(connection, "before_cursor_execute", note)
        operation(connection)
        sa.event.remove(connection, "before_cursor_execute", note)
    pages = 0
    with undone(store) as connection:
        for statement, parameters in seen:
            if statement.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}:
                explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
                told = connection.exec_driver_sql(explain, parameters).scalar_one()
                (plan,) = told if isinstance(told, list) else json.loads(told)
                pages += plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    return 100 * pages
