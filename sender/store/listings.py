"""What the commands show: domain-days that are not reported, deliveries, malformed datagrams."""

import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Any

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


def pending_days(connection: sa.Connection, domain: str | None = None) -> Iterator[PendingDay]:
    """Yield the domain-days without a report, by day and domain."""
    table = schema.domain_days
    state = sa.case((table.c.state == schema.SKIPPED, schema.SKIPPED), (closings.is_closed(), "closed"), else_="open")
    query = (
        sa.select(table.c.day, table.c.domain, table.c.successful, table.c.failed, state, table.c.reason)
        .where(table.c.state != schema.REPORTED)
        .order_by(table.c.day, table.c.domain, table.c.closing)
    )
    if domain is not None:
        query = query.where(table.c.domain == domain)
    for row in connection.execute(query):
        yield PendingDay(*row)


def pending_deliveries(connection: sa.Connection, domain: str | None = None) -> Iterator[deliveries.Delivery]:
    """Yield the deliveries that are not settled, next attempt first."""
    table = schema.deliveries
    query = sa.select(table).where(table.c.state == outcome.State.DUE.value)
    return _deliveries(connection, query.order_by(table.c.next_attempt, table.c.report_id, table.c.number), domain)


def settled_deliveries(connection: sa.Connection, domain: str | None = None) -> Iterator[deliveries.Delivery]:
    """Yield the deliveries that are settled, oldest first."""
    table = schema.deliveries
    query = sa.select(table).where(table.c.state != outcome.State.DUE.value)
    return _deliveries(connection, query.order_by(table.c.settled, table.c.report_id, table.c.number), domain)


def _deliveries(connection: sa.Connection, query: Any, domain: str | None) -> Iterator[deliveries.Delivery]:
    if domain is not None:
        query = query.where(schema.deliveries.c.domain == domain)
    for row in connection.execute(query):
        yield deliveries.from_row(row)


def malformed(connection: sa.Connection) -> list[tuple[dt.date, str, int]]:
    """Return how many datagrams could not be read, by day and reason."""
    table = schema.malformed
    query = sa.select(table.c.day, table.c.reason, table.c.datagrams).order_by(table.c.day, table.c.reason)
    return [(day, reason, datagrams) for day, reason, datagrams in connection.execute(query)]
