"""What Postfix 3.10 says it reported against what the recorder has: how many events were dropped on the way.

Postfix logs each event it hands to libtlsrpt, and a warning for each that could not be handed over; the journal has
those that came. :class:`Comparison` counts both from the same moment on.

Known limits: what is under way at that moment is counted on one side only, a few events more or less. Datagrams of
others (``tlsrpt submit``, another MTA) count as recorded; findings of the policy socket are recognized by their codes
and left out. A journal that began later than the log seems to lack what came before.
"""

import collections
import dataclasses
from pathlib import Path

from sender import datagram, journal, postfixlog, session

STRETCH = 4 * 1024 * 1024
"""Bytes of the journal read at a time."""

_FINDINGS = frozenset(
    {
        session.ResultType.STS_POLICY_FETCH_ERROR,
        session.ResultType.STS_POLICY_INVALID,
        session.ResultType.STS_WEBPKI_INVALID,
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """Events, counted."""

    succeeded: int
    failed: int
    """Of those Postfix reported."""
    recorded_succeeded: int
    recorded_failed: int
    dropped: int
    """The recorder's queue was full."""
    undelivered: int
    """The recorder could not be reached, or something else went wrong."""

    @property
    def events(self) -> int:
        """All that Postfix reported."""
        return self.succeeded + self.failed

    @property
    def recorded(self) -> int:
        """All that the journal has."""
        return self.recorded_succeeded + self.recorded_failed

    @property
    def missing(self) -> int:
        """Events that should be recorded and are not; negative: more are recorded than Postfix reported."""
        return self.events - self.recorded - self.dropped - self.undelivered

    def __str__(self) -> str:
        return f"{self.events} events of Postfix, {self.recorded} recorded, {self.dropped} dropped by the kernel"


class Comparison:
    """Counts from a position of the journal on.

    Args:
        directory: of the journal.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._position: tuple[str, int] = ("", 0)
        self._reported: collections.Counter[bool] = collections.Counter()
        self._lost: collections.Counter[bool] = collections.Counter()
        self._recorded: collections.Counter[bool] = collections.Counter()

    @property
    def position(self) -> str:
        """How far the journal was counted."""
        return f"{self._position[0]}:{self._position[1]}"

    def begin(self, position: str) -> None:
        """Begin at a position; empty: at the beginning of the journal."""
        name, _, offset = position.rpartition(":")
        self._position = (name, int(offset) if offset.isdigit() else 0)
        for counter in (self._reported, self._lost, self._recorded):
            counter.clear()

    def begin_now(self) -> None:
        """Begin with what is recorded from now on.

        Raises:
            journal.JournalError: the journal cannot be read.
        """
        found = journal.segments(self._directory)
        self.begin(f"{found[-1].name}:{journal.size(found[-1])}" if found else "")

    def take(self, event: postfixlog.Event) -> None:
        """Count a line of the log."""
        if isinstance(event, postfixlog.Reported):
            self._reported[event.failed] += 1
        elif isinstance(event, postfixlog.NotReported):
            self._lost[event.full] += 1

    def result(self) -> Result:
        """Count what the journal has by now, and return it all.

        Raises:
            journal.JournalError: the journal cannot be read.
        """
        for segment in journal.segments(self._directory):
            if segment.name >= self._position[0]:
                self._count(segment, self._position[1] if segment.name == self._position[0] else 0)
        return Result(
            succeeded=self._reported[False],
            failed=self._reported[True],
            recorded_succeeded=self._recorded[False],
            recorded_failed=self._recorded[True],
            dropped=self._lost[True],
            undelivered=self._lost[False],
        )

    def _count(self, segment: journal.Segment, offset: int) -> None:
        while (chunk := journal.read(segment, offset, STRETCH)).end > offset:
            offset = chunk.end
            for line, times in collections.Counter(chunk.lines).items():
                failed = _failed(line)
                if failed is not None:
                    self._recorded[failed] += times
        self._position = (segment.name, offset)


def _failed(line: bytes) -> bool | None:
    """Tell how an event ended; ``None``: it is none of Postfix's."""
    try:
        results = datagram.decode(line).results
    except datagram.MalformedError:
        return None
    if any(failure.result_type in _FINDINGS for result in results for failure in result.failures):
        return None
    return any(result.failed for result in results)
