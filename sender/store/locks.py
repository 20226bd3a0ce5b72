"""What must not happen at the same time in several transactions, said to PostgreSQL; SQLite has one writer anyway.

Advisory locks: they end with the transaction, or with its process.
"""

import datetime as dt
import enum

import sqlalchemy as sa


class Only(enum.IntEnum):
    """What one transaction does at a time."""

    MIGRATION = 1
    PARTITIONS = 2
    TELLING_HOSTS = 3


_WORK = 8460
"""First number of the locks on kinds of work, after the RFC; those on days have the next."""


def alone(connection: sa.Connection, what: Only | dt.date) -> None:
    """Wait until no other transaction does this, or anything with this day; from now on none can until the end."""
    _lock(connection, "pg_advisory_xact_lock", what)


def together(connection: sa.Connection, day: dt.date) -> None:
    """Wait until no other transaction has a day alone; from now on none can until the end."""
    _lock(connection, "pg_advisory_xact_lock_shared", day)


def _lock(connection: sa.Connection, function: str, what: Only | dt.date) -> None:
    if connection.dialect.name == "postgresql":
        key = (_WORK, int(what)) if isinstance(what, Only) else (_WORK + 1, what.toordinal())
        connection.execute(sa.select(getattr(sa.func, function)(*(sa.cast(part, sa.Integer) for part in key))))
