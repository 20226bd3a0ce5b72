"""Addresses and URLs that get no reports, for some time or for ever."""

import dataclasses
import datetime as dt

import sqlalchemy as sa

from sender import outcome
from sender.store import bulk, schema


@dataclasses.dataclass(frozen=True, slots=True)
class Suppression:
    """One of them."""

    target: str
    """As deliveries have it: an address, or a URL."""
    until: dt.datetime | None
    """``None``: for ever."""
    reason: str
    created: dt.datetime

    def told(self) -> str:
        """Return why, in words."""
        return self.reason if self.until is None else f"{self.reason}, until {self.until:%Y-%m-%d %H:%M} UTC"


def add(connection: sa.Connection, one: Suppression) -> int:
    """Suppress a target from now on, and cancel what is due to it; how many deliveries."""
    until = None if one.until is None else int(one.until.timestamp())
    remove(connection, one.target)
    bulk.insert(connection, schema.suppressions, [(one.target, until, one.reason, int(one.created.timestamp()))])
    table = schema.deliveries
    change = (
        sa.update(table)
        .where(table.c.target == one.target, table.c.state == outcome.State.DUE.value)
        .values(
            state=outcome.State.CANCELLED.value,
            settled=int(one.created.timestamp()),
            next_attempt=None,
            leased_until=None,
            answer=f"suppressed: {one.told()}",
        )
    )
    return connection.execute(change).rowcount


def remove(connection: sa.Connection, target: str) -> bool:
    """Let reports go there again; whether they did not."""
    table = schema.suppressions
    return connection.execute(sa.delete(table).where(table.c.target == target)).rowcount > 0


def active(connection: sa.Connection, now: dt.datetime) -> list[Suppression]:
    """Return what is suppressed now, by target."""
    table = schema.suppressions
    holds = sa.or_(table.c.until.is_(None), table.c.until > int(now.timestamp()))
    rows = connection.execute(sa.select(table).where(holds).order_by(table.c.target))
    return [
        Suppression(row.target, _time(row.until), row.reason, dt.datetime.fromtimestamp(row.created, dt.UTC))
        for row in rows
    ]


def forget_before(connection: sa.Connection, day: dt.date) -> None:
    """Forget what was over before a day."""
    start = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())
    connection.execute(sa.delete(schema.suppressions).where(schema.suppressions.c.until < start))


def _time(seconds: int | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
