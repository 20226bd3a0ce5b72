"""Close days: from then on their counts belong to reports and never change.

A conductor between the tally and the store. A day closes when ``settle`` seconds of the next have passed;
days that were missed while nobody ran close with it. What is counted later for a closed day becomes a
revision.
"""

import datetime as dt

from sender.store import closings, engine


def last_full_day(now: dt.datetime, settle: float) -> dt.date:
    """Return the newest day (UTC) that is over and has settled.

    Args:
        now: the time, aware.
        settle: seconds after midnight.
    """
    return (now.astimezone(dt.UTC) - dt.timedelta(seconds=settle)).date() - dt.timedelta(days=1)


def close(store: engine.Store, last: dt.date, domain: str | None = None) -> list[dt.date]:
    """Close what days up to and including ``last`` have open, and return these days, oldest first.

    Args:
        store: where the counts are.
        last: the newest day to close.
        domain: close only the counts of this domain.

    Raises:
        store.engine.StoreError: the store cannot be used; nothing was closed.
    """
    with store.write() as connection:
        days = closings.days_to_close(connection, last, domain)
        for day in days:
            closings.close(connection, day, domain or closings.EVERY_DOMAIN)
    return days
