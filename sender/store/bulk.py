"""Many rows in one statement: insert, add to what is there, change.

SQLAlchemy makes the statement once; the rows go to the driver as they are, because SQLAlchemy takes several times as
long over each as SQLite does. Rows are tuples, whose order the caller names. SQLite and PostgreSQL spell ON CONFLICT
alike, but SQLAlchemy keeps it in their dialects.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

_INSERT: dict[str, Callable[[sa.Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}

Row = tuple[Any, ...]


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows.

    Args:
        connection: a writing one.
        table: where to.
        rows: values for all columns, in the table's order.
    """
    execute(connection, sa.insert(table), table.columns.keys(), rows)


def add(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Row],
    *,
    sums: Sequence[str] = (),
    latest: Sequence[str] = (),
) -> None:
    """Insert rows, and where the primary key is already there add to what it has: what all counting is made of.

    Args:
        connection: a writing one.
        table: where to.
        rows: values for all columns, in the table's order.
        sums: columns whose value is added to the one that is there.
        latest: columns whose value replaces the one that is there, unless it is NULL.
    """
    statement = _INSERT[connection.dialect.name](table)
    new = statement.excluded
    changes: dict[str, sa.ColumnElement[Any]] = {name: table.c[name] + new[name] for name in sums}
    changes |= {name: sa.func.coalesce(new[name], table.c[name]) for name in latest}
    key = list(table.primary_key.columns)
    if changes:
        statement = statement.on_conflict_do_update(index_elements=key, set_=changes)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    execute(connection, statement, table.columns.keys(), rows)


def execute(
    connection: sa.Connection, statement: sa.Insert | sa.Update, names: Sequence[str], rows: Sequence[Row]
) -> None:
    """Run a statement for each row.

    Args:
        connection: a writing one.
        statement: an insert, or an update with ``bindparam``.
        names: of the parameters that a row has values for; all columns of an insert.
        rows: none: nothing is done.
    """
    if not rows:
        return
    dialect = connection.dialect
    compiled = statement.compile(dialect=dialect, column_keys=names if isinstance(statement, sa.Insert) else None)
    given = dict(zip(names, zip(*rows, strict=True), strict=True))
    columns = []
    for name in compiled.positiontup or ():
        values = given[name] if name in given else (compiled.params[name],) * len(rows)
        process = compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)
        columns.append(values if process is None else list(map(functools.cache(process), values)))
    connection.exec_driver_sql(str(compiled), list(zip(*columns, strict=True)))
