"""The reporter's side of the store: closed domain-days, their counts, and the reports made of them.

A domain-day is decided once: marking it reported and keeping its report is one transaction, and of two processes
that build the same one the second learns from the mark that it came too late (:func:`settle`).
"""

import collections
import dataclasses
import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from sender import report, session
from sender.store import bulk, closings, days, schema

LEASE = dt.timedelta(minutes=10)
"""How long a claimed domain-day is left to its reporter: several times what a batch takes when the DNS is dead."""


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
    """Return closed domain-days of which nothing was decided yet, in order of (day, closing, domain).

    Args:
        connection: a reading one.
        limit: how many at most.
        after: begin behind this one.
        domain: only of this domain.
        last: as if all days up to this one were closed.
    """
    found: list[DomainDay] = []
    for query in _undecided(connection, after, domain, last):
        found += [DomainDay(*row) for row in connection.execute(query.limit(limit - len(found)))]
        if len(found) == limit:
            break
    return found


def claim(
    connection: sa.Connection,
    now: dt.datetime,
    limit: int,
    *,
    after: DomainDay | None = None,
    domain: str | None = None,
) -> list[DomainDay]:
    """Lease closed domain-days of which nothing was decided yet, and that no other reporter is at.

    On SQLite there is one host, and nothing is leased: where two processes are at the same, :func:`settle` tells.

    Args:
        connection: a writing one.
        now: aware.
        limit: how many at most.
        after: begin behind this one.
        domain: only of this domain.
    """
    if connection.dialect.name != "postgresql":
        return undecided(connection, limit, after=after, domain=domain)
    table = schema.domain_days
    seconds = int(now.timestamp())
    free = sa.or_(table.c.leased_until.is_(None), table.c.leased_until <= seconds)
    claimed: list[DomainDay] = []
    for query in _undecided(connection, after, domain, None):
        mine = query.where(free).limit(limit - len(claimed)).with_for_update(skip_locked=True)
        claimed += [DomainDay(*row) for row in connection.execute(mine)]
        if len(claimed) == limit:
            break
    _lease(connection, claimed, seconds + int(LEASE.total_seconds()))
    return claimed


def release(connection: sa.Connection, claimed: Iterable[DomainDay]) -> None:
    """Give leases back, so that another reporter can go on at once."""
    if connection.dialect.name == "postgresql":
        _lease(connection, claimed, None)


def _lease(connection: sa.Connection, claimed: Iterable[DomainDay], until: int | None) -> None:
    table = schema.domain_days
    for those in _by_closing(connection, claimed):
        lease = sa.update(table).where(*those, table.c.state == schema.UNDECIDED)
        connection.execute(lease.values(leased_until=until))


def _by_closing(
    connection: sa.Connection, domain_days: Iterable[DomainDay]
) -> Iterator[tuple[sa.ColumnElement[bool], ...]]:
    """Yield conditions that together hold for these rows only, in the order in which rows are locked."""
    table = schema.domain_days
    domains: dict[tuple[dt.date, int], list[str]] = collections.defaultdict(list)
    for one in domain_days:
        domains[one.day, one.closing].append(one.domain)
    for (day, closing), of_closing in sorted(domains.items()):
        yield table.c.day == day, table.c.closing == closing, bulk.among(connection, table.c.domain, of_closing)


def _undecided(
    connection: sa.Connection, after: DomainDay | None, domain: str | None, last: dt.date | None
) -> Iterator[sa.Select[Any]]:
    """Yield a query for each day that has any, in order: an index then has the rest."""
    table = schema.domain_days
    for day in days.undecided(connection):
        if after is not None and day < after.day:
            continue
        query = sa.select(*_domain_day_columns()).where(table.c.day == day, table.c.state == schema.UNDECIDED)
        if last is None or day > last:
            query = query.where(closings.closed_on(connection, day))
        if after is not None and day == after.day:
            key = sa.tuple_(table.c.closing, table.c.domain)
            query = query.where(key > sa.tuple_(sa.literal(after.closing), sa.literal(after.domain)))
        if domain is not None:
            query = query.where(table.c.domain == domain)
        yield query.order_by(table.c.closing, table.c.domain)


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


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """What the store has of a domain-day."""

    policies: list[Any] = dataclasses.field(default_factory=list)
    """Rows of :data:`POLICY`."""
    failures: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    """Rows of :data:`FAILURE` by key of their policy."""

    def by_policy(self) -> list[report.PolicyCount]:
        """Return the counts by policy.

        Raises:
            ValueError: they are damaged.
        """
        return [
            report.PolicyCount(policy(row), row.successful, row.failed, self._of(row.policy)) for row in self.policies
        ]

    def _of(self, key: str) -> tuple[tuple[session.Failure, int], ...]:
        return tuple([(failure(row), row.sessions) for row in self.failures.get(key, ())])


def counted(connection: sa.Connection, domain_days: Iterable[DomainDay]) -> dict[DomainDay, Counted]:
    """Return the counts of domain-days."""
    found = {_key(one): (one, Counted()) for one in domain_days}
    domains = [one for one, _ in found.values()]
    for row in _rows(connection, schema.policies, POLICY, domains):
        if (key := tuple(row[:3])) in found:
            found[key][1].policies.append(row)
    for row in _rows(connection, schema.failures, FAILURE, domains):
        if (key := tuple(row[:3])) in found:
            found[key][1].failures.setdefault(row.policy, []).append(row)
    return dict(found.values())


_KEY = ("day", "domain", "closing")
"""The primary key of ``domain_days``, with which those of counts begin."""

POLICY = (*_KEY, "policy", "policy_type", "policy_domain", "policy_strings", "mx_hosts", "successful", "failed")
"""Columns of a policy's counts that are read."""

FAILURE = (*_KEY, "policy", *session.Failure.__struct_fields__, "sessions")
"""Columns of a failure's counts that are read."""


def _key(one: DomainDay) -> tuple[dt.date, str, int]:
    return one.day, one.domain, one.closing


def _rows(
    connection: sa.Connection,
    table: sa.Table,
    columns: Iterable[str],
    domain_days: Iterable[DomainDay],
) -> Iterator[Any]:
    """Return rows of the domains and days, of all their closings."""
    by_day: dict[dt.date, list[str]] = collections.defaultdict(list)
    for one in domain_days:
        by_day[one.day].append(one.domain)
    for day, domains in by_day.items():
        wanted = [table.c[name] for name in columns]
        yield from bulk.find(connection, wanted, table.c.domain, domains, table.c.day == day)


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
    return session.Failure(session.ResultType(row.result_type), *(getattr(row, name) for name in _PARTICULARS))


_PARTICULARS = session.Failure.__struct_fields__[1:]


def settle(connection: sa.Connection, decided: Sequence[tuple[DomainDay, str, str | None]]) -> set[DomainDay]:
    """Settle domain-days: :data:`schema.REPORTED`, or :data:`schema.SKIPPED` with the reason.

    With :data:`schema.UNDECIDED` only the reason is noted why it has to wait.

    Args:
        connection: a writing one.
        decided: domain-days, state, reason.

    Returns:
        Those that were still undecided. Nothing was changed of the others, and what would go with them must be left.
    """
    table = schema.domain_days
    domain_days = [one for one, _, _ in decided]
    undecided = _lock(connection, domain_days)
    rows = [(*_key(one), state, reason) for one, state, reason in decided if _key(one) in undecided]
    change = sa.update(table).values(state=sa.bindparam("new"), reason=sa.bindparam("why"), leased_until=None)
    change = change.where(*(table.c[name] == sa.bindparam(f"of_{name}") for name in _KEY))
    bulk.update(connection, change, [*(f"of_{name}" for name in _KEY), "new", "why"], rows)
    return {one for one in domain_days if _key(one) in undecided}


def _lock(connection: sa.Connection, domain_days: Iterable[DomainDay]) -> set[tuple[dt.date, str, int]]:
    """Return the keys of those that are undecided; until the end nobody else decides them."""
    table = schema.domain_days
    found: set[tuple[dt.date, str, int]] = set()
    for those in _by_closing(connection, domain_days):
        query = sa.select(*(table.c[name] for name in _KEY)).where(*those, table.c.state == schema.UNDECIDED)
        found.update(map(tuple, connection.execute(query.order_by(table.c.domain).with_for_update())))
    return found


def add(connection: sa.Connection, made: Sequence[Report]) -> None:
    """Keep reports, and give them their revisions: 1 for the first about a domain and day."""
    table = schema.reports
    revisions: collections.Counter[tuple[dt.date, str]] = collections.Counter()
    for day, of_day in itertools.groupby(made, key=lambda one: one.day):
        domains = {one.domain for one in of_day}
        known = bulk.find(connection, (table.c.domain, table.c.revision), table.c.domain, domains, table.c.day == day)
        for domain, revision in known:
            revisions[day, domain] = max(revisions[day, domain], revision)
    rows = []
    for one in made:
        revisions[one.day, one.domain] += 1
        revision = revisions[one.day, one.domain]
        created = int(one.created.timestamp())
        rows.append((one.day, one.domain, revision, one.report_id, created, one.successful, one.failed, one.packed))
    bulk.insert(connection, table, rows)


def of_domain(connection: sa.Connection, domain: str, day: dt.date) -> list[Report]:
    """Return the reports about a domain and day, by revision."""
    table = schema.reports
    query = sa.select(table).where(table.c.day == day, table.c.domain == domain).order_by(table.c.revision)
    return [_report(row) for row in connection.execute(query)]


def by_id(connection: sa.Connection, report_ids: Iterable[str]) -> dict[str, Report]:
    """Return reports by their ids."""
    table = schema.reports
    rows = bulk.find(connection, list(table.c), table.c.report_id, list(report_ids))
    return {row.report_id: _report(row) for row in rows}


def _report(row: Any) -> Report:
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(Report)}
    values["created"] = dt.datetime.fromtimestamp(row.created, dt.UTC)
    return Report(**values)


def last_day(connection: sa.Connection, domain: str) -> dt.date | None:
    """Return the newest day on which anything is known of a domain."""
    found: list[dt.date] = []
    for table in (schema.domain_days, schema.reports):
        query = sa.select(table.c.day).where(table.c.day.in_(days.known(connection, table)), table.c.domain == domain)
        found += connection.execute(query).scalars()
    return max(found, default=None)
