"""What the page shows of many domains, or of many days."""

import dataclasses
import datetime as dt

import sqlalchemy as sa

from sender import outcome
from sender.store import closings, days, schema


@dataclasses.dataclass(frozen=True, slots=True)
class DomainSum:
    """A domain on a day, over all closings."""

    domain: str
    successful: int
    failed: int


@dataclasses.dataclass(frozen=True, slots=True)
class DaySum:
    """A day of a domain, over all closings."""

    day: dt.date
    successful: int
    failed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Backlog:
    """What the reporter has before it."""

    waiting: int
    """Domain-days of days that are over of which no report was built or refused yet."""
    due: dict[str, int]
    """Deliveries that are not settled, by scheme."""
    since: dt.datetime | None
    """When the first of them was to be made."""


def domains(connection: sa.Connection, day: dt.date, most: int, skip: int = 0) -> list[DomainSum]:
    """Return domains of a day, most failures first, then most sessions.

    Args:
        connection: a reading one.
        day: UTC.
        most: rows.
        skip: rows before the first.
    """
    table = schema.domain_days
    successful, failed = table.c.successful.expression, table.c.failed.expression
    was_closed = closings.closed(connection, day) != closings.Closed(0, {})
    if was_closed:  # before, each domain has one row, and adding up a hundred thousand takes thrice as long
        successful, failed = sa.func.sum(successful), sa.func.sum(failed)
    query = sa.select(table.c.domain, successful, failed).where(table.c.day == day)
    query = query.group_by(table.c.domain) if was_closed else query
    query = query.order_by(failed.desc(), successful.desc(), table.c.domain).limit(most).offset(skip)
    return [DomainSum(domain, int(good), int(bad)) for domain, good, bad in connection.execute(query)]


def of_domain(connection: sa.Connection, domain: str) -> list[DaySum]:
    """Return the days of a domain, oldest first."""
    table = schema.domain_days
    query = sa.select(table.c.day, sa.func.sum(table.c.successful), sa.func.sum(table.c.failed))
    query = query.where(table.c.day.in_(days.known(connection, table)), table.c.domain == domain)
    rows = connection.execute(query.group_by(table.c.day).order_by(table.c.day))
    return [DaySum(day, int(good), int(bad)) for day, good, bad in rows]


def backlog(connection: sa.Connection, today: dt.date) -> Backlog:
    """Return what is to be done, of days before today."""
    rows, due = schema.domain_days, schema.deliveries
    waiting = sa.select(sa.func.count()).where(rows.c.state == schema.UNDECIDED, rows.c.day < today)
    by_scheme = sa.select(due.c.scheme, sa.func.count(), sa.func.min(due.c.next_attempt))
    by_scheme = by_scheme.where(due.c.state == outcome.State.DUE.value).group_by(due.c.scheme)
    found = connection.execute(by_scheme).all()
    first = min((moment for _, _, moment in found if moment is not None), default=None)
    return Backlog(
        connection.execute(waiting).scalar_one(),
        {scheme: int(number) for scheme, number, _ in found},
        None if first is None else dt.datetime.fromtimestamp(first, dt.UTC),
    )


def last_closed(connection: sa.Connection) -> dt.date | None:
    """Return the newest day that was closed for every domain."""
    table = schema.closings
    query = sa.select(sa.func.max(table.c.day)).where(table.c.domain == closings.EVERY_DOMAIN)
    return connection.execute(query).scalar()
