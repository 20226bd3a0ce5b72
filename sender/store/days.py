"""Which days tables have rows of, with a look into an index for each.

Keys lead with the day, so a search for anything else goes from day to day.
"""

import datetime as dt

import sqlalchemy as sa

from sender.store import schema


def known(connection: sa.Connection, table: sa.Table) -> list[dt.date]:
    """Return the days from the first to the last that a table has, oldest first."""
    first = connection.execute(sa.select(sa.func.min(table.c.day))).scalar()
    last = connection.execute(sa.select(sa.func.max(table.c.day))).scalar()
    if first is None or last is None:
        return []
    return [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]


def undecided(connection: sa.Connection) -> list[dt.date]:
    """Return the days on which a domain-day is undecided, oldest first."""
    table = schema.domain_days
    days: list[dt.date] = []
    while True:
        query = sa.select(sa.func.min(table.c.day)).where(table.c.state == schema.UNDECIDED)
        day = connection.execute(query.where(table.c.day > days[-1]) if days else query).scalar()
        if day is None:
            return days
        days.append(day)
