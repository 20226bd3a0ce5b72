"""``/metrics``: what the roles of this host wrote (``sender.metrics``), and what the store and the journal tell now."""

import dataclasses
import datetime as dt
import pathlib
from collections.abc import Iterator

import prometheus_client
import prometheus_client.core
import structlog
from prometheus_client import multiprocess

from sender import closing, config, journal, tally
from sender.store import engine, listings, overviews, recorders, suppressions

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus's text format, which every version of it reads."""

log = structlog.get_logger()

Families = Iterator[prometheus_client.core.GaugeMetricFamily]


@dataclasses.dataclass(frozen=True, slots=True)
class Exporter:
    """Answers ``/metrics`` for a host."""

    settings: config.Config
    records: bool
    """Whether this host has a recorder."""
    reports: bool
    """Whether this host has a reporter: what others would tell again is told by these only."""
    directory: str
    """Where the roles publish."""
    store: engine.Deferred

    def export(self, now: dt.datetime) -> bytes:
        """Return all metrics of this host in Prometheus's text format; a store that is away is told as such."""
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=self.directory)  # type: ignore[no-untyped-call]
        registry.register(_Collected(list(self._gauges(now))))
        return prometheus_client.generate_latest(registry)

    def _gauges(self, now: dt.datetime) -> Families:
        up = 1
        try:
            store = self.store.opened()
            if self.records:
                yield from self._tally(store)
            if self.reports:
                yield from self._reporter(store, now)
        except (engine.StoreError, journal.JournalError) as error:
            log.warning("metrics are not whole", error=str(error))
            up = 0
        yield _gauge("tlsrpt_store_up", "Whether the store and the journal could be looked at.", up)

    def _tally(self, store: engine.Store) -> Families:
        left, since = tally.uncounted(pathlib.Path(self.settings.recorder.journal), store)
        yield _gauge("tlsrpt_tally_behind_bytes", "Bytes of the journal that are not counted yet.", left)
        if since is not None:
            what = "All that was received until then is counted."
            yield _gauge("tlsrpt_tally_counted_until_timestamp_seconds", what, since.timestamp())

    def _reporter(self, store: engine.Store, now: dt.datetime) -> Families:
        with store.read() as connection:
            backlog = overviews.backlog(connection, now.date())
            last, oldest = overviews.last_closed(connection), listings.oldest_open(connection)
            suppressed = suppressions.active(connection, now)
            missing = recorders.missing(connection, closing.last_full_day(now, settle=0))
        if last is not None:
            what = "End of the newest day that was closed."
            yield _gauge("tlsrpt_last_closed_day_timestamp_seconds", what, _end(last))
        what = "End of the oldest day that is not closed; today's where all others are."
        yield _gauge("tlsrpt_oldest_open_day_timestamp_seconds", what, _end(oldest or now.date()))
        what = "Domain-days of days that are over of which no report was built or refused yet."
        yield _gauge("tlsrpt_domain_days_waiting", what, backlog.waiting)
        due = prometheus_client.core.GaugeMetricFamily(
            "tlsrpt_deliveries_due", "Deliveries that are not settled.", labels=["scheme"]
        )
        for scheme in ("mailto", "https"):
            due.add_metric([scheme], backlog.due.get(scheme, 0))
        yield due
        late = max(0.0, (now - backlog.since).total_seconds()) if backlog.since else 0.0
        yield _gauge("tlsrpt_deliveries_late_seconds", "For how long the first of them should have been made.", late)
        yield _gauge("tlsrpt_hosts_missing", "Hosts whose sessions of yesterday are not all counted.", len(missing))
        yield _gauge("tlsrpt_suppressed_addresses", "Addresses that get no reports for now.", len(suppressed))


class _Collected:
    """What is collected already, as a registry wants it."""

    def __init__(self, families: list[prometheus_client.core.GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Families:
        return iter(self._families)


def _gauge(name: str, what: str, value: float) -> prometheus_client.core.GaugeMetricFamily:
    return prometheus_client.core.GaugeMetricFamily(name, what, value=value)


def _end(day: dt.date) -> float:
    return dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC).timestamp()
