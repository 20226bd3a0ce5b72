"""The reporter's side of the store: closed domain-days, their counts, and the reports made of them.

A domain-day is decided once: marking it reported and keeping its report is one transaction, and of two processes
that build the same one the second learns from the mark that it came too late (:func:`decide`).
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from sender import report, session
from sender.store import closings, schema


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class DomainDay:
    """The counts of a recipient domain that one closing of a day takes."""

    day: dt.date
    domain: str
    closing: int
    record: str | None = dataclasses.field(compare=False)
    successful: int = dataclasses.field(compare=False)
    failed: int = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """A report as it is kept and sent."""

    report_id: str
    day: dt.date
    domain: str
    """The policy domain it is about."""
    created: dt.datetime
    successful: int
    failed: int
    packed: bytes
    """The document, gzipped."""
    revision: int = 0
    """1 for the first about this domain and day; given by the store."""


def undecided(
    connection: sa.Connection,
    limit: int,
    *,
    after: DomainDay | None = None,
    domain: str | None = None,
    last: dt.date | None = None,
) -> list[DomainDay]:
    """Return closed domain-days of which nothing was decided yet, in order of (day, domain, closing).

    Args:
        connection: a reading one.
        limit: how many at most.
        after: begin behind this one.
        domain: only of this domain.
        last: as if all days up to this one were closed.
    """
    table = schema.domain_days
    key = sa.tuple_(table.c.day, table.c.domain, table.c.closing)
    ready = closings.is_closed() if last is None else sa.or_(closings.is_closed(), table.c.day <= last)
    query = sa.select(*_domain_day_columns()).where(table.c.state == schema.UNDECIDED, ready)
    if after is not None:
        query = query.where(key > sa.tuple_(sa.literal(after.day), sa.literal(after.domain), sa.literal(after.closing)))
    if domain is not None:
        query = query.where(table.c.domain == domain)
    query = query.order_by(table.c.day, table.c.domain, table.c.closing).limit(limit)
    return [DomainDay(*row) for row in connection.execute(query)]


def open_counts(connection: sa.Connection, day: dt.date, domain: str) -> DomainDay | None:
    """Return the newest counts of a domain on a day of which no report was built."""
    table = schema.domain_days
    query = (
        sa.select(*_domain_day_columns())
        .where(table.c.day == day, table.c.domain == domain, table.c.state != schema.REPORTED)
        .order_by(table.c.closing.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else DomainDay(*row)


def _domain_day_columns() -> list[sa.Column[Any]]:
    table = schema.domain_days
    return [table.c[field.name] for field in dataclasses.fields(DomainDay)]


def policy_counts(connection: sa.Connection, domain_day: DomainDay) -> list[report.PolicyCount]:
    """Return the counts of a domain-day by policy."""
    key: dict[str, Any] = {"day": domain_day.day, "domain": domain_day.domain, "closing": domain_day.closing}
    policies = schema.policies
    rows = connection.execute(sa.select(policies).where(*(policies.c[name] == value for name, value in key.items())))
    failures = _failures(connection, key)
    return [
        report.PolicyCount(policy(row), row.successful, row.failed, tuple(failures.get(row.policy, ()))) for row in rows
    ]


def _failures(connection: sa.Connection, key: dict[str, Any]) -> dict[str, list[tuple[session.Failure, int]]]:
    table = schema.failures
    found: dict[str, list[tuple[session.Failure, int]]] = {}
    for row in connection.execute(sa.select(table).where(*(table.c[name] == value for name, value in key.items()))):
        found.setdefault(row.policy, []).append((failure(row), row.sessions))
    return found


def policy(row: Any) -> session.Policy:
    """Return a row of ``policies`` as a value."""
    return session.Policy(
        type=session.PolicyType(row.policy_type),
        domain=row.policy_domain,
        strings=msgspec.json.decode(row.policy_strings, type=tuple[str, ...]),
        mx_hosts=msgspec.json.decode(row.mx_hosts, type=tuple[str, ...]),
    )


def failure(row: Any) -> session.Failure:
    """Return a row of ``failures`` as a value."""
    return session.Failure(
        result_type=session.ResultType(row.result_type),
        sending_mta_ip=row.sending_mta_ip,
        receiving_mx_hostname=row.receiving_mx_hostname,
        receiving_mx_helo=row.receiving_mx_helo,
        receiving_ip=row.receiving_ip,
        additional_information=row.additional_information,
        failure_reason_code=row.failure_reason_code,
    )


def decide(connection: sa.Connection, domain_day: DomainDay, state: str, reason: str | None = None) -> bool:
    """Settle a domain-day: :data:`schema.REPORTED`, or :data:`schema.SKIPPED` with the reason.

    With :data:`schema.UNDECIDED` only the reason is noted why it has to wait.

    Returns:
        Whether it was still undecided; otherwise nothing was changed, and what would go with it must be left, too.
    """
    table = schema.domain_days
    change = (
        sa.update(table)
        .where(table.c.day == domain_day.day, table.c.domain == domain_day.domain)
        .where(table.c.closing == domain_day.closing, table.c.state == schema.UNDECIDED)
        .values(state=state, reason=reason)
    )
    return connection.execute(change).rowcount == 1


def add(connection: sa.Connection, made: Report) -> None:
    """Keep a report, and give it its revision: 1 for the first about this domain and day."""
    table = schema.reports
    highest = sa.select(sa.func.max(table.c.revision)).where(table.c.day == made.day, table.c.domain == made.domain)
    revision = 1 + (connection.execute(highest).scalar() or 0)
    row = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    row |= {"created": int(made.created.timestamp()), "revision": revision}
    connection.execute(sa.insert(table), row)


def of_domain(connection: sa.Connection, domain: str, day: dt.date) -> list[Report]:
    """Return the reports about a domain and day, by revision."""
    table = schema.reports
    query = sa.select(table).where(table.c.day == day, table.c.domain == domain).order_by(table.c.revision)
    return [_report(row) for row in connection.execute(query)]


def by_id(connection: sa.Connection, report_ids: Iterable[str]) -> dict[str, Report]:
    """Return reports by their ids."""
    table = schema.reports
    rows = connection.execute(sa.select(table).where(table.c.report_id.in_(list(report_ids))))
    return {row.report_id: _report(row) for row in rows}


def _report(row: Any) -> Report:
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(Report)}
    values["created"] = dt.datetime.fromtimestamp(row.created, dt.UTC)
    return Report(**values)


def last_day(connection: sa.Connection, domain: str) -> dt.date | None:
    """Return the newest day on which anything is known of a domain."""
    days = [
        connection.execute(sa.select(sa.func.max(table.c.day)).where(table.c.domain == domain)).scalar()
        for table in (schema.domain_days, schema.reports)
    ]
    return max((day for day in days if day is not None), default=None)
