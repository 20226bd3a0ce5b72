"""Which counts are closed: how often each day was closed, for every domain and for single ones.

Counts carry the number of the closing that takes them. A day that was closed n times has its open counts
under n + 1, so closing is one increment, whatever the number of domains, and nothing that is closed ever
changes.
"""

import dataclasses
import datetime as dt

import sqlalchemy as sa

from sender.store import bulk, days, locks, schema

EVERY_DOMAIN = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Closed:
    """How often one day was closed."""

    every: int
    single: dict[str, int]

    def current(self, domain: str) -> int:
        """Return the number under which a domain's open counts stand."""
        return 1 + self.every + self.single.get(domain, 0)


def closed(connection: sa.Connection, day: dt.date) -> Closed:
    """Return how often a day was closed."""
    table = schema.closings
    rows = connection.execute(sa.select(table.c.domain, table.c.closed).where(table.c.day == day))
    single = {domain: count for domain, count in rows}  # noqa: C416 - rows are Row objects
    return Closed(single.pop(EVERY_DOMAIN, 0), single)


def close(connection: sa.Connection, day: dt.date, domain: str = EVERY_DOMAIN) -> None:
    """Close what a day has open, for one domain or for all that have anything open."""
    locks.alone(connection, day)  # what is being added goes into the open counts before they close
    bulk.add(connection, schema.closings, [(day, domain, 1)], sums=["closed"])


def is_closed() -> sa.ColumnElement[bool]:
    """Return the condition that a row of ``domain_days`` is closed: for rows that were found, not for finding them."""
    rows, table = schema.domain_days, schema.closings
    count = (
        sa.select(sa.func.coalesce(sa.func.sum(table.c.closed), 0))
        .where(table.c.day == rows.c.day, table.c.domain.in_([EVERY_DOMAIN, rows.c.domain]))
        .scalar_subquery()
    )
    closed: sa.ColumnElement[bool] = rows.c.closing <= count
    return closed


def closed_on(connection: sa.Connection, day: dt.date) -> sa.ColumnElement[bool]:
    """Return the condition that a row of ``domain_days`` of a day is closed, such that an index can answer it.

    The days that go on have a row for every domain that mail was sent to: nobody should look through these.
    """
    rows, of_day = schema.domain_days, closed(connection, day)
    regular: sa.ColumnElement[bool] = rows.c.closing <= of_day.every
    if not of_day.single:
        return regular
    return sa.or_(regular, sa.and_(bulk.among(connection, rows.c.domain, list(of_day.single)), is_closed()))


def all_closed(connection: sa.Connection) -> dict[dt.date, Closed]:
    """Return how often each day was closed that was closed at all, oldest first."""
    query = sa.select(schema.closings.c.day).distinct().order_by(schema.closings.c.day)
    return {day: closed(connection, day) for day in connection.execute(query).scalars().all()}


def close_open(connection: sa.Connection, last: dt.date, domain: str | None = None) -> list[dt.date]:
    """Close the days up to ``last`` that have open counts (of a domain), and return them, oldest first.

    Of several reporters that come at once, one closes a day; the others find it closed.
    """
    closed_now = []
    for day in days_to_close(connection, last, domain):
        locks.alone(connection, day)
        if _is_open(connection, day, domain):
            close(connection, day, domain or EVERY_DOMAIN)
            closed_now.append(day)
    return closed_now


def days_to_close(connection: sa.Connection, last: dt.date, domain: str | None = None) -> list[dt.date]:
    """Return the days up to ``last`` that have open counts (of a domain), oldest first."""
    return [day for day in days.undecided(connection) if day <= last and _is_open(connection, day, domain)]


def _is_open(connection: sa.Connection, day: dt.date, domain: str | None) -> bool:
    table = schema.domain_days
    query = sa.select(table.c.domain).where(table.c.day == day, table.c.state == schema.UNDECIDED)
    query = query.where(table.c.closing > closed(connection, day).every, ~is_closed())
    if domain is not None:
        query = query.where(table.c.domain == domain)
    return connection.execute(query.limit(1)).first() is not None
