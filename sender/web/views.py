"""What each page shows: a conductor from the store to HTML or SVG. Reads, and changes nothing."""

import dataclasses
import datetime as dt

from sender import closing, config, report, showing
from sender.store import counts, deliveries, engine, listings, overviews, recorders, reports, suppressions
from sender.web import pages, plots

DAYS = 30
"""Days of a plot, today included."""

ROWS = 100
"""Rows of a table; the commands with ``--json`` have all."""

PAGES = 10
"""Pages of domains: sorting all of a hundred thousand takes longer than anybody wants to wait, or to read."""

TOP = 20
"""Domains on the first page."""

DETAILS = 500
"""Failure details shown of one policy; the document has all."""


class NotFoundError(Exception):
    """There is no such page; the text is one line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Views:
    """The pages of a store."""

    settings: config.Config
    store: engine.Store

    def overview(self, now: dt.datetime) -> str:
        """Return the first page.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        today = now.date()
        yesterday = closing.last_full_day(now, settle=0)
        with self.store.read() as connection:
            sums = counts.sums_by_day(connection, today - dt.timedelta(days=DAYS - 1))
            domains = overviews.domains(connection, today, TOP)
            backlog = overviews.backlog(connection, today)
            last_closed = overviews.last_closed(connection)
            suppressed = suppressions.active(connection, now)
            missing = recorders.missing(connection, yesterday)
            malformed = [row for row in listings.malformed(connection) if row[0] == today]
        return pages.render(
            "overview",
            now=now,
            today=today,
            sums=sums.get(today, counts.Sums()),
            days=[(day, sums.get(day, counts.Sums())) for day in _days(today)],
            domains=domains,
            backlog=backlog,
            last_closed=last_closed,
            yesterday=yesterday,
            missing=missing,
            waits_until=closing.waits_until(yesterday, self.settings.report),
            suppressed=suppressed,
            malformed=malformed,
        )

    def domains(self, now: dt.datetime, day: dt.date | None, page: int) -> str:
        """Return the domains of a day (``None``: today), those with failures first.

        Args:
            now: aware.
            day: UTC.
            page: from 1.

        Raises:
            NotFoundError: there are not so many.
            store.engine.StoreError: the store cannot be used.
        """
        wanted = day or now.date()
        if page > PAGES:
            raise NotFoundError(f"There are {PAGES} pages; the field above finds a domain.")
        with self.store.read() as connection:
            rows = overviews.domains(connection, wanted, ROWS + 1, (page - 1) * ROWS)
        if page > 1 and not rows:
            raise NotFoundError(f"There are no more domains on {wanted}.")
        return pages.render(
            "domains",
            now=now,
            day=wanted,
            rows=rows[:ROWS],
            page=page,
            more=len(rows) > ROWS,
            last=PAGES,
            before=wanted - dt.timedelta(days=1),
            after=wanted + dt.timedelta(days=1) if wanted < now.date() else None,
        )

    def domain(self, now: dt.datetime, name: str, day: dt.date | None, revision: int | None) -> str:
        """Return all about a domain; its report of a day (``None``: of the newest that is known).

        Raises:
            NotFoundError: nothing is known of it.
            store.engine.StoreError: the store cannot be used.
        """
        identity = config.identity(self.settings)
        shown = showing.look(self.store, identity, name, day, revision)
        with self.store.read() as connection:
            days = overviews.of_domain(connection, name)
        if shown is None:
            when = f" on {day}" if day else ""
            raise NotFoundError(f"Nothing is known of {name}{when}.")
        return pages.render(
            "domain",
            now=now,
            name=name,
            shown=shown,
            document=report.parse(shown.document),
            days=list(reversed(days)),
            most=DETAILS,
        )

    def pending(self, now: dt.datetime, domain: str | None) -> str:
        """Return what is not reported or not delivered yet, or never will be.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        with self.store.read() as connection:
            days = list(listings.pending_days(connection, domain, ROWS + 1))
            due = list(listings.pending_deliveries(connection, domain, ROWS + 1))
        more = max(len(days), len(due)) > ROWS
        return pages.render("pending", now=now, domain=domain, days=days[:ROWS], due=due[:ROWS], more=more)

    def sent(self, now: dt.datetime, domain: str | None) -> str:
        """Return the deliveries that are settled, newest first.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        with self.store.read() as connection:
            rows = list(listings.settled_deliveries(connection, domain, ROWS + 1))
        newest = list(reversed(rows))
        return pages.render("sent", now=now, domain=domain, rows=newest[:ROWS], more=len(rows) > ROWS)

    def report(self, now: dt.datetime, report_id: str) -> str:
        """Return a report as it was built, with its deliveries.

        Raises:
            NotFoundError: there is none with this id.
            store.engine.StoreError: the store cannot be used.
        """
        kept, sent = self._report(report_id)
        document = report.parse(report.unpack(kept.packed))
        return pages.render("report", now=now, kept=kept, document=document, deliveries=sent, most=DETAILS)

    def document(self, report_id: str) -> bytes:
        """Return the exact document of a report: JSON (RFC 8460 section 4.4).

        Raises:
            NotFoundError: there is none with this id.
            store.engine.StoreError: the store cannot be used.
        """
        kept, _ = self._report(report_id)
        return report.unpack(kept.packed)

    def _report(self, report_id: str) -> tuple[reports.Report, list[deliveries.Delivery]]:
        with self.store.read() as connection:
            kept = reports.by_id(connection, [report_id]).get(report_id)
            sent = deliveries.of_report(connection, report_id)
        if kept is None:
            raise NotFoundError("There is no report with this id; old ones are deleted after report.keep_days.")
        return kept, sent

    def sessions_plot(self, now: dt.datetime) -> bytes:
        """Return the sessions of the last days as SVG.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        days, sums = self._sums(now)
        series = {"successful": [one.successful for one in sums], "failed": [one.failed for one in sums]}
        return plots.stacked(days, series, (plots.GOOD, plots.BAD))

    def failures_plot(self, now: dt.datetime) -> bytes:
        """Return the failures of the last days by kind as SVG.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        days, sums = self._sums(now)
        kinds = sorted({kind for one in sums for kind in one.failures})
        return plots.stacked(days, {kind: [one.failures[kind] for one in sums] for kind in kinds}, plots.KINDS)

    def domain_plot(self, now: dt.datetime, name: str) -> bytes:
        """Return the sessions of a domain in the last days as SVG.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        with self.store.read() as connection:
            known = {one.day: one for one in overviews.of_domain(connection, name)}
        days = _days(now.date())
        rows = [known.get(day, overviews.DaySum(day, 0, 0)) for day in days]
        series = {"successful": [one.successful for one in rows], "failed": [one.failed for one in rows]}
        return plots.stacked(days, series, (plots.GOOD, plots.BAD))

    def _sums(self, now: dt.datetime) -> tuple[list[dt.date], list[counts.Sums]]:
        days = _days(now.date())
        with self.store.read() as connection:
            sums = counts.sums_by_day(connection, days[0])
        return days, [sums.get(day, counts.Sums()) for day in days]


def _days(today: dt.date) -> list[dt.date]:
    return [today - dt.timedelta(days=ago) for ago in reversed(range(DAYS))]
