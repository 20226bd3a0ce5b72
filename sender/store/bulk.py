"""Many rows in one statement: insert, add to what is there, change, find.

SQLAlchemy makes the statement once; the rows go to the driver as they are, because SQLAlchemy takes several times as
long over each as the database does. Rows are tuples, whose order the caller names. SQLite takes them one by one from
the driver, PostgreSQL as an array for each column (``unnest``), which spares it as many messages.
"""

import functools
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

Row = tuple[Any, ...]


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows.

    Args:
        connection: a writing one.
        table: where to.
        rows: values for all columns, in the table's order.
    """
    insert_into(connection, table, table.columns.keys(), rows)


def insert_into(connection: sa.Connection, table: sa.Table, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Insert rows that have values for some columns only; the others are NULL."""
    if _is_postgresql(connection):
        _run_unnested(connection, postgresql.insert(table), table, names, rows)
    else:
        _run_each(connection, sa.insert(table), names, rows)


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
        rows: values for all columns, in the table's order; no key twice, and in the order of the key where
            several hosts add to the same rows.
        sums: columns whose value is added to the one that is there.
        latest: columns whose value replaces the one that is there, unless it is NULL.
    """
    on_server = _is_postgresql(connection)
    statement: Any = postgresql.insert(table) if on_server else sqlite.insert(table)
    new = statement.excluded
    changes: dict[str, sa.ColumnElement[Any]] = {name: table.c[name] + new[name] for name in sums}
    changes |= {name: sa.func.coalesce(new[name], table.c[name]) for name in latest}
    key = list(table.primary_key.columns)
    if changes:
        statement = statement.on_conflict_do_update(index_elements=key, set_=changes)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    if on_server:
        _run_unnested(connection, statement, table, table.columns.keys(), rows)
    else:
        _run_each(connection, statement, table.columns.keys(), rows)


def update(connection: sa.Connection, statement: sa.Update, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Run an update for each row.

    Args:
        connection: a writing one.
        statement: with ``bindparam``.
        names: of the parameters that a row has values for.
        rows: none: nothing is done.
    """
    _run_each(connection, statement, names, rows)


def among(connection: sa.Connection, column: sa.Column[Any], values: Collection[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that a column has one of many values."""
    if _is_postgresql(connection):  # one parameter: SQLAlchemy need not write each into the statement
        return column == sa.any_(sa.literal(list(values), _array(column)))
    return column.in_(values)


def find(
    connection: sa.Connection,
    columns: Sequence[sa.Column[Any]],
    column: sa.Column[Any],
    values: Collection[Any],
    *conditions: sa.ColumnElement[bool],
) -> Sequence[Any]:
    """Return the rows in which a column has one of many values, looked up one by one in an index.

    PostgreSQL gets to know a new table (each day is one) only when it has analysed it. Until then it takes the day for
    a rare one, reads all of it, and compares each row with each value; so it is told how.

    Args:
        connection: a reading one.
        columns: what of the rows, all of one table.
        column: of an index whose other leading columns are in the conditions.
        values: of the column.
        conditions: further ones.
    """
    if not _is_postgresql(connection):
        return connection.execute(sa.select(*columns).where(*conditions, column.in_(values))).all()
    given = (
        sa.func.unnest(sa.literal(list(values), _array(column))).table_valued("value", name="given").render_derived()
    )
    of_one = sa.select(*columns).where(*conditions, column == given.c.value).correlate(given)
    found = of_one.offset(0).lateral("found")  # the offset keeps the two from being planned as one
    return connection.execute(sa.select(found).select_from(given).join(found, sa.true())).all()


def _is_postgresql(connection: sa.Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _array(column: sa.Column[Any]) -> postgresql.ARRAY[Any]:
    kind = column.type
    return postgresql.ARRAY(sa.Text() if isinstance(kind, sa.Text) else kind)  # collations are not for arrays


def _run_unnested(
    connection: sa.Connection, statement: postgresql.Insert, table: sa.Table, names: Sequence[str], rows: Sequence[Row]
) -> None:
    if rows:
        given = sa.func.unnest(*(sa.bindparam(f"all_{name}", type_=_array(table.c[name])) for name in names))
        select = sa.select(given.table_valued(*names, name="given").render_derived())
        columns = zip(names, zip(*rows, strict=True), strict=True)
        connection.execute(
            statement.from_select(names, select), {f"all_{name}": list(values) for name, values in columns}
        )


def _run_each(
    connection: sa.Connection, statement: sa.Insert | sa.Update, names: Sequence[str], rows: Sequence[Row]
) -> None:
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
