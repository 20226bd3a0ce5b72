"""One report as it was sent, or as it would be: what ``tlsrpt show`` and the demo look at.

A conductor over the store; changes nothing.
"""

import dataclasses
import datetime as dt

from sender import config, report
from sender.store import deliveries, engine, listings, reports

PREVIEW = "preview"
"""Takes the place of the unique part of a report-id that is not given yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """A report of a day, and how things stand."""

    day: dt.date
    document: bytes
    """JSON (RFC 8460 section 4.4)."""
    report: reports.Report | None
    """As it is kept; ``None`` when none is built."""
    deliveries: list[deliveries.Delivery]
    kept: list[reports.Report]
    """All of the day, by revision."""
    waiting: list[listings.PendingDay]
    """What the day has beyond the report, or instead of it."""


def look(
    store: engine.Store, identity: config.Identity, domain: str, day: dt.date | None, revision: int | None = None
) -> Shown | None:
    """Return the report about a domain: the newest of a day, or of the newest day that is known.

    Returns:
        ``None`` when nothing is known of it.

    Raises:
        store.engine.StoreError: the store cannot be used.
    """
    with store.read() as connection:
        day = day or reports.last_day(connection, domain)
        if day is None:
            return None
        waiting = [row for row in listings.pending_days(connection, domain) if row.day == day]
        kept = reports.of_domain(connection, domain, day)
        chosen = [one for one in kept if revision in {None, one.revision}]
        if chosen:
            sent = deliveries.of_report(connection, chosen[-1].report_id)
            return Shown(day, report.unpack(chosen[-1].packed), chosen[-1], sent, kept, waiting)
        counts = reports.open_counts(connection, day, domain)
        if counts is None or revision is not None:
            return None
        by_policy = reports.counted(connection, [counts])[counts].by_policy()
    document = report.document(identity, day, report.report_id(PREVIEW, identity), by_policy)
    return Shown(day, document, None, [], kept, waiting)
