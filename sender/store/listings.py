"""What the commands show: domain-days that are not reported, deliveries, malformed datagrams."""

import dataclasses
import datetime as dt
from collections.abc import Iterator

import sqlalchemy as sa

from sender import outcome
from sender.store import closings, deliveries, schema


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
    """Yield the domain-days without a report, by day and domain; the first ``most``."""
    table = schema.domain_days
    state = sa.case((table.c.state == schema.SKIPPED, schema.SKIPPED), (closings.is_closed(), "closed"), else_="open")
    query = (
        sa.select(table.c.day, table.c.domain, table.c.successful, table.c.failed, state, table.c.reason)
        .where(*_pending(domain))
        .order_by(table.c.day, table.c.domain, table.c.closing)
        .limit(most)
    )
    for row in connection.execute(query):
        yield PendingDay(*row)


def number_of_pending(connection: sa.Connection, domain: str | None = None) -> int:
    """Return how many :func:`pending_days` and :func:`pending_deliveries` yield without a limit."""
    days = connection.execute(sa.select(sa.func.count()).where(*_pending(domain))).scalar_one()
    return days + number_of_deliveries(connection, domain, settled=False)


def _pending(domain: str | None) -> list[sa.ColumnElement[bool]]:
    table = schema.domain_days
    return [table.c.state != schema.REPORTED, *([] if domain is None else [table.c.domain == domain])]


def pending_deliveries(
    connection: sa.Connection, domain: str | None = None, most: int | None = None
) -> Iterator[deliveries.Delivery]:
    """Yield the deliveries that are not settled, next attempt first; the first ``most``."""
    table = schema.deliveries
    query = sa.select(table).where(*_deliveries(domain, settled=False))
    query = query.order_by(table.c.next_attempt, table.c.report_id, table.c.number).limit(most)
    return (deliveries.from_row(row) for row in connection.execute(query))


def settled_deliveries(
    connection: sa.Connection, domain: str | None = None, most: int | None = None
) -> Iterator[deliveries.Delivery]:
    """Yield the deliveries that are settled, oldest first; the last ``most``."""
    table = schema.deliveries
    order = (table.c.settled, table.c.report_id, table.c.number)
    query = sa.select(table).where(*_deliveries(domain, settled=True))
    if most is not None:
        newest = query.order_by(*(column.desc() for column in order)).limit(most)
        return (deliveries.from_row(row) for row in reversed(connection.execute(newest).all()))
    return (deliveries.from_row(row) for row in connection.execute(query.order_by(*order)))


def number_of_deliveries(connection: sa.Connection, domain: str | None = None, *, settled: bool) -> int:
    """Return how many deliveries are settled, or are not."""
    return connection.execute(sa.select(sa.func.count()).where(*_deliveries(domain, settled=settled))).scalar_one()


def _deliveries(domain: str | None, *, settled: bool) -> list[sa.ColumnElement[bool]]:
    table = schema.deliveries
    due = outcome.State.DUE.value
    state = table.c.state != due if settled else table.c.state == due
    return [state, *([] if domain is None else [table.c.domain == domain])]


def malformed(connection: sa.Connection) -> list[tuple[dt.date, str, int]]:
    """Return how many datagrams could not be read, by day and reason."""
    table = schema.malformed
    query = sa.select(table.c.day, table.c.reason, table.c.datagrams).order_by(table.c.day, table.c.reason)
    return [(day, reason, datagrams) for day, reason, datagrams in connection.execute(query)]
