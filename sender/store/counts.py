"""The tally's side of the store: positions in the journal, and counts by day, domain, policy and failure.

Counts and position are committed in one transaction (:func:`advance` says whether it may go on), which is what makes
every datagram count exactly once.
"""

import collections
import dataclasses
import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from sender import counting, session
from sender.store import bulk, closings, locks, schema

CHUNK = 500
"""Domains asked for in one statement: far below the number of parameters SQLite takes (32,766)."""


_SUCCESSFUL, _FAILED = 4, 5
"""Places in a row of ``domain_days``."""


@dataclasses.dataclass(slots=True)
class Sums:
    """Sessions over all domains."""

    successful: int = 0
    failed: int = 0
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """By result type (RFC 8460 section 4.3); a session can have several."""

    def by_kind(self) -> list[tuple[str, int]]:
        """Return the rows of the store, in order."""
        kinds = {**self.failures, "successful": self.successful, "failed": self.failed}
        return sorted((str(kind), sessions) for kind, sessions in kinds.items())

    def take(self, kind: str, sessions: int) -> None:
        """Take a row of the store."""
        if kind == "successful":
            self.successful += sessions
        elif kind == "failed":
            self.failed += sessions
        else:
            self.failures[kind] += sessions


def position(connection: sa.Connection, journal: str, segment: str) -> int:
    """Return how many bytes of a segment have been tallied."""
    table = schema.positions
    query = sa.select(table.c.position).where(table.c.journal == journal, table.c.segment == segment)
    return connection.execute(query).scalar() or 0


def advance(connection: sa.Connection, journal: str, segment: str, day: dt.date, *, start: int, end: int) -> bool:
    """Move the position of a segment from ``start`` to ``end``.

    Returns:
        Whether the position was still at ``start``; otherwise another process has counted that stretch and nothing was
        changed.
    """
    table = schema.positions
    bulk.add(connection, table, [(journal, segment, day, 0)])
    change = (
        sa.update(table)
        .where(table.c.journal == journal, table.c.segment == segment, table.c.position == start)
        .values(position=end)
    )
    return connection.execute(change).rowcount == 1


def forget(connection: sa.Connection, journal: str, segment: str) -> None:
    """Delete the position of a segment that was removed."""
    table = schema.positions
    connection.execute(sa.delete(table).where(table.c.journal == journal, table.c.segment == segment))


def add(connection: sa.Connection, journal: str, day: dt.date, counts: counting.Counts) -> Sums:
    """Add what a stretch of the journal held to the counts of its day, for which there is a place (``partitions``).

    Rows are changed in the order of their keys, so that two hosts never wait for each other in a circle.

    Args:
        connection: a writing one.
        journal: its identity.
        day: UTC.
        counts: of the stretch.

    Returns:
        what was added, over all domains.
    """
    locks.together(connection, day)  # it does not close meanwhile
    closed = closings.closed(connection, day)
    by_closing: dict[int, dict[str, counting.DomainCounts]] = {}
    for domain, numbers in sorted(counts.domains.items()):
        by_closing.setdefault(closed.current(domain), {})[domain] = numbers
    sums = Sums()
    for closing, domains in sorted(by_closing.items()):
        _add_domains(connection, day, closing, domains, sums)
    rows = [(day, journal, kind, sessions) for kind, sessions in sums.by_kind() if sessions]
    bulk.add(connection, schema.sums, rows, sums=["sessions"])
    add_malformed(connection, day, ((error.reason, times) for _, error, times in counts.malformed))
    return sums


def sums_by_day(connection: sa.Connection, first: dt.date) -> dict[dt.date, Sums]:
    """Return the sessions of all hosts and domains by day, from the first on; days without any are left out."""
    table = schema.sums
    query = sa.select(table.c.day, table.c.kind, sa.func.sum(table.c.sessions)).where(table.c.day >= first)
    found: dict[dt.date, Sums] = {}
    for day, kind, sessions in connection.execute(query.group_by(table.c.day, table.c.kind).order_by(table.c.day)):
        found.setdefault(day, Sums()).take(kind, int(sessions))
    return found


def add_malformed(connection: sa.Connection, day: dt.date, reasons: Iterable[tuple[str, int]]) -> None:
    """Count datagrams that could not be read, by reason."""
    sums: dict[str, int] = {}
    for reason, times in reasons:
        sums[str(reason)] = sums.get(str(reason), 0) + times
    bulk.add(connection, schema.malformed, [(day, *item) for item in sorted(sums.items())], sums=["datagrams"])


def _add_domains(
    connection: sa.Connection, day: dt.date, closing: int, domains: Mapping[str, counting.DomainCounts], sums: Sums
) -> None:
    rows: list[tuple[Any, ...]] = [
        (day, domain, closing, one.record, one.successful, one.failed, schema.UNDECIDED, None, None)
        for domain, one in domains.items()
    ]
    bulk.add(connection, schema.domain_days, rows, sums=["successful", "failed"], latest=["record"])
    sums.successful += sum(row[_SUCCESSFUL] for row in rows)
    sums.failed += sum(row[_FAILED] for row in rows)
    # from here on no other host can add to these domains
    policies: list[tuple[Any, ...]] = []
    failures: list[tuple[Any, ...]] = []
    for domain, numbers in _bounded(connection, day, closing, domains).items():
        key = (day, domain, closing)
        for policy, by_policy in numbers.policies.items():
            policy_key = (*key, counting.key(policy))
            policies.append((*policy_key, *_policy_values(policy), 0, by_policy.successful, by_policy.failed))
            for failure, sessions in by_policy.failures.items():
                failures.append((*policy_key, counting.key(failure), *msgspec.structs.astuple(failure), sessions))
                sums.failures[failure.result_type] += sessions
    bulk.add(connection, schema.policies, policies, sums=["successful", "failed"])
    bulk.add(connection, schema.failures, failures, sums=["sessions"])


def _policy_values(policy: session.Policy) -> tuple[str, ...]:
    lists = (policy.strings, policy.mx_hosts)
    return (policy.type, policy.domain, *(msgspec.json.encode(texts).decode() for texts in lists))


def _bounded(
    connection: sa.Connection, day: dt.date, closing: int, domains: Mapping[str, counting.DomainCounts]
) -> dict[str, counting.DomainCounts]:
    """Return the counts within the bounds on distinct policies and failures, given what the store has already."""
    known = _known(connection, day, closing, list(domains), schema.policies.c.policy)
    bounded = {
        name: counting.bound_policies(name, numbers, known.get(name, set())) for name, numbers in domains.items()
    }
    failing = [name for name, numbers in bounded.items() if any(p.failures for p in numbers.policies.values())]
    known_failures = _known(connection, day, closing, failing, schema.failures.c.policy, schema.failures.c.failure)
    for name in failing:
        bounded[name] = counting.bound_failures(bounded[name], known_failures.get(name, set()))
    return bounded


def _known(
    connection: sa.Connection, day: dt.date, closing: int, domains: Sequence[str], *columns: sa.Column[Any]
) -> dict[str, set[Any]]:
    """Return by domain the values of key columns (one value, or tuples of several) that the store has."""
    table = columns[0].table
    known: dict[str, set[Any]] = {}
    for chunk in _chunks(domains):
        conditions = (table.c.day == day, table.c.closing == closing)
        for domain, *key in bulk.find(connection, (table.c.domain, *columns), table.c.domain, chunk, *conditions):
            known.setdefault(domain, set()).add(tuple(key) if len(columns) > 1 else key[0])
    return known


def _chunks(domains: Sequence[str]) -> Iterator[list[str]]:
    iterator = iter(domains)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk
