"""The store on a PostgreSQL server, for many hosts; the rim of psycopg.

Reads see one state (REPEATABLE READ); writes run at READ COMMITTED, lock what they change in the order of its key, and
say with ``locks`` what must not happen at the same time.
"""

import psycopg
import sqlalchemy as sa

CONNECT_TIMEOUT = 10
"""Seconds to wait for a connection: a command should say soon that nobody answers."""

LOCK_TIMEOUT = 30
"""Seconds to wait for what another transaction holds: a batch takes well under one."""

STATEMENT_TIMEOUT = 300
"""Seconds that one statement may take: a listing of all there is takes the longest."""

IDLE_TIMEOUT = 20
"""Seconds after which the server ends a transaction whose client has fallen silent: many times what a batch thinks
between two statements, and less than :data:`LOCK_TIMEOUT`, so that a host which vanishes keeps no day from closing."""

SILENCE = 20
"""Seconds after which a connection is given up whose other end does not answer: a host may vanish without a word."""

_SETTINGS = {
    "lock_timeout": LOCK_TIMEOUT,
    "statement_timeout": STATEMENT_TIMEOUT,
    "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
}

_DEFAULTS: dict[str, str | int] = {
    "application_name": "tlsrpt",
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": SILENCE // 2,
    "keepalives_interval": SILENCE // 4,
    "keepalives_count": 2,
    "tcp_user_timeout": SILENCE * 1000,
    "target_session_attrs": "read-write",
    "options": " ".join(f"-c {name}={seconds}s" for name, seconds in _SETTINGS.items()),
}
"""Parameters of a connection that ``store.url`` may set otherwise."""


def make_engine(url: sa.URL) -> sa.Engine:
    """Return an engine; nothing is connected yet.

    Args:
        url: ``postgresql://``, with whatever parameters libpq knows after ``?``.
    """
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in url.query}
    return sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        module=psycopg,
        connect_args=defaults,
        paramstyle="format",
        pool_pre_ping=True,  # a server that was restarted meanwhile is no trouble
    )
