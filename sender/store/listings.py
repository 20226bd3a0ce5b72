"""What the commands show: domain-days that are not reported, deliveries, malformed datagrams."""

import dataclasses
import datetime as dt
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
    """Yield the domain-days without a report, by day and domain; the first ``most``."""
    table = schema.domain_days
    about = (table.c.day, table.c.domain, table.c.closing, table.c.successful, table.c.failed)
    undecided = sa.case((closings.is_closed(), "closed"), else_="open")
    each = [
        sa.select(*about, state.label("standing"), table.c.reason).where(
            table.c.state == kept, *_of_domain(connection, table, domain)
        )
        for kept, state in ((schema.UNDECIDED, undecided), (schema.SKIPPED, sa.literal(schema.SKIPPED)))
    ]
    both = sa.union_all(*each).subquery()  # each has an index of its own
    query = sa.select(*(both.c[field.name] for field in dataclasses.fields(PendingDay) if field.name != "state"))
    query = query.add_columns(both.c.standing).order_by(both.c.day, both.c.domain, both.c.closing).limit(most)
    for row in connection.execute(query):
        yield PendingDay(row.day, row.domain, row.successful, row.failed, row.standing, row.reason)


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


def malformed(connection: sa.Connection) -> list[tuple[dt.date, str, int]]:
    """Return how many datagrams could not be read, by day and reason."""
    table = schema.malformed
    query = sa.select(table.c.day, table.c.reason, table.c.datagrams).order_by(table.c.day, table.c.reason)
    return [(day, reason, datagrams) for day, reason, datagrams in connection.execute(query)]
