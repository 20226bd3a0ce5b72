"""The tally's side of the store: positions in the journal, and counts by day, domain, policy and failure.

Counts and position are committed in one transaction (:func:`advance` says whether it may go on), which is what makes
every datagram count exactly once.
"""

import dataclasses
import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from sender import counting, session
from sender.store import closings, schema, upsert

CHUNK = 500
"""Domains asked for in one statement: far below the number of parameters SQLite takes (32,766)."""


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
    row = {"journal": journal, "segment": segment, "day": day, "position": 0}
    upsert.add(connection, table, [row])
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


def add(connection: sa.Connection, day: dt.date, counts: counting.Counts) -> None:
    """Add what a stretch of the journal held to the counts of its day."""
    closed = closings.closed(connection, day)
    by_closing: dict[int, dict[str, counting.DomainCounts]] = {}
    for domain, numbers in sorted(counts.domains.items()):
        by_closing.setdefault(closed.current(domain), {})[domain] = numbers
    for closing, domains in by_closing.items():
        _add_domains(connection, {"day": day, "closing": closing}, domains)
    add_malformed(connection, day, ((error.reason, times) for _, error, times in counts.malformed))


def add_malformed(connection: sa.Connection, day: dt.date, reasons: Iterable[tuple[str, int]]) -> None:
    """Count datagrams that could not be read, by reason."""
    sums: dict[str, int] = {}
    for reason, times in reasons:
        sums[str(reason)] = sums.get(str(reason), 0) + times
    rows = [{"day": day, "reason": reason, "datagrams": times} for reason, times in sums.items()]
    upsert.add(connection, schema.malformed, rows, sums=["datagrams"])


def _add_domains(
    connection: sa.Connection, where: Mapping[str, Any], domains: Mapping[str, counting.DomainCounts]
) -> None:
    domains = _bounded(connection, where, domains)
    rows: list[dict[str, Any]] = []
    policies: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    for domain, numbers in domains.items():
        key = {**where, "domain": domain}
        sums = {"successful": numbers.successful, "failed": numbers.failed}
        rows.append({**key, "record": numbers.record, **sums, "state": schema.UNDECIDED, "reason": None})
        for policy, by_policy in numbers.policies.items():
            policy_key = {**key, "policy": counting.key(policy)}
            policies.append(_policy_row(policy_key, policy, by_policy))
            failures.extend(_failure_row(policy_key, *counted) for counted in by_policy.failures.items())
    upsert.add(connection, schema.domain_days, rows, sums=["successful", "failed"], latest=["record"])
    upsert.add(connection, schema.policies, policies, sums=["successful", "failed"])
    upsert.add(connection, schema.failures, failures, sums=["sessions"])


def _policy_row(key: Mapping[str, Any], policy: session.Policy, numbers: counting.PolicyCounts) -> dict[str, Any]:
    return {
        **key,
        "policy_type": policy.type,
        "policy_domain": policy.domain,
        "policy_strings": msgspec.json.encode(policy.strings).decode(),
        "mx_hosts": msgspec.json.encode(policy.mx_hosts).decode(),
        "host_told": 0,
        "successful": numbers.successful,
        "failed": numbers.failed,
    }


_FAILURE_FIELDS = tuple(field.name for field in dataclasses.fields(session.Failure))


def _failure_row(key: Mapping[str, Any], failure: session.Failure, sessions: int) -> dict[str, Any]:
    values = {name: getattr(failure, name) for name in _FAILURE_FIELDS}
    return {**key, "failure": counting.key(failure), **values, "sessions": sessions}


def _bounded(
    connection: sa.Connection, where: Mapping[str, Any], domains: Mapping[str, counting.DomainCounts]
) -> dict[str, counting.DomainCounts]:
    """Return the counts within the bounds on distinct policies and failures, given what the store has already."""
    known = _known(connection, where, list(domains), schema.policies.c.policy)
    bounded = {
        name: counting.bound_policies(name, numbers, known.get(name, set())) for name, numbers in domains.items()
    }
    failing = [name for name, numbers in bounded.items() if any(p.failures for p in numbers.policies.values())]
    known_failures = _known(connection, where, failing, schema.failures.c.policy, schema.failures.c.failure)
    for name in failing:
        bounded[name] = counting.bound_failures(bounded[name], known_failures.get(name, set()))
    return bounded


def _known(
    connection: sa.Connection, where: Mapping[str, Any], domains: Sequence[str], *columns: sa.Column[Any]
) -> dict[str, set[Any]]:
    """Return by domain the values of key columns (one value, or tuples of several) that the store has."""
    table = columns[0].table
    known: dict[str, set[Any]] = {}
    for chunk in _chunks(domains):
        query = sa.select(table.c.domain, *columns).where(
            table.c.day == where["day"], table.c.closing == where["closing"], table.c.domain.in_(chunk)
        )
        for domain, *key in connection.execute(query):
            known.setdefault(domain, set()).add(tuple(key) if len(columns) > 1 else key[0])
    return known


def _chunks(domains: Sequence[str]) -> Iterator[list[str]]:
    iterator = iter(domains)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk
