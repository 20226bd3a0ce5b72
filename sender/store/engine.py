"""Open the store: the engine, its two kinds of transaction, and the migration to the current schema.

What differs between the two back ends is in ``embedded`` (SQLite) and ``server`` (PostgreSQL).
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from sender import config
from sender.store import embedded

REVISION = "0005"
"""The migration the code goes with."""

ATTEMPTS = 5
"""How often a change is made anew that met another one: each time one of the two got through."""

Connection = sa.Connection
"""What the statements of this package run on; a name for conductors, who do not import SQLAlchemy."""

Result = TypeVar("Result")


class StoreError(Exception):
    """The store cannot be used now; the text is one line. What was to be written is not."""


class ConflictError(StoreError):
    """Another process changed the same; the same change may do if it is made anew."""


class Store:
    """An open store; made by :func:`open_store`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @property
    def is_shared(self) -> bool:
        """Whether several hosts can use it."""
        return self._engine.dialect.name == "postgresql"

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a connection that sees one state of the store.

        Raises:
            StoreError: the database cannot be reached or refuses.
        """
        with _mapped_errors(self._engine), self._engine.connect() as connection:
            if self.is_shared:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Yield a connection whose changes are committed together at the end, or not at all.

        Raises:
            ConflictError: another process changed the same; nothing was changed.
            StoreError: the database cannot be reached or refuses; nothing was changed.
        """
        with _mapped_errors(self._engine), self._engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def change(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Make a change in a transaction of its own, anew where it meets another one.

        Args:
            work: makes it; it may be called several times, so it changes nothing but the store.

        Raises:
            StoreError: the database cannot be reached or refuses; nothing was changed.
        """
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(ConflictError), self.write() as connection:
                return work(connection)
        with self.write() as connection:
            return work(connection)

    def close(self) -> None:
        """Give up the connections."""
        self._engine.dispose()


class Deferred:
    """A store that is opened when it is first needed, by whichever thread: at the start it may be away.

    Args:
        url: as :func:`open_store` takes it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._store: Store | None = None
        self._lock = threading.Lock()

    def opened(self) -> Store:
        """Return the store.

        Raises:
            config.ConfigError: there is no such store.
            StoreError: it cannot be opened now, or is newer than this program.
        """
        with self._lock:
            if self._store is None:
                self._store = open_store(self._url)
            return self._store

    def close(self) -> None:
        """Give up the connections, if there are any."""
        if self._store is not None:
            self._store.close()


def open_store(url: str) -> Store:
    """Open the store, and bring its schema up to date.

    Args:
        url: ``sqlite:////path`` (the file and its directory are made where missing), or
            ``postgresql://user@host/database`` (the database must be there).

    Raises:
        config.ConfigError: there is no such store.
        StoreError: it cannot be opened, or is newer than this program.
    """
    engine = _engine(check_url(url))
    store = Store(engine)
    with store.read() as connection:
        revision = _revision(connection)
    if revision != REVISION:
        _migrate(engine, revision)
    return store


def revision(url: str) -> str | None:
    """Return the schema that a store is at, without making or migrating anything; ``None``: it is not made yet.

    Raises:
        config.ConfigError: there is no such store.
        StoreError: it cannot be used.
    """
    parsed = check_url(url)
    if parsed.drivername == "sqlite" and not embedded.exists(parsed):
        return None
    store = Store(_engine(parsed))
    try:
        with store.read() as connection:
            return _revision(connection)
    finally:
        store.close()


def unwritable(url: str) -> str | None:
    """Return which file or folder of a store on this machine this process may not write to; ``None``: none."""
    parsed = check_url(url)
    return embedded.unwritable(parsed) if parsed.drivername == "sqlite" else None


def check_url(url: str) -> sa.URL:
    """Return ``store.url`` taken apart.

    Raises:
        config.ConfigError: there is no such store.
    """
    cure = "use sqlite:////path/of/the/file.db or postgresql://user@host/database"
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        raise config.ConfigError(f"store.url: not a URL: {cure}") from error  # it may have a password in it
    if not parsed.database or parsed.drivername not in {"sqlite", "postgresql"} or parsed.database == ":memory:":
        raise config.ConfigError(f'store.url = "{shown(parsed)}": not supported: {cure}')
    return parsed


def shown(url: sa.URL) -> str:
    """Return a URL as it may be shown: a password may also be among its options."""
    return url.set(query={}).render_as_string(hide_password=True)


def _engine(url: sa.URL) -> sa.Engine:
    if url.drivername == "postgresql":
        from sender.store import server  # noqa: PLC0415 - takes a fifth of the time of a command on SQLite

        return server.make_engine(url)
    try:
        return embedded.make_engine(url)
    except OSError as error:
        raise StoreError(f"{error.filename}: cannot be made: {error.strerror}") from error


def _revision(connection: sa.Connection) -> str | None:
    """Return which migration the database is at; ``None`` when it is new."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(engine: sa.Engine, revision: str | None) -> None:
    from sender.store import migrate  # noqa: PLC0415 - alembic takes longer to import than most commands to run

    if revision is not None and revision > REVISION:
        made = f"made by a newer tlsrpt (schema {revision}): upgrade this one"
        raise StoreError(f'store.url = "{shown(engine.url)}": {made}')
    with _mapped_errors(engine):
        migrate.upgrade(engine)


CONFLICTS = {"40001": "serialization failure", "40P01": "deadlock", "23505": "another one has that key"}
"""SQLSTATEs of PostgreSQL that end when the transaction is made anew."""

READ_ONLY = "25006"
"""SQLSTATE: the connection leads to a server that is not, or no longer, the primary."""


@contextlib.contextmanager
def _mapped_errors(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state == READ_ONLY:
            engine.dispose()  # after a failover the name may lead to another server
        kind = ConflictError if state in CONFLICTS else StoreError
        raise kind(f"{_name(engine)}: {_one_line(error.orig)}") from error
    except exc.SQLAlchemyError as error:
        raise StoreError(f"{_name(engine)}: {_one_line(error)}") from error


def _name(engine: sa.Engine) -> str:
    return shown(engine.url.set(drivername=engine.dialect.name))


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
