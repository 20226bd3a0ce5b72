"""``sender.noting``: what was answered is noted soon, few at a time, whatever happens in between."""

import asyncio
import datetime as dt
import pathlib
import sqlite3
from collections.abc import Callable, Coroutine

import pytest

from policy import tlsrpt
from sender import noting, outcome
from sender.store import deliveries, engine, reports

pytestmark = pytest.mark.both_stores

NOON = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DAY = dt.date(2026, 11, 23)
SENT = outcome.Settled(outcome.State.DELIVERED, "250 ok")


def claimed(store: engine.Store, number: int) -> list[noting.Attempt]:
    """Put deliveries into the store, claim them, and return attempts that delivered them."""
    record = tlsrpt.parse_record("v=TLSRPTv1; rua=mailto:r@a.example")
    with store.write() as connection:
        for place in range(number):
            about = (DAY, f"d{place}.example")
            reports.add(connection, [reports.Report(f"{place}@s.example", *about, NOON, 1, 0, b"")])
            due = [(one, NOON) for one in record.rua]
            deliveries.add(connection, [deliveries.Addressed(f"{place}@s.example", *about, due)])
        return [noting.Attempt(one, NOON, SENT) for one in deliveries.claim(connection, NOON, number)]


def delivered(store: engine.Store) -> int:
    """Return how many deliveries the store knows to be made."""
    with store.read() as connection:
        found = connection.exec_driver_sql("SELECT count(*) FROM deliveries WHERE state = 'delivered'").scalar_one()
    return int(found)


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a scenario in an event loop."""
    asyncio.run(scenario())


def test_few_attempts_are_not_noted_at_any_time(store: engine.Store) -> None:
    """A process that dies makes fewer than UNNOTED deliveries again."""
    attempts = claimed(store, 3 * noting.UNNOTED)

    async def scenario() -> None:
        async with noting.Notes(store) as notes:
            for place, attempt in enumerate(attempts, 1):
                notes.add(attempt)
                assert place - noting.UNNOTED < delivered(store) <= place
                assert len(notes.noted) == delivered(store)

    run(scenario)


def test_an_attempt_is_noted_soon_while_another_takes_long(store: engine.Store) -> None:
    """What was delivered is told though a slow receiver holds the batch up."""
    (attempt,) = claimed(store, 1)

    async def scenario() -> None:
        async with noting.Notes(store) as notes:
            notes.add(attempt)
            assert delivered(store) == 0
            async with asyncio.timeout(10 * noting.SOON):
                while not notes.noted:  # noqa: ASYNC110 - it is not for the test that it tells
                    await asyncio.sleep(0.01)
            assert delivered(store) == 1

    run(scenario)


@pytest.mark.parametrize("error", [None, ValueError, asyncio.CancelledError])
def test_at_the_end_all_are_noted_however_it_ends(store: engine.Store, error: type[BaseException] | None) -> None:
    """What was sent and is known to be sent is not sent again because something else went wrong."""
    attempts = claimed(store, noting.UNNOTED + 3)

    async def scenario() -> None:
        async with noting.Notes(store) as notes:
            for attempt in attempts:
                notes.add(attempt)
            if error is not None:
                raise error

    if error is None:
        run(scenario)
    else:
        with pytest.raises(error):
            run(scenario)
    assert delivered(store) == len(attempts)


@pytest.mark.sqlite_store
def test_what_the_store_refuses_is_kept_until_it_takes_it(store: engine.Store, tmp_path: pathlib.Path) -> None:
    """Nothing is sent again because the database was away for a moment."""
    attempts = claimed(store, noting.UNNOTED + 1)

    async def scenario() -> None:
        async with noting.Notes(store) as notes:
            meddle(tmp_path, REFUSE)
            for attempt in attempts:
                notes.add(attempt)
            assert (delivered(store), notes.noted) == (0, [])
            meddle(tmp_path, "DROP TRIGGER no")
            await notes.recovered()
            assert notes.noted == attempts

    run(scenario)
    assert delivered(store) == len(attempts)


@pytest.mark.sqlite_store
def test_a_store_that_refuses_for_too_long_is_an_error(store: engine.Store, tmp_path: pathlib.Path) -> None:
    """Their leases then tell when they are sent again."""
    attempts = claimed(store, noting.UNNOTED)
    meddle(tmp_path, REFUSE)

    async def scenario() -> None:
        async with noting.Notes(store, patience=0) as notes:
            for attempt in attempts:
                notes.add(attempt)

    with pytest.raises(engine.StoreError, match="no"):
        run(scenario)


REFUSE = "CREATE TRIGGER no BEFORE UPDATE ON deliveries BEGIN SELECT RAISE(ABORT, 'no'); END"


def meddle(folder: pathlib.Path, statement: str) -> None:
    """Change the store from outside."""
    with sqlite3.connect(folder / "tlsrpt.db") as connection:
        connection.execute(statement)
    connection.close()
