"""The counts of each day in tables of their own, on PostgreSQL: a day is dropped, not searched for.

SQLite has one table, and deletes by its key.
"""

import datetime as dt

import sqlalchemy as sa

from sender.store import engine, locks, schema

TABLES = (schema.domain_days, schema.policies, schema.failures)
"""What grows with domains and days. Reports and deliveries stay as long as one of them is due, whatever their day."""

LOCK_TIMEOUT = 500
"""Milliseconds that dropping waits for whoever reads a day: everybody else waits behind it. It is tried again later."""


def prepare(store: engine.Store, day: dt.date) -> None:
    """See that the counts of a day have a place.

    Raises:
        store.engine.StoreError: the store cannot be used.
    """
    if store.is_shared:
        with store.read() as connection:
            ready = day in _days(connection)
        if not ready:
            store.change(lambda connection: _make(connection, day))


def drop_before(connection: sa.Connection, day: dt.date) -> None:
    """Drop the counts of all days before ``day``."""
    if connection.dialect.name != "postgresql":
        for table in TABLES:
            connection.execute(sa.delete(table).where(table.c.day < day))
        return
    locks.alone(connection, locks.Only.PARTITIONS)
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}ms'")
    for old in _days(connection):
        if old < day:
            connection.exec_driver_sql(f"DROP TABLE {', '.join(_name(table, old) for table in TABLES)}")


def _name(table: sa.Table, day: dt.date) -> str:
    return f"{table.name}_{day:%Y%m%d}"


def _days(connection: sa.Connection) -> list[dt.date]:
    """Return the days that have their tables, oldest first; all of a day are made and dropped together."""
    query = sa.text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'domain_days'::regclass")
    names = connection.execute(query).scalars()
    return sorted(dt.datetime.strptime(name[-8:], "%Y%m%d").date() for name in names)  # noqa: DTZ007 - a day


def _make(connection: sa.Connection, day: dt.date) -> None:
    """Make the tables apart and attach them: nobody who reads or writes other days waits for that."""
    locks.alone(connection, locks.Only.PARTITIONS)
    if day in _days(connection):
        return
    following = day + dt.timedelta(days=1)
    for table in TABLES:
        name = _name(table, day)
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {table.name} INCLUDING ALL)")
        span = f"FROM ('{day.isoformat()}') TO ('{following.isoformat()}')"
        connection.exec_driver_sql(f"ALTER TABLE {table.name} ATTACH PARTITION {name} FOR VALUES {span}")
