"""The store in a SQLite file: the default, for one host.

A write-ahead log, so that readers never wait for writers. A write transaction takes the write lock at its beginning
(``BEGIN IMMEDIATE``): what it reads, nobody changes until it commits.
"""

import contextlib
import os
import pathlib
import sqlite3

import sqlalchemy as sa

BUSY_TIMEOUT = 30.0
"""Seconds to wait for another writer of the same file: a batch of the tally takes well under one."""

FILE_MODE = 0o640
"""Of a new file, and so of its log: whom we send mail to is nobody else's business."""


def make_engine(url: sa.URL) -> sa.Engine:
    """Return an engine for a file, which is made with its directory where it is missing.

    Raises:
        OSError: the directory cannot be made. What is wrong with the file, SQLite tells when it connects.
    """
    file = pathlib.Path(str(url.database))
    file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT})
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    return engine


def exists(url: sa.URL) -> bool:
    """Tell whether there is a file."""
    return os.path.exists(str(url.database))  # noqa: PTH110 - Path.exists raises where a folder may not be entered


def unwritable(url: sa.URL) -> str | None:
    """Return the file, or the folder that its log is in, that may not be written to; ``None``: neither."""
    file = pathlib.Path(str(url.database))
    if not os.access(file.parent, os.W_OK | os.X_OK):
        return str(file.parent) if os.path.exists(file.parent) else None  # noqa: PTH110 - as above
    return str(file) if exists(url) and not os.access(file, os.R_OK | os.W_OK) else None


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _on_begin, not by the driver
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a report that was sent must not be built again with another id


def _on_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
