"""The tally: carries what the journal holds into the store, exactly once.

A conductor between ``journal``, ``counting`` and ``store``. A stretch of a segment is read from the stored
position and counted; its counts *and* the new position are committed in one transaction. Killed at any
moment, it counts nothing twice and loses nothing; two at once do not hurt each other, because the second
finds the position moved.
"""

import collections
import dataclasses
import datetime as dt
import pathlib
import random
import signal
import socket
import threading

import structlog

from sender import config, counting, journal, metrics, readiness, set_aside
from sender.store import counts, engine, partitions, recorders

STRETCH = 16 * 2**20
"""Bytes of distinct datagrams committed at a time. Were all of them short and of different domains, their commit would
hold the lock for some ten seconds, well below ``store.engine.BUSY_TIMEOUT``."""

PIECE = 4 * 2**20
"""Bytes read at a time."""

BEAT = dt.timedelta(minutes=1)
"""How often the store is told that this host is alive, when there is nothing to count."""

RETRY_FIRST, RETRY_LAST = 1.0, 60.0
"""Seconds until the store is tried again when it is away, doubled each time; the journal holds meanwhile."""

KEEP_SEGMENTS = dt.timedelta(days=2)
"""How long a segment stays after its day, tallied as it is, for a person to look at."""

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """What is counted and committed at once."""

    datagrams: collections.Counter[bytes]
    """Each distinct one, and how often it came."""
    end: int
    """Of it in the segment."""


def read_stretch(segment: journal.Segment, start: int, end: int) -> Stretch:
    """Read up to ``end``, or until what is distinct fills a stretch: equal datagrams shall meet.

    Args:
        segment: from ``journal.segments``.
        start: bytes, where what has been tallied ends.
        end: bytes, where to stop reading.

    Raises:
        journal.JournalError: the segment cannot be read.
    """
    datagrams: collections.Counter[bytes] = collections.Counter()
    position = start
    while position < end and sum(map(len, datagrams)) < STRETCH:
        chunk = journal.read(segment, position, PIECE)
        if chunk.end == position:
            break
        datagrams.update(chunk.lines)
        position = chunk.end
    return Stretch(datagrams, position)


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """What the tally needs, put together once."""

    store: engine.Store
    directory: pathlib.Path
    """Of the journal; it has an identity of its own, so several hosts may share a store, and be renamed."""
    host: str
    """What this one is called."""

    def catch_up(self, now: dt.datetime) -> int:
        """Count what the journal holds beyond the stored positions, and remove segments that have served.

        Args:
            now: the time, aware.

        Returns:
            How many datagrams were counted.

        Raises:
            store.engine.StoreError: the store cannot be used; what was not committed is counted next time.
            journal.JournalError: a segment cannot be read; all others are counted.
        """
        segments = journal.segments(self.directory)
        identity = journal.identity(self.directory) if segments else ""
        datagrams = 0
        unreadable: list[journal.JournalError] = []
        for segment in segments:
            try:
                datagrams += self._count_segment(identity, segment)
                self._remove_served(identity, segment, now)
            except journal.JournalError as error:
                unreadable.append(error)
        if unreadable:
            raise unreadable[0]
        return datagrams

    def note(self, now: dt.datetime, *, ended: bool | None = None) -> None:
        """Tell the store that all is counted that this host received until now; nothing where no recorder ever ran.

        Args:
            now: the time before :meth:`catch_up`, aware.
            ended: whether the recorder was stopped; ``None``: as it was.

        Raises:
            store.engine.StoreError: the store cannot be used.
            journal.JournalError: the journal cannot be read.
        """
        if journal.segments(self.directory):
            identity = journal.identity(self.directory)
            self.store.change(lambda connection: recorders.note(connection, identity, self.host, now, ended=ended))

    def _count_segment(self, identity: str, segment: journal.Segment) -> int:
        datagrams = 0
        end = journal.size(segment)  # what is appended from now on is left for the next time
        while True:
            with self.store.read() as connection:
                start = counts.position(connection, identity, segment.name)
            stretch = read_stretch(segment, start, end)
            if stretch.end == start:
                return datagrams
            datagrams += self._commit(identity, segment, start, stretch)
            if stretch.end >= end:
                return datagrams

    def _remove_served(self, identity: str, segment: journal.Segment, now: dt.datetime) -> None:
        if segment.finished and segment.day < (now - KEEP_SEGMENTS).date():
            journal.remove(segment)
            self.store.change(lambda connection: counts.forget(connection, identity, segment.name))

    def _commit(self, identity: str, segment: journal.Segment, start: int, stretch: Stretch) -> int:
        counted = counting.count(stretch.datagrams)

        def work(connection: engine.Connection) -> counts.Sums | None:
            if not journal.size(segment):  # served, and its position forgotten, by another process meanwhile
                return None
            if not counts.advance(connection, identity, segment.name, segment.day, start=start, end=stretch.end):
                return None
            return counts.add(connection, identity, segment.day, counted)

        partitions.prepare(self.store, segment.day)
        sums = self.store.change(work)
        if sums is None:
            return 0
        _publish(sums, stretch.datagrams.total())
        self._set_aside(segment, counted)
        return stretch.datagrams.total()

    def _set_aside(self, segment: journal.Segment, counted: counting.Counts) -> None:
        aside = set_aside.SetAside(self.directory / set_aside.NAME)
        reasons: collections.Counter[str] = collections.Counter()
        for raw, error, times in counted.malformed:
            aside.add(segment.name, error.reason, raw)
            reasons[error.reason] += times
        for reason, times in reasons.items():
            metrics.count(metrics.MALFORMED, reason, by=times)
        if reasons:
            log.warning("malformed datagrams", **reasons, see=str(self.directory / set_aside.NAME))


def _publish(sums: counts.Sums, datagrams: int) -> None:
    metrics.count(metrics.TALLIED, by=datagrams)
    metrics.count(metrics.SESSIONS, "successful", by=sums.successful)
    metrics.count(metrics.SESSIONS, "failed", by=sums.failed)
    for result_type, sessions in sums.failures.items():
        metrics.count(metrics.FAILURES, result_type, by=sessions)


def open_tally(settings: config.Config, store: engine.Store) -> Tally:
    """Return the tally of this host."""
    return Tally(store, pathlib.Path(settings.recorder.journal), settings.recorder.host or socket.gethostname())


def uncounted(directory: pathlib.Path, store: engine.Store) -> tuple[int, dt.datetime | None]:
    """Return how many bytes of a journal are not counted, and since when.

    Raises:
        journal.JournalError: the journal cannot be read.
        store.engine.StoreError: the store cannot be used.
    """
    identity = journal.known_identity(directory) or ""
    with store.read() as connection:
        behind = [
            (one, journal.size(one) - counts.position(connection, identity, one.name))
            for one in journal.segments(directory)
        ]
        since = recorders.tallied(connection, identity)
    first = next((one for one, left in behind if left > 0), None)
    if since is None and first is not None:
        since = journal.written(first)
    return sum(left for _, left in behind), since


def main(settings: config.Config) -> int:
    """Run as a process until SIGTERM or SIGINT; then count what is there once more, and return the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("tally started", journal=settings.recorder.journal)
    readiness.tell()
    _publish(counts.Sums(), 0)
    metrics.count(metrics.TALLY_ERRORS, by=0)
    tally: Tally | None = None
    noted = dt.datetime.min.replace(tzinfo=dt.UTC)
    delay = RETRY_FIRST
    last = False
    while not last:
        last = stop.is_set()
        now = dt.datetime.now(dt.UTC)
        try:
            tally = tally or open_tally(settings, engine.open_store(settings.store.url))
            tally.catch_up(now)
            if last or now - noted >= BEAT or now.date() != noted.date():
                tally.note(now, ended=last)
                noted = now
        except (engine.StoreError, journal.JournalError) as error:
            log.error("the tally cannot go on, the journal holds", error=str(error), again_in=delay)
            metrics.count(metrics.TALLY_ERRORS)
            stop.wait(delay * random.uniform(0.5, 1))  # noqa: S311 - so that not all hosts come back at once
            delay = min(2 * delay, RETRY_LAST)
        else:
            delay = RETRY_FIRST
            stop.wait(settings.store.flush)
    log.info("tally stopped")
    return 0
