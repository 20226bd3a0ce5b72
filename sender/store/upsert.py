"""Insert rows, and where the key is already there add to what it has: the one statement that all counting is made of.

SQLite and PostgreSQL spell ON CONFLICT alike, but SQLAlchemy keeps it in their dialects.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

_INSERT: dict[str, Callable[[sa.Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


def add(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    sums: Sequence[str] = (),
    latest: Sequence[str] = (),
) -> None:
    """Insert rows by their primary key.

    Args:
        connection: a writing one.
        table: where to.
        rows: values by column, the same columns in each.
        sums: columns whose value is added to the one that is there.
        latest: columns whose value replaces the one that is there, unless it is NULL.
    """
    if not rows:
        return
    statement = _INSERT[connection.dialect.name](table)
    new = statement.excluded
    changes: dict[str, sa.ColumnElement[Any]] = {name: table.c[name] + new[name] for name in sums}
    changes |= {name: sa.func.coalesce(new[name], table.c[name]) for name in latest}
    key = list(table.primary_key.columns)
    if changes:
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=changes), rows)
    else:
        connection.execute(statement.on_conflict_do_nothing(index_elements=key), rows)
