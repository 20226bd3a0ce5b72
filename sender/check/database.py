"""The store: that it can be used, and what it tells of the tally, of days, hosts and deliveries."""

import datetime as dt
import pathlib
from collections.abc import Iterator

from sender import closing, config, journal, tally
from sender.check import findings
from sender.store import engine, listings

LAG_BYTES = 50_000_000
"""Of the journal that is not tallied: minutes of work."""

BEHIND = dt.timedelta(minutes=10)
"""Without counting anything of what is there: besides ``store.flush``, ten times as long as a tally lets pass."""

OWNER = "chown it to the user that tlsrpt runs as, or run tlsrpt check as that user"

LATE = dt.timedelta(hours=1)
"""After which a delivery that is due should have been tried: as long as a lease of a reporter that died."""


def look(settings: config.Config, now: dt.datetime) -> Iterator[findings.Finding]:
    """Look at the store.

    Args:
        settings: which, and where the journal is.
        now: aware.
    """
    unwritable = engine.unwritable(settings.store.url)
    if unwritable is not None:
        yield findings.error("store", f"this user may not write to {unwritable}", OWNER)
        return
    try:
        yield from _look(settings, now)
    except engine.StoreError as error:
        yield findings.error("store", str(error), "start the database, or correct store.url and who may use it")


def _look(settings: config.Config, now: dt.datetime) -> Iterator[findings.Finding]:
    revision = engine.revision(settings.store.url)
    if revision is None:
        yield findings.hint("store", "the store is not made yet", "tlsrpt serve makes it")
        return
    if revision > engine.REVISION:
        yield findings.error("store", f"made by a newer tlsrpt (schema {revision})", "upgrade this tlsrpt")
        return
    if revision < engine.REVISION:
        yield findings.hint(
            "store", f"at schema {revision}, this tlsrpt wants {engine.REVISION}", "restart tlsrpt serve"
        )
        return
    yield findings.ok("store", "the store answers")
    store = engine.open_store(settings.store.url)
    try:
        yield _lag(settings, store, now)
        yield from _hosts(settings, store, now)
        yield _day(settings, store, now)
        yield _deliveries(store, now)
    finally:
        store.close()


def _lag(settings: config.Config, store: engine.Store, now: dt.datetime) -> findings.Finding:
    id_ = "tally"
    try:
        left, since = tally.uncounted(pathlib.Path(settings.recorder.journal), store)
    except journal.JournalError as error:
        return findings.error(id_, str(error), OWNER)
    cure = "start tlsrpt serve recorder (again); its log tells why"
    if left > LAG_BYTES:
        return findings.warning(id_, f"{left / 1e6:,.0f} MB of the journal are not counted yet", cure)
    if left and since is not None and since < now - BEHIND - dt.timedelta(seconds=settings.store.flush):
        return findings.warning(id_, f"what came since {since:%Y-%m-%d %H:%M} UTC is not counted", cure)
    return findings.ok(id_, f"{left:,} bytes of the journal are not counted yet")


def _hosts(settings: config.Config, store: engine.Store, now: dt.datetime) -> Iterator[findings.Finding]:
    day = closing.last_full_day(now, settle=0)
    for one in closing.missing_hosts(store, day):
        until = closing.waits_until(day, settings.report)
        what = f"waits until {until:%H:%M} UTC for" if now < until else "was closed without"
        found = f"{day} {what} {one.host}, which was tallied up to {one.tallied:%H:%M} UTC only"
        yield findings.warning("hosts", found, f"look after tlsrpt on {one.host}; what it has becomes a revision")


def _day(settings: config.Config, store: engine.Store, now: dt.datetime) -> findings.Finding:
    id_ = "closing"
    last = closing.last_full_day(now, max(settings.report.settle, settings.report.wait_for_hosts) + 3600)
    with store.read() as connection:
        late = listings.oldest_open(connection)
    if late is not None and late <= last:
        return findings.error(
            id_, f"{late} is not closed", "tlsrpt serve reporter; its log tells why (or tlsrpt report)"
        )
    return findings.ok(id_, "days are closed in time")


def _deliveries(store: engine.Store, now: dt.datetime) -> findings.Finding:
    id_ = "deliveries"
    with store.read() as connection:
        late = [one for one in listings.pending_deliveries(connection, None, 1) if one.next_attempt is not None]
    if late and late[0].next_attempt is not None and late[0].next_attempt < now - LATE:
        found = f"a delivery to {late[0].rua} is due since {late[0].next_attempt:%Y-%m-%d %H:%M} UTC"
        return findings.warning(id_, found, "tlsrpt serve reporter; its log tells why")
    return findings.ok(id_, "deliveries are made in time")
