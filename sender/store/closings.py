"""Which counts are closed: how often each day was closed, for every domain and for single ones.

Counts carry the number of the closing that takes them. A day that was closed n times has its open counts
under n + 1, so closing is one increment, whatever the number of domains, and nothing that is closed ever
changes.
"""

import dataclasses
import datetime as dt

import sqlalchemy as sa

from sender.store import bulk, schema

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
    bulk.add(connection, schema.closings, [(day, domain, 1)], sums=["closed"])


def is_closed() -> sa.ColumnElement[bool]:
    """Return the condition that a row of ``domain_days`` is closed."""
    days, table = schema.domain_days, schema.closings
    count = (
        sa.select(sa.func.coalesce(sa.func.sum(table.c.closed), 0))
        .where(table.c.day == days.c.day, table.c.domain.in_([EVERY_DOMAIN, days.c.domain]))
        .scalar_subquery()
    )
    return days.c.closing <= count


def days_to_close(connection: sa.Connection, last: dt.date, domain: str | None = None) -> list[dt.date]:
    """Return the days up to ``last`` that have open counts (of a domain), oldest first."""
    days = schema.domain_days
    query = sa.select(days.c.day).distinct().where(days.c.day <= last, days.c.state == schema.UNDECIDED, ~is_closed())
    if domain is not None:
        query = query.where(days.c.domain == domain)
    return list(connection.execute(query.order_by(days.c.day)).scalars())
