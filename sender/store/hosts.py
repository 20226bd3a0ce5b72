"""Counts of ``tlsa`` policies by TLSA base domain (the MX host), whose operator may want reports of his own.

Each row of such a policy carries whether its host has been told. A report to a host and the marks on the rows
it is made of are one transaction, so every session reaches the host once, however the days of its domains
were closed.
"""

import collections
import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from sender import report, session
from sender.store import bulk, closings, reports, schema

CHUNK = 500
"""Rows whose failures are asked for in one statement."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class HostDay:
    """A TLSA base domain and a day."""

    day: dt.date
    host: str


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What one recipient domain adds to a host's day."""

    domain_day: tuple[str, int]
    """Recipient domain and closing."""
    policy_key: str
    count: report.PolicyCount
    targets: frozenset[str]
    """Whom the recipient domain has its own reports sent to."""


def _untold(days: sa.Table, policies: sa.Table) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of a policy that its host has not been told of, though its domain-day is decided."""
    return [
        policies.c.policy_type == session.PolicyType.TLSA.value,
        policies.c.host_told == 0,
        days.c.day == policies.c.day,
        days.c.domain == policies.c.domain,
        days.c.closing == policies.c.closing,
        days.c.state != schema.UNDECIDED,
    ]


def untold(
    connection: sa.Connection, limit: int, *, after: HostDay | None = None, host: str | None = None
) -> list[HostDay]:
    """Return the days of hosts that have not been told, in order of (day, host).

    Days on which a reporter has yet to decide about a domain-day are left to the one that comes last, so that a host is
    told once of all; but not where one ``host`` is asked for.
    """
    policies = schema.policies
    found: list[HostDay] = []
    for day, of_day in closings.all_closed(connection).items():
        if (after is not None and day < after.day) or (host is None and _is_being_decided(connection, day)):
            continue
        query = sa.select(policies.c.policy_domain).distinct().where(policies.c.day == day)
        query = query.where(*_untold(schema.domain_days, policies))
        if not of_day.every:
            query = query.where(bulk.among(connection, policies.c.domain, list(of_day.single)))
        if after is not None and day == after.day:
            query = query.where(policies.c.policy_domain > after.host)
        if host is not None:
            query = query.where(policies.c.policy_domain == host)
        query = query.order_by(policies.c.policy_domain).limit(limit - len(found))
        found += [HostDay(day, name) for name in connection.execute(query).scalars()]
        if len(found) == limit:
            break
    return found


def _is_being_decided(connection: sa.Connection, day: dt.date) -> bool:
    """Tell whether a day has a closed domain-day that nobody has looked at yet; one that waits for the DNS is none."""
    rows = schema.domain_days
    query = sa.select(rows.c.domain).where(rows.c.day == day, rows.c.state == schema.UNDECIDED, rows.c.reason.is_(None))
    return connection.execute(query.where(closings.closed_on(connection, day)).limit(1)).first() is not None


def shares(connection: sa.Connection, host_day: HostDay) -> list[Share]:
    """Return what each recipient domain adds to a host's day."""
    policies = schema.policies
    query = sa.select(policies).where(*_untold(schema.domain_days, policies))
    query = query.where(policies.c.day == host_day.day, policies.c.policy_domain == host_day.host)
    rows = connection.execute(query).all()
    failures = _failures(connection, host_day.day, rows)
    targets = _targets(connection, host_day)
    return [
        Share((row.domain, row.closing), row.policy, _count(row, failures), frozenset(targets.get(row.domain, ())))
        for row in rows
    ]


def _failures(
    connection: sa.Connection, day: dt.date, rows: Sequence[Any]
) -> dict[tuple[Any, ...], list[tuple[session.Failure, int]]]:
    """Return the failures of policies on a day by the key of their counts."""
    table = schema.failures
    found: dict[tuple[Any, ...], list[tuple[session.Failure, int]]] = collections.defaultdict(list)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        query = sa.select(table).where(
            table.c.day == day,
            bulk.among(connection, table.c.domain, {row.domain for row in chunk}),
            bulk.among(connection, table.c.policy, {row.policy for row in chunk}),
        )
        for row in connection.execute(query):
            found[_key(row)].append((reports.failure(row), row.sessions))
    return found


_KEY = ("day", "domain", "closing", "policy")
"""The primary key of a policy's counts."""


def _key(row: Any) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in _KEY)


def _count(row: Any, failures: dict[tuple[Any, ...], list[tuple[session.Failure, int]]]) -> report.PolicyCount:
    return report.PolicyCount(reports.policy(row), row.successful, row.failed, tuple(failures.get(_key(row), ())))


def _targets(connection: sa.Connection, host_day: HostDay) -> dict[str, set[str]]:
    """Return by recipient domain of a host the targets of its own reports of that day."""
    policies, deliveries = schema.policies, schema.deliveries
    domains = sa.select(policies.c.domain).where(
        policies.c.day == host_day.day,
        policies.c.policy_domain == host_day.host,
        policies.c.policy_type == session.PolicyType.TLSA.value,
        policies.c.host_told == 0,
    )
    query = sa.select(deliveries.c.domain, deliveries.c.target).where(
        deliveries.c.day == host_day.day, deliveries.c.domain.in_(domains)
    )
    found: dict[str, set[str]] = collections.defaultdict(set)
    for domain, target in connection.execute(query):
        found[domain].add(target)
    return found


def mark_all_told(connection: sa.Connection, host_days: Sequence[HostDay]) -> None:
    """Mark all that these hosts have not been told, because they do not ask for it."""
    days, policies = schema.domain_days, schema.policies
    change = (
        sa.update(policies)
        .where(policies.c.day == sa.bindparam("of_day"), policies.c.policy_domain == sa.bindparam("of_host"))
        .where(sa.exists().where(*_untold(days, policies)).correlate(policies))
        .values(host_told=1)
    )
    bulk.update(connection, change, ("of_day", "of_host"), [(one.day, one.host) for one in host_days])


def mark_told(connection: sa.Connection, host_day: HostDay, told: list[Share]) -> bool:
    """Mark what was told; whether all of it had not been told yet (otherwise the caller must roll back)."""
    if not told:
        return True
    policies = schema.policies
    change = (
        sa.update(policies)
        .where(policies.c.day == host_day.day, policies.c.domain == sa.bindparam("of_domain"))
        .where(policies.c.closing == sa.bindparam("of_closing"), policies.c.policy == sa.bindparam("of_policy"))
        .where(policies.c.host_told == 0)
        .values(host_told=1)
    )
    keys = [
        {"of_domain": share.domain_day[0], "of_closing": share.domain_day[1], "of_policy": share.policy_key}
        for share in told
    ]
    return connection.execute(change, keys).rowcount == len(keys)


def need_not_be_told(connection: sa.Connection, domain_day: reports.DomainDay) -> None:
    """Mark the policies of a domain-day whose sessions must not lead to any report."""
    policies = schema.policies
    connection.execute(
        sa.update(policies)
        .where(policies.c.day == domain_day.day, policies.c.domain == domain_day.domain)
        .where(policies.c.closing == domain_day.closing)
        .values(host_told=1)
    )
