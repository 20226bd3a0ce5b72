"""What readers of logs give: lines, each with a mark to come back to, and how they stand to where was stopped.

Pure values. ``sender.logfile`` reads files, ``sender.systemjournal`` the systemd journal.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Protocol

from sender import postfixlog


class LogError(Exception):
    """The log cannot be read; the text is one line that names path, cause and cure."""


class Age(enum.Enum):
    """How a line stands to the one that was told to be the last."""

    OLD = enum.auto()
    """Before it: read again to remember what is open."""
    LAST = enum.auto()
    NEW = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A line of a log."""

    line: postfixlog.Line | None
    """``None``: none of ours, or too long to be."""
    mark: str
    """Where it is."""
    size: int
    """Bytes it takes in the log."""
    age: Age


class Source(Protocol):
    """A log that is read on and on."""

    @property
    def at_end(self) -> bool:
        """Whether the last :meth:`read` found nothing more."""

    @property
    def too_long(self) -> int:
        """Lines that were skipped because they were longer than :data:`sender.postfixlog.MAX_LINE`."""

    def resume(self, replay: str, done: str) -> bool:
        """Read from ``replay``; lines up to ``done`` are not new. Return whether that is possible.

        Where not, the log is read from the beginning of what there is.
        """

    def skip_to_end(self) -> tuple[str, bool] | None:
        """Leave out what is there; return a mark there and whether its line was there already. ``None``: no log yet."""

    def read(self) -> Sequence[Record]:
        """Return a bounded number of lines; none: nothing now.

        Raises:
            LogError: the log cannot be read.
        """

    def close(self) -> None:
        """Let go of it."""
