"""The hosts that record, and how far each has been tallied: a day waits for those that were alive on it."""

import dataclasses
import datetime as dt

import sqlalchemy as sa

from sender.store import bulk, schema


@dataclasses.dataclass(frozen=True, slots=True)
class Recorder:
    """A host with a journal."""

    host: str
    """Its name, for people; what it is known by is the identity of its journal."""
    tallied: dt.datetime
    """All that it received until then is counted."""


def note(connection: sa.Connection, journal: str, host: str, now: dt.datetime, *, ended: bool | None = None) -> None:
    """Note that all is counted that a host received until now.

    Args:
        connection: a writing one.
        journal: the identity of its journal.
        host: its name.
        now: aware.
        ended: whether it was stopped in order, and nothing is to be expected of it; ``None``: as it was.
    """
    row = (journal, host, int(now.timestamp()), bool(ended))
    known = [] if ended is None else ["ended"]
    bulk.add(connection, schema.recorders, [row], latest=["host", "tallied", *known])


def tallied(connection: sa.Connection, journal: str) -> dt.datetime | None:
    """Return until when all is counted that the host of a journal received; ``None``: it was never tallied."""
    table = schema.recorders
    moment = connection.execute(sa.select(table.c.tallied).where(table.c.journal == journal)).scalar()
    return None if moment is None else dt.datetime.fromtimestamp(moment, dt.UTC)


def missing(connection: sa.Connection, day: dt.date) -> list[Recorder]:
    """Return the hosts that were alive on a day (UTC) and have not been tallied past its end, by name."""
    table = schema.recorders
    start = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())
    end = start + int(dt.timedelta(days=1).total_seconds())
    query = (
        sa.select(table.c.host, table.c.tallied)
        .where(table.c.tallied >= start, table.c.tallied < end, table.c.ended.is_(False))
        .order_by(table.c.host, table.c.journal)
    )
    return [Recorder(host, dt.datetime.fromtimestamp(tallied, dt.UTC)) for host, tallied in connection.execute(query)]


def forget_before(connection: sa.Connection, day: dt.date) -> None:
    """Forget hosts that were last tallied before a day."""
    start = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())
    connection.execute(sa.delete(schema.recorders).where(schema.recorders.c.tallied < start))
