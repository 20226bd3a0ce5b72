"""What monitoring is told; the rim of prometheus_client.

Each role is a process of its own and writes its numbers into files of its own in one folder (prometheus_client's
multiprocess mode), from which ``sender.web`` answers ``/metrics`` for the host. The files are named after roles, so
a process that is started again counts on where its predecessor ended. A process for which :func:`begin` was not
called, a command say, publishes nothing.

What is hot counts in plain integers; a thread publishes them (:func:`publishing`). No label has a value that a
stranger chooses: domains and addresses are on the page, not here.
"""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import structlog

PUBLISH_EVERY = 1.0
"""Seconds between two looks at what is counted in plain integers."""

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """A metric that a role writes."""

    name: str
    """Without ``_total``."""
    help: str
    labels: tuple[str, ...] = ()


class Counter(Metric):
    """Only grows."""


class Gauge(Metric):
    """Goes up and down."""


class Histogram(Metric):
    """Durations in seconds."""


ROLE_STARTS = Counter(
    "tlsrpt_role_starts", "Starts of each process: after the first it died, or was reloaded.", ("role",)
)

RECEIVED = Counter("tlsrpt_recorder_received_datagrams", "Datagrams received; what the kernel drops nobody can count.")
TRUNCATED = Counter("tlsrpt_recorder_truncated_datagrams", "Datagrams received that are longer than the format allows.")
LOST = Counter("tlsrpt_recorder_dropped_datagrams", "Datagrams received that the journal could not take.")
LAST_RECEIVED = Gauge("tlsrpt_recorder_last_received_timestamp_seconds", "When a datagram was received last.")

TALLIED = Counter("tlsrpt_tally_datagrams", "Datagrams counted into the store.")
SESSIONS = Counter("tlsrpt_tally_sessions", "TLS sessions counted into the store.", ("outcome",))
FAILURES = Counter("tlsrpt_tally_failures", "Failures of TLS sessions counted into the store.", ("result_type",))
MALFORMED = Counter("tlsrpt_tally_malformed_datagrams", "Datagrams that could not be read.", ("reason",))
TALLY_ERRORS = Counter("tlsrpt_tally_errors", "Rounds in which the store or the journal could not be used.")

EXIM_EVENTS = Counter("tlsrpt_exim_events", "Events of Exim taken.")
EXIM_MALFORMED = Counter("tlsrpt_exim_malformed_events", "What came from Exim and is no event.")
EXIM_SENT = Counter("tlsrpt_exim_sessions", "Sessions of Exim handed to the recorder.")
EXIM_LOST = Counter("tlsrpt_exim_dropped_sessions", "Sessions of Exim that could not be handed over.")

FOLLOWED = Counter("tlsrpt_follower_sessions", "Sessions made of Postfix's log and handed to the recorder.")
UNANSWERED = Counter("tlsrpt_follower_unanswered", "Questions to the policy socket that were not answered.")

ANSWERS = Counter("tlsrpt_policy_answers", "Answers of the policy socket.", ("outcome",))
WAITS = Histogram("tlsrpt_policy_wait_seconds", "Time to an answer that was not ready; all others are given at once.")
FETCHES = Counter("tlsrpt_policy_fetches", "Attempts to fetch an MTA-STS policy.", ("outcome",))
READY = Gauge("tlsrpt_policy_ready_domains", "Domains whose answers are ready.")
LOOKUPS = Gauge("tlsrpt_policy_lookups_under_way", "Domains that are looked up now.")
KEPT = Gauge("tlsrpt_policy_cached_policies", "MTA-STS policies in the cache.")

DECIDED = Counter("tlsrpt_reports", "Domain-days and MX hosts decided: built, skipped or waiting.", ("decision",))
ATTEMPTS = Counter("tlsrpt_deliveries", "Attempts to deliver reports by how they ended.", ("scheme", "outcome"))
JOB_SUCCESS = Gauge("tlsrpt_job_last_success_timestamp_seconds", "When a job ended well.", ("job_name",))
JOB_ERRORS = Counter("tlsrpt_job_errors", "Runs of a job that failed.", ("job_name",))

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)
"""Seconds; a look-up takes 20 at most (``policy.lookups.LIMIT``)."""

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client looks for the folder, in the environment."""


class _State:
    """What this process publishes; a process has one, as prometheus_client has."""

    def __init__(self) -> None:
        self.on = False
        self.made: dict[Metric, Any] = {}
        """What prometheus_client has for each."""
        self.totals: dict[tuple[Metric, tuple[str, ...]], int] = {}


_state = _State()


def begin(role: str, directory: str) -> None:
    """Publish from now on what this process counts.

    Args:
        role: of this process; one process has it at a time.
        directory: the folder, that of all roles of the host; empty: nothing is published.
    """
    if not directory:
        return
    os.environ[DIRECTORY] = directory
    from prometheus_client import values  # noqa: PLC0415 - it looks at the environment when it is imported

    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: role)  # type: ignore[no-untyped-call]
    _state.on = True
    count(ROLE_STARTS, role)


def count(metric: Counter, *labels: str, by: float = 1) -> None:
    """Add to a counter.

    Args:
        metric: the counter.
        labels: values of its labels.
        by: how many.
    """
    if _state.on:
        _child(metric, labels).inc(by)


def reach(metric: Counter, *labels: str, total: int) -> None:
    """Bring a counter to what this process counted since it began; for plain integers that only grow."""
    key = (metric, labels)
    count(metric, *labels, by=total - _state.totals.get(key, 0))
    _state.totals[key] = total


def show(metric: Gauge, *labels: str, value: float) -> None:
    """Set a gauge."""
    if _state.on:
        _child(metric, labels).set(value)


def observe(metric: Histogram, seconds: float) -> None:
    """Add a duration to a histogram."""
    if _state.on:
        _child(metric, ()).observe(seconds)


@contextlib.contextmanager
def publishing(publish: Callable[[], None]) -> Iterator[None]:
    """Call a function once a second, in a thread, and once at the end; never where nothing is published.

    Args:
        publish: reads what is counted and calls :func:`reach` and its likes.
    """
    if not _state.on:
        yield
        return
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(PUBLISH_EVERY):
            _safely(publish)

    thread = threading.Thread(target=work, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _safely(publish)


def _safely(publish: Callable[[], None]) -> None:
    try:
        publish()
    except Exception:
        log.exception("metrics cannot be published")
        time.sleep(PUBLISH_EVERY)


def _child(metric: Metric, labels: tuple[str, ...]) -> Any:
    family = _state.made.get(metric)
    if family is None:
        family = _state.made[metric] = _make(metric)
    return family.labels(*labels) if labels else family


def _make(metric: Metric) -> Any:
    import prometheus_client  # noqa: PLC0415 - see begin

    if isinstance(metric, Counter):
        return prometheus_client.Counter(metric.name, metric.help, metric.labels, registry=None)
    if isinstance(metric, Gauge):
        return prometheus_client.Gauge(
            metric.name, metric.help, metric.labels, registry=None, multiprocess_mode="mostrecent"
        )
    return prometheus_client.Histogram(metric.name, metric.help, registry=None, buckets=BUCKETS)
