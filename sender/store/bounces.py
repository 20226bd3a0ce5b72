"""Report mails that came back, and addresses from which they come back each day."""

import datetime as dt

import sqlalchemy as sa

from sender import outcome
from sender.store import schema, suppressions

DAYS = 3
"""Days in a row on which mails to an address came back until it gets no more."""

PAUSE = dt.timedelta(days=30)
"""For how long it gets no more; then it is tried again."""


def known(connection: sa.Connection, report_id: str, number: int) -> bool:
    """Tell whether there is such a delivery."""
    table = schema.deliveries
    query = sa.select(table.c.number).where(table.c.report_id == report_id, table.c.number == number)
    return connection.execute(query).first() is not None


def note(connection: sa.Connection, report_id: str, number: int, now: dt.datetime, told: str) -> str | None:
    """Note that a mail came back for good, and suppress its address if that was so on :data:`DAYS` days in a row.

    Days are those of the reports; one on which none of the mails to the address came back ends the row. The first
    bounce of a mail counts, and no other.

    Args:
        connection: a writing one.
        report_id: of the delivery.
        number: of the delivery.
        now: aware.
        told: status and reason, on one line.

    Returns:
        the address that is suppressed now; ``None``: none.
    """
    table = schema.deliveries
    one = sa.and_(table.c.report_id == report_id, table.c.number == number)
    first = sa.update(table).where(one, table.c.bounced.is_(None))
    if connection.execute(first.values(bounced=int(now.timestamp()), bounce=told)).rowcount == 0:
        return None
    target = connection.execute(sa.select(table.c.target).where(one)).scalar_one()
    if not _comes_back(connection, target) or _is_suppressed(connection, target, now):
        return None
    reason = f"mails came back on {DAYS} days in a row: {told}"
    suppressions.add(connection, suppressions.Suppression(target, now + PAUSE, reason, now))
    return str(target)


def _comes_back(connection: sa.Connection, target: str) -> bool:
    """Tell whether on each of the last days on which a mail was sent to an address one came back."""
    table = schema.deliveries
    query = (
        sa.select(sa.func.count(table.c.bounced))
        .where(
            table.c.mail_domain == target.rpartition("@")[2],
            table.c.state == outcome.State.DELIVERED.value,
            table.c.target == target,
        )
        .group_by(table.c.day)
        .order_by(table.c.day.desc())
        .limit(DAYS)
    )
    bounced = connection.execute(query).scalars().all()
    return len(bounced) == DAYS and all(bounced)


def _is_suppressed(connection: sa.Connection, target: str, now: dt.datetime) -> bool:
    return any(one.target == target for one in suppressions.active(connection, now))
