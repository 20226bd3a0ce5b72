"""The store: that it can be used, and what it tells of the tally, of days, hosts and deliveries."""

import datetime as dt
import pathlib
from collections.abc import Iterator

from sender import closing, config, journal
from sender.check import findings
from sender.store import counts, engine, listings

LAG_BYTES = 50_000_000
"""Of the journal that is not tallied: minutes of work."""

LATE = dt.timedelta(hours=1)
"""After which a delivery that is due should have been tried: as long as a lease of a reporter that died."""


def look(settings: config.Config, now: dt.datetime) -> Iterator[findings.Finding]:
    """Look at the store.

    Args:
        settings: which, and where the journal is.
        now: aware.
    """
    try:
        revision = engine.revision(settings.store.url)
    except engine.StoreError as error:
        yield findings.error("store", str(error), "start the database, or correct store.url and who may use it")
        return
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
        yield _lag(settings, store)
        yield from _hosts(settings, store, now)
        yield _day(settings, store, now)
        yield _deliveries(store, now)
    finally:
        store.close()


def _lag(settings: config.Config, store: engine.Store) -> findings.Finding:
    id_ = "tally"
    try:
        segments = journal.segments(pathlib.Path(settings.recorder.journal))
        identity = journal.identity(pathlib.Path(settings.recorder.journal)) if segments else ""
        with store.read() as connection:
            behind = sum(journal.size(one) - counts.position(connection, identity, one.name) for one in segments)
    except journal.JournalError as error:
        return findings.error(id_, str(error), "let the user that tlsrpt runs as read the journal")
    if behind > LAG_BYTES:
        return findings.warning(
            id_,
            f"{behind / 1e6:,.0f} MB of the journal are not counted yet",
            "tlsrpt serve recorder; its log tells why",
        )
    return findings.ok(id_, f"{behind:,} bytes of the journal are not counted yet")


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
