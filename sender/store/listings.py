"""What the commands show: domain-days that are not reported, deliveries, malformed datagrams."""

import dataclasses
import datetime as dt
import heapq
import itertools
from collections.abc import Iterator

import sqlalchemy as sa

from sender import outcome
from sender.store import closings, days, deliveries, schema


@dataclasses.dataclass(frozen=True, slots=True)
class PendingDay:
    """A domain-day without a report."""

    day: dt.date
    domain: str
    successful: int
    failed: int
    state: str
    """``open``: the day goes on; ``closed``: its report is to be built; ``skipped``: none will be."""
    reason: str | None
    """Why it waits, or why no report goes out."""


def pending_days(connection: sa.Connection, domain: str | None = None, most: int | None = None) -> Iterator[PendingDay]:
    """Yield the domain-days without a report, by day, closing and domain; the first ``most``."""
    undecided = sa.case((closings.is_closed(), "closed"), else_="open")
    skipped = sa.literal(schema.SKIPPED)
    kinds = ((schema.UNDECIDED, undecided), (schema.SKIPPED, skipped))  # each has an index of its own
    found = [_pending_days(connection, domain, most, kept, shown) for kept, shown in kinds]
    for _, row in itertools.islice(heapq.merge(*found, key=lambda pair: pair[0]), most):
        yield row


def _pending_days(
    connection: sa.Connection, domain: str | None, most: int | None, state: str, shown: sa.ColumnElement[str]
) -> Iterator[tuple[tuple[dt.date, int, str], PendingDay]]:
    """Yield rows in one state, each with its key, in the order of the key."""
    table = schema.domain_days
    key = (table.c.day, table.c.closing, table.c.domain)
    query = sa.select(*key, table.c.successful, table.c.failed, shown, table.c.reason)
    query = query.where(table.c.state == state, *_of_domain(connection, table, domain)).order_by(*key).limit(most)
    for day, closing, name, *rest in connection.execute(query):
        yield (day, closing, name), PendingDay(day, name, *rest)


def _of_domain(connection: sa.Connection, table: sa.Table, domain: str | None) -> list[sa.ColumnElement[bool]]:
    return [] if domain is None else [table.c.day.in_(days.known(connection, table)), table.c.domain == domain]


def pending_deliveries(
    connection: sa.Connection, domain: str | None = None, most: int | None = None
) -> Iterator[deliveries.Delivery]:
    """Yield the deliveries that are not settled, next attempt first; the first ``most``."""
    table = schema.deliveries
    query = sa.select(table).where(table.c.state == outcome.State.DUE.value, *_of_domain(connection, table, domain))
    query = query.order_by(table.c.next_attempt, table.c.report_id, table.c.number).limit(most)
    return (deliveries.from_row(row) for row in connection.execute(query))


def settled_deliveries(
    connection: sa.Connection, domain: str | None = None, most: int | None = None
) -> Iterator[deliveries.Delivery]:
    """Yield the deliveries that are settled, oldest first; the last ``most``."""
    table = schema.deliveries
    order = (table.c.settled, table.c.report_id, table.c.number)
    query = sa.select(table).where(table.c.settled.is_not(None), *_of_domain(connection, table, domain))
    if most is not None:
        newest = query.order_by(*(column.desc() for column in order)).limit(most)
        return (deliveries.from_row(row) for row in reversed(connection.execute(newest).all()))
    return (deliveries.from_row(row) for row in connection.execute(query.order_by(*order)))


def oldest_open(connection: sa.Connection) -> dt.date | None:
    """Return the oldest day with counts that are not closed."""
    for day in days.undecided(connection):
        if closings.days_to_close(connection, day):
            return day
    return None


def malformed(connection: sa.Connection) -> list[tuple[dt.date, str, int]]:
    """Return how many datagrams could not be read, by day and reason."""
    table = schema.malformed
    query = sa.select(table.c.day, table.c.reason, table.c.datagrams).order_by(table.c.day, table.c.reason)
    return [(day, reason, datagrams) for day, reason, datagrams in connection.execute(query)]
