"""Close days: from then on their counts belong to reports and never change.

A conductor between the tally and the store. A day closes when ``settle`` seconds of the next have passed and every host
that was alive on it has been tallied past its midnight, or ``wait_for_hosts`` seconds; days that were missed while
nobody ran close with it. What is counted later for a closed day becomes a revision.
"""

import datetime as dt

from sender import config
from sender.store import closings, engine, recorders


def last_full_day(now: dt.datetime, settle: float) -> dt.date:
    """Return the newest day (UTC) that is over and has settled.

    Args:
        now: the time, aware.
        settle: seconds after midnight.
    """
    return (now.astimezone(dt.UTC) - dt.timedelta(seconds=settle)).date() - dt.timedelta(days=1)


def last_to_close(store: engine.Store, now: dt.datetime, settings: config.Report) -> dt.date:
    """Return the newest day that is over, has settled, and waits for no host any more.

    Args:
        store: where the counts are.
        now: the time, aware.
        settings: how long days settle, and wait for hosts.

    Raises:
        store.engine.StoreError: the store cannot be used.
    """
    last = last_full_day(now, settings.settle)
    waits = now < waits_until(last, settings) and missing_hosts(store, last)
    return last - dt.timedelta(days=1) if waits else last


def waits_until(day: dt.date, settings: config.Report) -> dt.datetime:
    """Return until when a day waits for hosts that have not been tallied past its end."""
    midnight = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC)
    return midnight + dt.timedelta(seconds=settings.wait_for_hosts)


def missing_hosts(store: engine.Store, day: dt.date) -> list[recorders.Recorder]:
    """Return the hosts that were alive on a day and have not been tallied past its end.

    Raises:
        store.engine.StoreError: the store cannot be used.
    """
    with store.read() as connection:
        return recorders.missing(connection, day)


def close(store: engine.Store, last: dt.date, domain: str | None = None) -> list[dt.date]:
    """Close what days up to and including ``last`` have open, and return these days, oldest first.

    Args:
        store: where the counts are.
        last: the newest day to close.
        domain: close only the counts of this domain.

    Raises:
        store.engine.StoreError: the store cannot be used; nothing was closed.
    """
    return store.change(lambda connection: closings.close_open(connection, last, domain))
