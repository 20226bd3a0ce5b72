"""Deliveries: each report and rua a row of its own, with its own state.

Work is claimed with a lease. A process that dies between sending and noting leaves a lease that expires; the
delivery is then made again, with the same Message-ID and report-id, which is how receivers know it (RFC 8460
section 5.3).
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from policy import tlsrpt
from sender import outcome
from sender.store import bulk, schema

LEASE = dt.timedelta(hours=1)
"""How long a claimed delivery is left to its process, which begins no attempt when half of it is over."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """One report to one rua; times are aware, in UTC."""

    report_id: str
    number: int
    day: dt.date
    domain: str
    rua: str
    scheme: str
    target: str
    state: str
    attempts: int
    first_attempt: dt.datetime | None
    next_attempt: dt.datetime | None
    settled: dt.datetime | None
    answer: str | None
    rule: str | None
    """The rule of the configuration that it goes by, in words."""
    bounced: dt.datetime | None
    """When the mail came back for good."""
    bounce: str | None
    """Status and reason of that."""


_TIMES = ("first_attempt", "next_attempt", "settled", "bounced")


def from_row(row: Any) -> Delivery:
    """Return a row of the table as a value."""
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(Delivery)}
    for name in _TIMES:
        if values[name] is not None:
            values[name] = dt.datetime.fromtimestamp(values[name], dt.UTC)
    return Delivery(**values)


def _seconds(time: dt.datetime) -> int:
    return int(time.timestamp())


@dataclasses.dataclass(frozen=True, slots=True)
class Addressed:
    """To whom a report about a day and domain goes."""

    report_id: str
    day: dt.date
    domain: str
    rua: Sequence[tuple[tlsrpt.Rua, dt.datetime]]
    """In the order of the record, with when each delivery is due."""
    rules: Sequence[str | None] = ()
    """For each the rule that it goes by; empty: none."""


def add(connection: sa.Connection, addressed: Iterable[Addressed]) -> None:
    """Note to whom reports go."""
    rows = [
        (one.report_id, number, one.day, one.domain, *_where(rua), outcome.State.DUE.value, 0, _seconds(due), rule)
        for one in addressed
        for number, ((rua, due), rule) in enumerate(
            zip(one.rua, one.rules or [None] * len(one.rua), strict=True), start=1
        )
    ]
    names = (*_ABOUT, *_WHERE, "state", "attempts", "next_attempt", "rule")
    bulk.insert_into(connection, schema.deliveries, names, rows)


_ABOUT = ("report_id", "number", "day", "domain")
_WHERE = ("rua", "scheme", "target", "mail_domain")


def _where(rua: tlsrpt.Rua) -> tuple[str, str, str, str | None]:
    mail_domain = rua.target.rpartition("@")[2] if rua.scheme is tlsrpt.Scheme.MAILTO else None
    return rua.uri, rua.scheme.value, rua.target, mail_domain


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Which deliveries are meant; ``None`` leaves it open."""

    domain: str | None = None
    scheme: str | None = None
    due_by: dt.datetime | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return it as conditions on the table."""
        table = schema.deliveries
        asked = {"domain": self.domain, "scheme": self.scheme}
        conditions: list[sa.ColumnElement[bool]] = [
            table.c[name] == value for name, value in asked.items() if value is not None
        ]
        return conditions if self.due_by is None else [*conditions, table.c.next_attempt <= _seconds(self.due_by)]


def claim(
    connection: sa.Connection, now: dt.datetime, limit: int, selection: Selection = Selection()
) -> list[Delivery]:
    """Lease deliveries that are due, those due longest first."""
    table = schema.deliveries
    free = sa.or_(table.c.leased_until.is_(None), table.c.leased_until <= _seconds(now))
    due = (
        sa.select(table)
        .where(table.c.state == outcome.State.DUE.value, table.c.next_attempt <= _seconds(now), free)
        .where(*selection.conditions())
        .order_by(table.c.next_attempt, table.c.report_id, table.c.number)
        .limit(limit)
        .with_for_update(skip_locked=True)  # what another reporter is claiming is his
    )
    found = [from_row(row) for row in connection.execute(due)]
    if found:
        lease = sa.update(table).where(_key(table) == sa.tuple_(sa.bindparam("id"), sa.bindparam("no")))
        keys = [{"id": one.report_id, "no": one.number} for one in found]
        connection.execute(lease.values(leased_until=_seconds(now + LEASE)), keys)
    return found


def _key(table: sa.Table) -> Any:
    return sa.tuple_(table.c.report_id, table.c.number)


Step = outcome.Settled | outcome.Again


def note(connection: sa.Connection, delivery: Delivery, now: dt.datetime, step: Step) -> None:
    """Note how one attempt went, as :func:`note_all` does."""
    note_all(connection, [(delivery, now, step)])


def note_all(connection: sa.Connection, ended: Iterable[tuple[Delivery, dt.datetime, Step]]) -> None:
    """Note how attempts went and when they ended, and give their leases back.

    That one was delivered or refused is noted whatever became of the row meanwhile, but what was delivered stays
    delivered; when to try again, and that it is given up, only if nobody has cancelled it or begun anew.
    """
    ended = sorted(ended, key=lambda one: (one[0].report_id, one[0].number))
    release(connection, (delivery for delivery, _, _ in ended))
    answered = [_row(*one) for one in ended if not _is_deferred(one[2])]
    deferred = [{**_row(*one), "before": one[0].attempts} for one in ended if _is_deferred(one[2])]
    if answered:
        connection.execute(_UNLESS_DELIVERED, answered)
    if deferred:
        connection.execute(_IF_AS_IT_WAS, deferred)


def _is_deferred(step: Step) -> bool:
    return isinstance(step, outcome.Again) or step.state is outcome.State.EXPIRED


def _row(delivery: Delivery, now: dt.datetime, step: Step) -> dict[str, Any]:
    if isinstance(step, outcome.Settled):
        follows = {"state": step.state.value, "settled": _seconds(now), "next_attempt": None}
    else:
        follows = {"state": outcome.State.DUE.value, "settled": None, "next_attempt": _seconds(step.at)}
    return {
        "id": delivery.report_id,
        "no": delivery.number,
        "attempts": delivery.attempts + 1,
        "first_attempt": _seconds(delivery.first_attempt or now),
        "answer": step.answer,
        **follows,
    }


_ONE = sa.update(schema.deliveries).where(
    schema.deliveries.c.report_id == sa.bindparam("id"), schema.deliveries.c.number == sa.bindparam("no")
)

_UNLESS_DELIVERED = _ONE.where(schema.deliveries.c.state != outcome.State.DELIVERED.value)

_IF_AS_IT_WAS = _ONE.where(
    schema.deliveries.c.state == outcome.State.DUE.value, schema.deliveries.c.attempts == sa.bindparam("before")
)


def release(connection: sa.Connection, claimed: Iterable[Delivery]) -> None:
    """Give leases back."""
    keys = [{"id": id_, "no": number} for id_, number in sorted((one.report_id, one.number) for one in claimed)]
    if keys:
        connection.execute(_ONE.values(leased_until=None), keys)


def hurry(connection: sa.Connection, now: dt.datetime, selection: Selection) -> None:
    """Make first attempts due now that were to be spread."""
    table = schema.deliveries
    spread = (
        sa.select(table.c.report_id, table.c.number)
        .where(table.c.state == outcome.State.DUE.value, table.c.attempts == 0, table.c.next_attempt > _seconds(now))
        .where(*selection.conditions())
        .with_for_update(skip_locked=True)  # what is locked is being cancelled or hurried
    )
    change = sa.update(table).where(_key(table).in_(spread)).values(next_attempt=_seconds(now))
    connection.execute(change)


def retry(connection: sa.Connection, report_id: str, now: dt.datetime) -> int:
    """Make every delivery of a report that was not accepted due now, with a new retry window; how many.

    A lease stays: who holds it may be sending.
    """
    table = schema.deliveries
    change = (
        sa.update(table)
        .where(table.c.report_id == report_id, table.c.state != outcome.State.DELIVERED.value)
        .values(
            state=outcome.State.DUE.value,
            next_attempt=_seconds(now),
            first_attempt=None,
            attempts=0,
            settled=None,
        )
    )
    return connection.execute(change).rowcount


def cancel(connection: sa.Connection, report_id: str, now: dt.datetime) -> int:
    """Settle the deliveries of a report that are due as cancelled; how many."""
    table = schema.deliveries
    change = (
        sa.update(table)
        .where(table.c.report_id == report_id, table.c.state == outcome.State.DUE.value)
        .values(state=outcome.State.CANCELLED.value, settled=_seconds(now), next_attempt=None, leased_until=None)
    )
    return connection.execute(change).rowcount


def of_report(connection: sa.Connection, report_id: str) -> list[Delivery]:
    """Return the deliveries of a report."""
    table = schema.deliveries
    query = sa.select(table).where(table.c.report_id == report_id).order_by(table.c.number)
    return [from_row(row) for row in connection.execute(query)]


def mailed(connection: sa.Connection, domains: Iterable[str], since: dt.datetime, until: dt.datetime) -> dict[str, int]:
    """Return how many report mails the relay took for addresses at each domain, from ``since`` to before ``until``."""
    table = schema.deliveries
    query = (
        sa.select(table.c.mail_domain, sa.func.count())
        .where(
            bulk.among(connection, table.c.mail_domain, list(domains)), table.c.state == outcome.State.DELIVERED.value
        )
        .where(table.c.settled >= _seconds(since), table.c.settled < _seconds(until))
        .group_by(table.c.mail_domain)
    )
    return {domain: count for domain, count in connection.execute(query)}  # noqa: C416 - rows are Row objects
