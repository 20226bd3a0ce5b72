"""What was fetched from policy hosts, kept across restarts: a SQLite file behind a dictionary (RFC 8461 section 3.3).

All rows are in memory; the file is read once, at the start, and written behind by a thread, so nobody ever waits for
the disk. A policy must outlive its host, its DNS and our restarts until its ``max_age``: that is what the file is for.
Still, it is a cache: when it cannot be opened (no directory, no rights, not a database, another program's, a later
version's) everything works without it, and it is left as it is. Writes that fail are tried again with the next.

The number of rows and their weight are bounded; what has not been used for the longest time goes first.

Known limits: two processes with one file do not see each other's rows until they start again. What was written just
before the power failed may be gone (it is fetched again); a process that is killed loses what waited in the thread.
"""

import contextlib
import dataclasses
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog

from policy import mtasts, verdict

MAX_ROWS = 50_000
"""Domains: as many as a provider sends mail to in a day have MTA-STS."""

MAX_WEIGHT = 64 * 1024 * 1024
"""Octets of memory all policies may take, roughly: a policy has some hundred, but a stranger's can have 64 KiB."""

BUSY_TIMEOUT = 5.0
"""Seconds the thread waits for another process that uses the file."""

_LINE_WEIGHT = 60
"""Octets a line takes in memory besides its characters."""

_APPLICATION = 0x544C5350
"""Marks the file as ours (``PRAGMA application_id``)."""

_SCHEMA = 1
"""Version of the table; an older one is thrown away, it is only a cache."""

_TABLE = """
CREATE TABLE policies (
    domain TEXT PRIMARY KEY,
    id TEXT,
    policy BLOB,
    fetched REAL NOT NULL,
    failed_id TEXT,
    failed_type TEXT,
    failed_reason TEXT,
    failed_at REAL
) STRICT, WITHOUT ROWID
"""

_SELECT = """
SELECT domain, id, policy, fetched, failed_id, failed_type, failed_reason, failed_at FROM policies
ORDER BY max(fetched, coalesce(failed_at, 0))
"""

_SELECT_ONE = """
SELECT domain, id, policy, fetched, failed_id, failed_type, failed_reason, failed_at FROM policies WHERE domain = ?
"""

_Row = tuple[str, str | None, bytes | None, float, str | None, str | None, str | None, float | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A fetch that failed."""

    id: str
    """Of the record it was tried for."""
    finding: verdict.Finding
    at: float
    """Unix seconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a domain."""

    domain: str
    """A-labels in lower case."""
    id: str | None = None
    """Of the record the policy was fetched for; ``None`` exactly when there is no policy."""
    policy: mtasts.Policy | None = None
    """The last one that was fetched; ``None``: only a failure is kept."""
    fetched: float = 0.0
    """Unix seconds of the policy."""
    failure: Failure | None = None
    """The last fetch, if it failed."""

    def holds(self, now: float) -> bool:
        """Tell whether there is a policy that has not expired (RFC 8461 section 3.2, ``max_age``)."""
        return self.policy is not None and now < self.fetched + self.policy.max_age


class CacheError(Exception):
    """The file cannot be used; the text is one line."""


class Cache:
    """What is kept, by domain. To be used by one thread, and closed.

    Args:
        path: of the file; its directory is created when missing; empty: memory only.
        now: Unix seconds; what has expired is not read, what is said to come from the future is from now.
        max_rows: domains.
        max_weight: octets of policies.
        log: where to warn.
    """

    def __init__(
        self,
        path: Path | str,
        now: float,
        *,
        max_rows: int = MAX_ROWS,
        max_weight: int = MAX_WEIGHT,
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self._log = log or structlog.get_logger()
        self._max_rows, self._max_weight = max_rows, max_weight
        self._kept: dict[str, Kept] = {}
        self._weight = 0
        self._writer: _Writer | None = None
        if path:
            self._open(Path(path), now)

    def _open(self, path: Path, now: float) -> None:
        try:
            database = _connect(path)
            rows = database.execute(_SELECT).fetchall()
        except (sqlite3.Error, OSError) as error:
            cure = "move the file away if it is broken, or let this user write its directory"
            self._log.error("policies are not kept: no cache", path=str(path), error=str(error), cure=cure)
            return
        self._writer = _Writer(database, str(path), self._log)
        for row in rows:
            self._take(row, now)

    def _take(self, row: _Row, now: float) -> None:
        """Take a row of the file, or delete it there if it is of no use any more."""
        kept = _kept(row, now)
        if kept is not None and (kept.holds(now) or kept.failure is not None):
            self._insert(kept)
        else:
            self._write(row[0], None)

    def __iter__(self) -> Iterator[Kept]:
        """Go through all that is kept, as it is now."""
        return iter(tuple(self._kept.values()))

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, domain: str) -> Kept | None:
        """Return what is kept of a domain; it counts as used."""
        kept = self._kept.pop(domain, None)
        if kept is not None:
            self._kept[domain] = kept
        return kept

    def put(self, kept: Kept) -> None:
        """Keep something of a domain instead of what was kept before; never waits, never fails."""
        self._insert(kept)
        self._write(kept.domain, _row(kept))

    def close(self) -> None:
        """Write what is not written yet, and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _insert(self, kept: Kept) -> None:
        self._forget(kept.domain)
        self._kept[kept.domain] = kept
        self._weight += weight(kept.policy)
        while len(self._kept) > self._max_rows or self._weight > self._max_weight:
            oldest = next(iter(self._kept))
            self._forget(oldest)
            self._write(oldest, None)

    def _forget(self, domain: str) -> None:
        kept = self._kept.pop(domain, None)
        if kept is not None:
            self._weight -= weight(kept.policy)

    def _write(self, domain: str, row: _Row | None) -> None:
        if self._writer is not None:
            self._writer.put(domain, row)


def look(path: Path | str, domain: str, now: float) -> Kept | None:
    """Return what a file has of a domain, without writing to it; ``None``: nothing, or there is no file.

    Args:
        path: of the file, which the policy socket may be using; empty: there is none.
        domain: A-labels in lower case.
        now: Unix seconds.

    Raises:
        CacheError: it cannot be read.
    """
    if not path or not Path(path).exists():
        return None
    in_use = Path(f"{path}-wal").exists()  # if not, SQLite must make no such files, which may be another user's then
    uri = f"{Path(path).absolute().as_uri()}?{'mode=ro' if in_use else 'immutable=1'}"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT)) as database:
            rows = database.execute(_SELECT_ONE, (domain,)).fetchall() if _check(database) else []
    except (sqlite3.Error, OSError) as error:
        raise CacheError(f"{path}: cannot be read: {error}") from error
    return _kept(rows[0], now) if rows else None


def weight(policy: mtasts.Policy | None) -> int:
    """Return how many octets of memory a policy takes, roughly."""
    return sum(len(line) + _LINE_WEIGHT for line in policy.lines) if policy is not None else 0


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, and make the table if there is none.

    Raises:
        sqlite3.Error: it cannot be used.
        OSError: its directory cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, check_same_thread=False, isolation_level=None)
    try:
        _prepare(database)
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> int:
    """Refuse files that are not ours, and return the version of the table; 0: there is none."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != _APPLICATION:
        raise sqlite3.DatabaseError("this is the database of another program")
    if version > _SCHEMA:
        raise sqlite3.DatabaseError("a later version of tlsrpt wrote this file")
    return int(version)


def _prepare(database: sqlite3.Connection) -> None:
    version = _check(database)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    if version < _SCHEMA:
        database.executescript(
            f"BEGIN IMMEDIATE; DROP TABLE IF EXISTS policies; {_TABLE};"
            f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_SCHEMA}; COMMIT;"
        )
    database.execute("BEGIN IMMEDIATE")  # tells now, not later, that the file cannot be written
    database.execute("ROLLBACK")


def _row(kept: Kept) -> _Row:
    policy = None if kept.policy is None else _text(kept.policy.lines)
    failure = kept.failure
    failed = (None, None, None, None) if failure is None else _failed(failure)
    return (kept.domain, kept.id, policy, kept.fetched, *failed)


def _text(lines: tuple[str, ...]) -> bytes:
    """Return a file with these lines that is no longer than the one they came from."""
    return ("\n".join(lines) + ("" if lines and lines[-1] else "\n")).encode()


def _failed(failure: Failure) -> tuple[str, str, str, float]:
    return failure.id, failure.finding.result_type.value, failure.finding.reason, failure.at


def _kept(row: _Row, now: float) -> Kept | None:
    """Read a row; ``None``: it makes no sense."""
    domain, id_, text, fetched, failed_id, kind, reason, at = row
    try:
        policy = mtasts.parse_policy(text) if text is not None and id_ is not None else None
        failure = _failure(failed_id, kind, reason, at, now)
    except ValueError:
        return None
    return Kept(domain, id_ if policy is not None else None, policy, min(fetched, now), failure)


def _failure(id_: str | None, kind: str | None, reason: str | None, at: float | None, now: float) -> Failure | None:
    if id_ is None or kind is None or reason is None or at is None:
        return None
    return Failure(id_, verdict.Finding(verdict.FindingType(kind), reason), min(at, now))


class _Writer:
    """A thread that writes rows, all that wait in one transaction; of one domain, the last."""

    def __init__(self, database: sqlite3.Connection, path: str, log: structlog.typing.FilteringBoundLogger) -> None:
        self._database = database
        self._path = path
        self._log = log
        self._waiting: dict[str, _Row | None] = {}
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._ended = False
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="policy cache", daemon=True)
        self._thread.start()

    def put(self, domain: str, row: _Row | None) -> None:
        """Write a row; ``None``: delete it."""
        with self._lock:
            self._waiting[domain] = row
        self._wanted.set()

    def close(self) -> None:
        self._ended = True
        self._wanted.set()
        self._thread.join()
        self._database.close()

    def _work(self) -> None:
        ended = False
        while not ended:
            self._wanted.wait()
            self._wanted.clear()
            ended = self._ended  # looked at before the rows are taken: what was put before the end is among them
            with self._lock:
                rows, self._waiting = self._waiting, {}
            if rows and not self._write(rows):
                with self._lock:
                    self._waiting = rows | self._waiting

    def _write(self, rows: dict[str, _Row | None]) -> bool:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("DELETE FROM policies WHERE domain = ?", [(domain,) for domain in rows])
            values = [row for row in rows.values() if row is not None]
            self._database.executemany("INSERT INTO policies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(error)
            return False
        self._failing = False
        return True

    def _fail(self, error: sqlite3.Error) -> None:
        if self._database.in_transaction:
            self._database.rollback()
        if not self._failing:
            self._log.error("policies are not kept for now", path=self._path, error=str(error))
        self._failing = True
