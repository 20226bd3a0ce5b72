"""``tlsrpt follow``: sessions out of Postfix's log, for Postfix before 3.10, handed to the recorder.

Reads the log on (``sender.logfile``, ``sender.systemjournal``), finds attempts (``sender.postfixlog``,
``sender.joining``), asks which policy held (``sender.asking``), and hands a datagram for each (``sender.applied``) to
the recorder, waiting for it rather than dropping any. Before each it notes how far it is (``sender.bookmark``), so that
none is told twice however it ends; at its next start it reads again what was still open then.

Where the log tells that Postfix reports itself (3.10 and newer), it makes no sessions, but compares
(``sender.comparing``).

Known limits: a session counts for the day it is handed over, so after a stop over midnight those of the day before
count for the day after. While there is no recorder, the log is not read on. A log that was never followed is followed
from its end; one that is not there yet from its beginning, without what was rotated before it was first read.
"""

import bisect
import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from sender import (
    applied,
    asking,
    bookmark,
    comparing,
    config,
    joining,
    journal,
    logfile,
    logsource,
    metrics,
    postfixlog,
    readiness,
    submit,
    systemjournal,
)

JOURNAL = "journal"
"""The name that stands for the systemd journal."""

POLL = 0.25
"""Seconds between two looks at a log in which there was nothing new."""

RETRY = 2.0
"""Seconds until a recorder that was away is tried again."""

COMPARE_EVERY = 3600.0
"""Seconds between two comparisons of a Postfix that reports itself."""

SETTLE = 3.0
"""Seconds that the recorder has to write what Postfix has logged, before it counts as missing."""

_CHECKPOINT = 4096
"""Bytes of log between two marks that can be come back to."""

_NO_LOG_YET = bookmark.Bookmark(replay="", done="")
"""The log was waited for, and nothing of it was read."""

_CHECKPOINTS = joining.OPEN_SPAN // _CHECKPOINT

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run did."""

    sessions: int
    """Handed to the recorder."""
    compared: comparing.Result | None
    """``None``: Postfix does not report itself."""


class _Trail:
    """Marks of the way so far, to come back to."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._marks: list[str] = []

    def add(self, at: int, mark: str) -> None:
        if self._positions and at - self._positions[-1] < _CHECKPOINT:
            return
        self._positions.append(at)
        self._marks.append(mark)
        if len(self._positions) > 2 * _CHECKPOINTS:
            del self._positions[:_CHECKPOINTS], self._marks[:_CHECKPOINTS]

    def before(self, at: int) -> str:
        """Return the last mark at a position or before it."""
        return self._marks[max(0, bisect.bisect_right(self._positions, at) - 1)]


class Follower:
    """Gives the datagrams of a log, one by one; each counts as handed over when the next one is asked for.

    Args:
        source: the log.
        keeper: of its bookmark.
        policies: what domains ask for.
        directory: of the recorder's journal.
        relayhosts: hosts that take mail for other domains.
        once: end where the log ends now, and begin a log that was never followed at its beginning.
        stop: set when it is time to end.
    """

    def __init__(
        self,
        source: logsource.Source,
        keeper: bookmark.Keeper,
        policies: asking.Policies,
        *,
        directory: Path,
        relayhosts: tuple[str, ...],
        once: bool,
        stop: threading.Event,
    ) -> None:
        self.sessions = 0
        self._source, self._keeper, self._policies = source, keeper, policies
        self._once, self._stop = once, stop
        kept = keeper.kept
        self._joiner = joining.Joiner(relayhosts, kept.services if kept else ())
        self._reports = kept.reports if kept else False
        self._comparison = comparing.Comparison(directory)
        self._compares = False
        self._compared_at = time.monotonic()
        self._trail = _Trail()
        self._at = 0
        self._begun = kept
        self._before: bookmark.Bookmark | None = None

    def datagrams(self) -> Iterator[bytes]:
        """Yield what is to be handed to the recorder, until told to stop or, once, until the log ends.

        Raises:
            logsource.LogError: the log cannot be read.
            bookmark.BookmarkError: it cannot be noted how far it is.
        """
        self._begin()
        while not self._stop.is_set():
            records = self._source.read()
            for record in records:
                yield from self._take(record)
            if records:
                self._note(records[-1])
            elif not self._source.at_end:
                continue
            elif self._once:
                break
            else:
                self._rest()

    def take_back(self) -> None:
        """Note that the last datagram was not handed over."""
        if self._before is not None:
            self._keeper.note(self._before)
            self._before = None

    def end(self) -> comparing.Result | None:
        """Compare a last time if there is something to compare, and note that this was ended in order."""
        if not self._reports:
            return None
        if self._compares:
            result = self._compare()
        else:
            result = None
            self._begin_comparing()
        kept = self._keeper.kept
        if kept is not None:
            self._keeper.note(msgspec.structs.replace(kept, recorded=self._comparison.position))
        return result

    def _begin(self) -> None:
        """Go to where the last run stopped; or to the end of a log that is new here and was there before."""
        begun = self._begun
        if begun is not None and begun != _NO_LOG_YET and self._source.resume(begun.replay, begun.done):
            if begun.recorded is not None:
                self._comparison.begin(begun.recorded)
                self._compares = True
            return
        if self._once:
            self._comparison.begin("")
            self._compares = True
        elif begun is None:
            self._skip()
        self._begun = None

    def _skip(self) -> None:
        """Leave out what is in a log; where there is none, note that all that will be there is new."""
        start = self._source.skip_to_end()
        if start is None:
            self._keeper.note(_NO_LOG_YET)
            return
        mark, is_there = start
        self._keeper.note(bookmark.Bookmark(replay=mark, done=mark, index=bookmark.ALL if is_there else 0))
        log.info("the log is followed from its end: what was there before is not counted")

    def _take(self, record: logsource.Record) -> Iterator[bytes]:
        at, self._at = self._at, self._at + record.size
        self._trail.add(at, record.mark)
        event = postfixlog.event(record.line.text) if record.line else None
        if record.line is None or event is None:
            return
        oldest = self._joiner.oldest
        attempts = self._joiner.feed(record.line, event, at)
        if record.age is not logsource.Age.OLD:
            self._watch(event, record.age)
        if self._reports:
            return
        handed = self._handed(record.age)
        for number, attempt in enumerate(attempts[handed:], start=handed + 1):
            datagram = applied.datagram(attempt, self._asked(attempt))
            if datagram is not None:
                self._before = self._keeper.kept
                self._keeper.note(self._bookmark(record.mark, number, at if oldest is None else oldest, at))
                yield datagram
                self.sessions += 1
                self._before = None

    def _handed(self, age: logsource.Age) -> int:
        """Return how many attempts of a line were handed over by an earlier run."""
        if age is logsource.Age.NEW:
            return 0
        return self._begun.index if age is logsource.Age.LAST and self._begun is not None else bookmark.ALL

    def _asked(self, attempt: joining.Attempt) -> applied.Applied:
        return applied.NOTHING if attempt.relayed else self._policies.of(attempt.next_hop)

    def _watch(self, event: postfixlog.Event, age: logsource.Age) -> None:
        """Notice that Postfix reports itself."""
        if isinstance(event, postfixlog.Reported) and not self._reports:
            self._reports = True
            log.info("Postfix reports itself: no sessions are made of this log, only compared")
        if age is logsource.Age.NEW or self._handed(age) == 0:
            self._comparison.take(event)

    def _bookmark(self, mark: str, index: int, oldest: int, at: int) -> bookmark.Bookmark:
        return bookmark.Bookmark(
            replay=self._trail.before(min(oldest, at - joining.REQUEST_SPAN)),
            done=mark,
            index=index,
            services=self._joiner.services,
            reports=self._reports,
        )

    def _note(self, record: logsource.Record) -> None:
        """Note that all lines up to one are done, unless they were before."""
        if record.age is not logsource.Age.OLD:
            oldest = self._joiner.oldest
            at = self._at
            self._keeper.note(self._bookmark(record.mark, bookmark.ALL, at if oldest is None else oldest, at))

    def _rest(self) -> None:
        """Do what there is time for at the end of the log, and wait."""
        self._keeper.sync()
        if self._reports and not self._compares:
            self._begin_comparing()
        if self._reports and time.monotonic() - self._compared_at >= COMPARE_EVERY:
            self._compare()
        self._stop.wait(POLL)

    def _begin_comparing(self) -> None:
        """Count from now on, where it was not known from when on."""
        with contextlib.suppress(journal.JournalError):
            self._comparison.begin_now()
            self._compares, self._compared_at = True, time.monotonic()

    def _compare(self) -> comparing.Result | None:
        self._compared_at = time.monotonic()
        deadline = self._compared_at + SETTLE
        try:
            while (result := self._comparison.result()).missing > 0 and time.monotonic() < deadline:
                time.sleep(POLL)
        except journal.JournalError as error:
            log.error("what was recorded cannot be compared with the log", error=str(error))
            return None
        log.info(
            str(result),
            succeeded=result.succeeded,
            failed=result.failed,
            recorded_succeeded=result.recorded_succeeded,
            recorded_failed=result.recorded_failed,
            undelivered=result.undelivered,
            missing=result.missing,
        )
        return result


def run(settings: config.Config, name: str, *, once: bool, stop: threading.Event) -> Totals:
    """Follow a log until told to stop, or once to its end.

    Args:
        settings: the sections ``[follower]``, ``[recorder]`` and ``[policy]`` are used.
        name: path of the log, or :data:`JOURNAL`.
        once: do not wait for more.
        stop: set when it is time to end.

    Raises:
        logsource.LogError: the log cannot be read.
        bookmark.BookmarkError: another process follows this log, or it cannot be noted how far it is.
        submit.SubmitError: once, and the recorder does not take the sessions.
        ValueError: ``policy.listen`` cannot be read.
    """
    with contextlib.ExitStack() as stack:
        policies = stack.enter_context(contextlib.closing(asking.Policies(settings.policy.listen)))
        keeper = stack.enter_context(contextlib.closing(bookmark.Keeper(_state(settings, name))))
        source = stack.enter_context(contextlib.closing(_source(name, once=once)))
        follower = Follower(
            source,
            keeper,
            policies,
            directory=Path(settings.recorder.journal),
            relayhosts=settings.follower.relayhosts,
            once=once,
            stop=stop,
        )
        log.info("follower started", log=name, recorder=settings.recorder.socket)
        readiness.tell()

        def publish() -> None:
            metrics.reach(metrics.FOLLOWED, total=follower.sessions)
            metrics.reach(metrics.UNANSWERED, total=policies.unanswered)

        with metrics.publishing(publish):
            _hand_over(follower, settings.recorder.socket, once=once, stop=stop)
        totals = Totals(follower.sessions, follower.end())
        log.info("follower stopped", sessions=totals.sessions, unanswered=policies.unanswered, too_long=source.too_long)
        return totals


def _source(name: str, *, once: bool) -> logsource.Source:
    if name == JOURNAL:
        return systemjournal.Reader(follow=not once)
    if once and not Path(name).exists():
        raise logsource.LogError(f"{name}: no such file: give the log of Postfix, for example /var/log/mail.log")
    return logfile.Reader(Path(name))


def _state(settings: config.Config, name: str) -> Path:
    folder = settings.follower.state or Path(settings.recorder.journal).parent / "follower"
    return bookmark.path_of(Path(folder), name if name == JOURNAL else str(Path(name).absolute()))


def _hand_over(follower: Follower, socket_path: str, *, once: bool, stop: threading.Event) -> None:
    """Send datagrams as they come. One that a recorder did not take is sent again to the next."""
    last: list[bytes] = []

    def remembered(datagrams: Iterator[bytes]) -> Iterator[bytes]:
        for datagram in datagrams:
            last[:] = [datagram]
            yield datagram
            last.clear()

    stream = remembered(follower.datagrams())
    while True:
        try:
            submit.submit(itertools.chain(tuple(last), stream), socket_path)
        except submit.SubmitError as error:
            if once:
                follower.take_back()
                raise
            log.warning("sessions wait for the recorder", error=str(error), again_in=RETRY)
            if stop.wait(RETRY):
                follower.take_back()
                return
        else:
            return


def main(settings: config.Config) -> int:
    """Run the role of a configuration as this process until SIGTERM or SIGINT; return the exit code."""
    stop = stopping()
    try:
        run(settings, settings.follower.log, once=False, stop=stop)
    except (logsource.LogError, bookmark.BookmarkError, ValueError) as error:
        log.error("follower failed", error=str(error))
        return 1
    return 0


def stopping() -> threading.Event:
    """Return what SIGTERM and SIGINT set from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
