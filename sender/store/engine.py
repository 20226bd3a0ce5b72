"""Open the store: the engine, its two kinds of transaction, and the migration to the current schema.

SQLite runs with a write-ahead log, so that readers never wait for writers. A write transaction takes the
write lock at its beginning (``BEGIN IMMEDIATE``): what it reads, nobody changes until it commits.
"""

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import exc

from sender import config

REVISION = "0001"
"""The migration the code goes with."""

BUSY_TIMEOUT = 30.0
"""Seconds to wait for another writer of the same SQLite file: a batch of the tally takes well under one."""


FILE_MODE = 0o640
"""Of a new SQLite file, and so of its log: whom we send mail to is nobody else's business."""

Connection = sa.Connection
"""What the statements of this package run on; a name for conductors, who do not import SQLAlchemy."""


class StoreError(Exception):
    """The store cannot be used now; the text is one line. What was to be written is not."""


class Store:
    """An open store; made by :func:`open_store`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a connection that sees one state of the store.

        Raises:
            StoreError: the database cannot be reached or refuses.
        """
        with _mapped_errors(self._engine), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Yield a connection whose changes are committed together at the end, or not at all.

        Raises:
            StoreError: the database cannot be reached or refuses; nothing was changed.
        """
        with _mapped_errors(self._engine), self._engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Give up the connections."""
        self._engine.dispose()


def open_store(url: str) -> Store:
    """Open the store, and bring its schema up to date.

    Args:
        url: ``sqlite:////path`` (the file and its directory are made where missing).

    Raises:
        config.ConfigError: there is no such store.
        StoreError: it cannot be opened, or is newer than this program.
    """
    engine = _engine(url)
    store = Store(engine)
    with store.read() as connection:
        revision = _revision(connection)
    if revision != REVISION:
        _migrate(engine, url, revision)
    return store


def check_url(url: str) -> sa.URL:
    """Return ``store.url`` taken apart.

    Raises:
        config.ConfigError: there is no such store.
    """
    cure = "use sqlite:////path/of/the/file.db"
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise config.ConfigError(f"store.url: not a URL: {cure}") from error  # it may have a password in it
    if parsed.drivername != "sqlite" or parsed.database in {None, "", ":memory:"}:
        shown = parsed.render_as_string(hide_password=True)
        raise config.ConfigError(f'store.url = "{shown}": not supported: {cure}')
    return parsed


def _engine(url: str) -> sa.Engine:
    parsed = check_url(url)
    file = pathlib.Path(str(parsed.database))
    try:
        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{file.parent}: cannot be made: {error.strerror}") from error
    with contextlib.suppress(OSError):  # what is wrong with the file, SQLite tells when it connects
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT})
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _on_begin, not by the driver
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a report that was sent must not be built again with another id


def _on_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _revision(connection: sa.Connection) -> str | None:
    """Return which migration the database is at; ``None`` when it is new."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(engine: sa.Engine, url: str, revision: str | None) -> None:
    from sender.store import migrate  # noqa: PLC0415 - alembic takes longer to import than most commands to run

    if revision is not None and revision > REVISION:
        raise StoreError(f'store.url = "{url}": made by a newer tlsrpt (schema {revision}): upgrade this one')
    with _mapped_errors(engine):
        migrate.upgrade(engine)


@contextlib.contextmanager
def _mapped_errors(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        raise StoreError(f"{engine.url.render_as_string()}: {error.orig}") from error
    except exc.SQLAlchemyError as error:
        raise StoreError(f"{engine.url.render_as_string()}: {error}") from error
