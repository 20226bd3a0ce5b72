"""Which day closes when, and what a closing takes."""

import datetime as dt

import pytest
import sqlalchemy as sa

from sender import closing, config
from sender.store import engine, listings, recorders, reports, schema
from tests import stored

pytestmark = pytest.mark.both_stores

DAY = dt.date(2026, 11, 24)
YORK = dt.timezone(dt.timedelta(hours=-5))
TOKYO = dt.timezone(dt.timedelta(hours=9))

# id, now, settle, the last day that is over
DAYS = [
    ("midnight exactly, nothing to settle", dt.datetime(2026, 11, 25, tzinfo=dt.UTC), 0, DAY),
    ("just before", dt.datetime(2026, 11, 24, 23, 59, 59, 999999, tzinfo=dt.UTC), 0, DAY - dt.timedelta(days=1)),
    ("noon", dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC), 0, DAY),
    ("settling", dt.datetime(2026, 11, 25, 0, 4, 59, 999999, tzinfo=dt.UTC), 300, DAY - dt.timedelta(days=1)),
    ("settled exactly", dt.datetime(2026, 11, 25, 0, 5, tzinfo=dt.UTC), 300, DAY),
    ("a day to settle, not over", dt.datetime(2026, 11, 25, 23, 59, tzinfo=dt.UTC), 86400, DAY - dt.timedelta(days=1)),
    ("a day to settle, over", dt.datetime(2026, 11, 26, tzinfo=dt.UTC), 86400, DAY),
    ("the first of a year", dt.datetime(2027, 1, 1, 1, tzinfo=dt.UTC), 300, dt.date(2026, 12, 31)),
    ("the day after a leap day", dt.datetime(2028, 3, 1, 1, tzinfo=dt.UTC), 300, dt.date(2028, 2, 29)),
    ("evening in New York, midnight in UTC", dt.datetime(2026, 11, 24, 19, tzinfo=YORK), 0, DAY),
    ("morning in Tokyo, not yet in UTC", dt.datetime(2026, 11, 25, 8, 59, tzinfo=TOKYO), 0, DAY - dt.timedelta(days=1)),
]


@pytest.mark.parametrize(("now", "settle", "expected"), [row[1:] for row in DAYS], ids=[row[0] for row in DAYS])
def test_a_day_is_over_when_it_has_settled_in_utc(now: dt.datetime, settle: float, expected: dt.date) -> None:
    """Whatever time zone the clock tells it in."""
    assert closing.last_full_day(now, settle) == expected


def add(store: engine.Store, domain: str, day: dt.date = DAY, times: int = 1) -> None:
    """Count successful sessions."""
    datagram = f'{{"d":"{domain}","policies":[{{"policy-type":9,"t":0,"f":0}}]}}'.encode()
    stored.count(store, day, [datagram] * times)


def closed(store: engine.Store) -> list[tuple[dt.date, str, int, int]]:
    """Return what is closed and undecided: day, domain, closing, sessions."""
    with store.read() as connection:
        return [(row.day, row.domain, row.closing, row.successful) for row in reports.undecided(connection, 99)]


def closings(store: engine.Store) -> int:
    """Return how many closings were counted."""
    with store.read() as connection:
        return sum(connection.execute(sa.select(schema.closings.c.closed)).scalars())


def test_days_that_were_missed_close_together_and_later_ones_stay_open(store: engine.Store) -> None:
    """Oldest first; days without sessions are none."""
    days = [DAY + dt.timedelta(days=number) for number in (-9, -2, 0, 1)]
    for day in reversed(days):
        add(store, "a.example", day)
    assert closing.close(store, DAY) == days[:3]
    assert [row[0] for row in closed(store)] == days[:3]
    with store.read() as connection:
        assert [row.day for row in listings.pending_days(connection) if row.state == "open"] == days[3:]


def test_closing_one_domain_leaves_the_others_open(store: engine.Store) -> None:
    """On every day up to the last; the day then closes for the rest."""
    for day in (DAY - dt.timedelta(days=1), DAY):
        add(store, "a.example", day)
        add(store, "b.example", day)
    assert closing.close(store, DAY, "a.example") == [DAY - dt.timedelta(days=1), DAY]
    assert {row[1] for row in closed(store)} == {"a.example"}
    assert closing.close(store, DAY, "a.example") == []
    assert closing.close(store, DAY) == [DAY - dt.timedelta(days=1), DAY]
    assert [row[1] for row in closed(store)] == ["a.example", "b.example"] * 2


def test_nothing_open_is_no_closing(store: engine.Store) -> None:
    """However often it runs: what comes late is in the second closing, not the ninth."""
    assert closing.close(store, DAY) == []
    add(store, "a.example")
    assert closing.close(store, DAY) == [DAY]
    for _ in range(5):
        assert closing.close(store, DAY) == []
        assert closing.close(store, DAY, "a.example") == []
        assert closing.close(store, DAY, "unknown.example") == []
    assert closings(store) == 1
    add(store, "a.example", times=2)
    assert closing.close(store, DAY) == [DAY]
    assert closed(store) == [(DAY, "a.example", 1, 1), (DAY, "a.example", 2, 2)]


def test_a_store_that_is_away_closes_nothing(store: engine.Store) -> None:
    """The error is the store's; the next run closes it."""
    add(store, "a.example")
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE closings RENAME TO gone")
    with pytest.raises(engine.StoreError):
        closing.close(store, DAY)
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO closings")
    assert closed(store) == []
    assert closing.close(store, DAY) == [DAY]


MIDNIGHT = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
"""The end of the day."""

SETTINGS = config.Report(settle=300, wait_for_hosts=14400)

# id, when each host was tallied (minutes from midnight) and whether it ended in order, now in minutes, waited for
HOSTS = [
    ("no host was ever heard of", [], 5, []),
    ("all were tallied past midnight", [(0, False), (4, False)], 5, []),
    ("one second is missing", [(-1 / 60, False), (4, False)], 5, ["host 0"]),
    ("one fell silent in the evening", [(-60, False), (4, False)], 5, ["host 0"]),
    ("two did", [(-60, False), (-24 * 60, False)], 5, ["host 0", "host 1"]),
    ("it was stopped in order", [(-60, True), (4, False)], 5, []),
    ("it was gone before the day began", [(-24 * 60 - 1 / 60, False), (4, False)], 5, []),
    ("the time is almost up", [(-60, False)], 239, ["host 0"]),
    ("the time is up", [(-60, False)], 240, []),
]


@pytest.mark.parametrize(("tallied", "now", "expected"), [row[1:] for row in HOSTS], ids=[row[0] for row in HOSTS])
def test_a_day_waits_for_hosts_that_were_alive_on_it(
    store: engine.Store, tallied: list[tuple[float, bool]], now: float, expected: list[str]
) -> None:
    """Until they have been tallied past its midnight, or the time is up."""
    for number, (minutes, ended) in enumerate(tallied):
        note(store, number, minutes, ended=ended)
    last = closing.last_to_close(store, MIDNIGHT + dt.timedelta(minutes=now), SETTINGS)
    assert last == (DAY - dt.timedelta(days=1) if expected else DAY)
    if now < SETTINGS.wait_for_hosts / 60:
        assert [one.host for one in closing.missing_hosts(store, DAY)] == expected


def test_a_host_is_waited_for_again_after_a_restart(store: engine.Store) -> None:
    """That a command counts what its journal holds changes nothing about that it was stopped."""
    for minutes, ended, expected in ((-60, False, 1), (-50, True, 0), (-40, None, 0), (-30, False, 1), (0, None, 0)):
        note(store, 0, minutes, ended=ended)
        assert len(closing.missing_hosts(store, DAY)) == expected


def note(store: engine.Store, number: int, minutes: float, *, ended: bool | None) -> None:
    """Note that a host was tallied so many minutes after midnight."""
    when = MIDNIGHT + dt.timedelta(minutes=minutes)
    store.change(lambda c: recorders.note(c, f"journal {number}", f"host {number}", when, ended=ended))


def test_a_host_that_comes_back_later_leads_to_a_closing_of_its_own(store: engine.Store) -> None:
    """What was closed without it is left as it is."""
    add(store, "a.example")
    note(store, 0, -60, ended=False)
    assert closing.close(store, DAY) == [DAY]
    add(store, "a.example", times=2)
    note(store, 0, 600, ended=False)
    assert closing.close(store, DAY) == [DAY]
    assert closed(store) == [(DAY, "a.example", 1, 1), (DAY, "a.example", 2, 2)]
