"""The journal: a directory of segments, NDJSON, one datagram a line, that a person can read.

A segment is named after the UTC time it was begun, ``{day}.{microseconds since midnight}.ndjson``, and belongs to
that day whole. A name is always greater than every other there, also when the clock was set back, so that names
are unique for ever and sort in the order of time; hence the newest segment is never removed. Only one
process writes (a lock on ``.lock``); after a restart it begins a new segment and leaves earlier ones alone.

The writer is made for one thread that appends and one that syncs. What was appended survives the death of the
process at once, and that of the machine once it was synced. Time is an argument (Unix seconds).

Known limits: after a clock that ran days ahead was corrected, datagrams still go to the later day, until the segments
with such names are moved away by hand while no recorder runs.
"""

import contextlib
import datetime as dt
import errno
import fcntl
import os
import re
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path

from sender import datagram

MAX_SEGMENT = 64 * 1024 * 1024
"""Bytes of a segment before the next is begun: some 200,000 datagrams, and space comes free in such steps."""

MAX_LINE = datagram.MAX_DATAGRAM + 1
"""Bytes read while no line feed comes: no line is longer, so what is longer was not written by a recorder."""

IDENTITY = ".id"
"""Name of the file within the journal that tells its identity."""

_DAY = 86400.0
"""Seconds."""

_MAX_UNSYNCED = 4
"""Segments ended but not synced yet, before ending another one waits for the disk."""

_NAME = re.compile(r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})\.(?P<microseconds>[0-9]{11})\.ndjson\Z")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a disk that may work again later; a recorder starts in spite of them."""


_CURE = "make it readable for this user, or move it away"


class JournalError(Exception):
    """The journal cannot be used; the text is one line that names path and cause."""


class JournalBusyError(JournalError):
    """Another process writes this journal."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What :meth:`Writer.append` could not append."""

    datagrams: int
    error: str
    """One line for people."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of the journal."""

    day: dt.date
    """The UTC day its datagrams were received on."""
    name: str
    path: Path
    finished: bool
    """A later one was there when the directory was read: nothing will be appended to this one any more."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines of a segment, without their line feeds."""

    lines: list[bytes]
    end: int
    """The offset after them, from which to read on."""


def segments(directory: Path) -> list[Segment]:
    """Return the segments of a journal, oldest first; none when there is no such directory.

    Raises:
        JournalError: the directory cannot be read.
    """
    try:
        found = sorted(name for name in os.listdir(directory) if _moment(name))  # noqa: PTH208 (bare names are wanted)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(f"{directory}: the journal cannot be read: {error.strerror}") from error
    return [
        Segment(dt.date.fromisoformat(name[:10]), name, directory / name, finished=name != found[-1]) for name in found
    ]


def size(segment: Segment) -> int:
    """Return the bytes of a segment now; 0 when it is gone.

    Raises:
        JournalError: it cannot be told.
    """
    try:
        return segment.path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise JournalError(f"{segment.path}: cannot be read: {error.strerror}: {_CURE}") from error


def written(segment: Segment) -> dt.datetime | None:
    """Return when a segment was last appended to (aware); ``None``: it is gone.

    Raises:
        JournalError: it cannot be told.
    """
    try:
        return dt.datetime.fromtimestamp(segment.path.stat().st_mtime, dt.UTC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"{segment.path}: cannot be read: {error.strerror}: {_CURE}") from error


def read(segment: Segment, offset: int, max_bytes: int) -> Chunk:
    """Return whole lines of a segment.

    A line without its line feed is left for later, unless the segment is finished: then its writer was killed, and
    what there is of it is returned as a line.

    Args:
        segment: from :func:`segments`.
        offset: bytes, the ``end`` of the chunk before, or 0.
        max_bytes: about how much to read; a line longer than that is returned all the same.

    Raises:
        JournalError: the segment cannot be read.
    """
    try:
        with segment.path.open("rb") as file:
            file.seek(offset)
            data = file.read(max_bytes)
            at_end = len(data) < max_bytes
            if not at_end and b"\n" not in data:
                limit = max(MAX_LINE - len(data), 1)
                rest = file.readline(limit)
                data += rest
                at_end = len(rest) < limit and not rest.endswith(b"\n")
    except FileNotFoundError:  # removed meanwhile, which happens to none that has something left
        return Chunk([], offset)
    except OSError as error:
        raise JournalError(f"{segment.path}: cannot be read: {error.strerror}: {_CURE}") from error
    return _chunk(data, offset, take_tail=segment.finished and at_end)


def identity(directory: Path) -> str:
    """Return what names this journal in the store, for ever and whatever its host is called: made at the first call.

    Raises:
        JournalError: it can be neither read nor made.
    """
    known = known_identity(directory)
    if known is None:
        path = directory / IDENTITY
        try:
            _make_identity(path)
        except OSError as error:
            raise JournalError(f"{path}: cannot be read or made: {error}") from error
        known = known_identity(directory)
    if known is None:
        raise JournalError(f"{directory / IDENTITY}: cannot be read or made: somebody removes it")
    return known


def known_identity(directory: Path) -> str | None:
    """Return what names this journal in the store, without making anything; ``None``: it has no name yet.

    Raises:
        JournalError: it cannot be read.
    """
    path = directory / IDENTITY
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise JournalError(f"{path}: cannot be read or made: {error}") from error
    if not text:
        raise JournalError(f"{path}: is empty: put back what it held, or all of the journal is counted again")
    return text


def _make_identity(path: Path) -> None:
    """Write it whole before it has its name: somebody else may read at the same time, or have been faster."""
    unnamed = path.with_name(f"{IDENTITY}.{secrets.token_hex(8)}")
    try:
        unnamed.write_text(f"{secrets.token_hex(16)}\n", encoding="ascii")
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(unnamed)
    finally:
        unnamed.unlink(missing_ok=True)


def _chunk(data: bytes, offset: int, *, take_tail: bool) -> Chunk:
    whole = data.rfind(b"\n") + 1
    if (take_tail and whole < len(data)) or (whole == 0 and len(data) >= MAX_LINE):
        return Chunk(data.split(b"\n"), offset + len(data))
    return Chunk(data[:whole].split(b"\n")[:-1], offset + whole)


def remove(segment: Segment) -> None:
    """Remove a finished segment; one that is gone already is no error.

    Raises:
        ValueError: it is not finished; its name must stay, so that it is not used again.
        JournalError: it cannot be removed.
    """
    if not segment.finished:
        raise ValueError(f"{segment.path}: the newest segment cannot be removed")
    try:
        segment.path.unlink(missing_ok=True)
    except OSError as error:
        raise JournalError(f"{segment.path}: cannot be removed: {error.strerror}") from error


class Writer:
    """Appends datagrams to the journal of a directory.

    Args:
        directory: created when missing, readable for its group.
        now: Unix seconds; a segment is begun at once.
        max_bytes: of a segment; a batch is never divided, so a segment may be that much longer.

    Raises:
        JournalBusyError: another process (or writer) has it.
        JournalError: the directory cannot be written. A full disk is no error here: the next append tells.
    """

    def __init__(self, directory: Path, now: float, max_bytes: int = MAX_SEGMENT) -> None:
        self._path = directory
        self._max_bytes = max_bytes
        self._guard = threading.Lock()
        """Held for moments only, never over a write or a sync."""
        self._file = -1
        self._size = 0
        self._midnight = 0.0
        self._dirty = False
        self._ended: list[int] = []
        self._new_name = False
        self._directory, self._lock = _open_directory(directory)
        try:
            self._last = _last_moment(directory)
            self._begin(now)
        except OSError as error:
            if error.errno not in _FULL:
                self.close()
                raise JournalError(f"{directory}: the journal cannot be written: {error.strerror}") from error
        except JournalError:
            self.close()
            raise

    def is_ahead(self, now: float) -> bool:
        """Tell whether datagrams go to a later day than today's, because the clock ran ahead once."""
        return now < self._midnight - _DAY

    def append(self, batch: bytes | memoryview, count: int, now: float) -> Loss | None:
        """Append whole lines to the segment of the day of ``now``.

        Args:
            batch: ``count`` datagrams, each with its line feed.
            count: how many they are.
            now: Unix seconds.

        Returns:
            what could not be appended, because the disk is full or broken; the next append tries again.
        """
        written = 0
        try:
            if self._file < 0 or now >= self._midnight or (self._size and self._size + len(batch) > self._max_bytes):
                self._begin(now)
            while written < len(batch):
                written += os.write(self._file, batch[written:])
        except OSError as error:
            kept = self._keep_whole_lines(bytes(batch[:written]))
            return Loss(count - kept, f"{self._path}: {error.strerror}")
        self._size += written
        self._dirty = True
        return None

    def turn(self, now: float) -> str | None:
        """Begin a new segment when the day of the present one is over, so that a reader sees that the day is complete.

        Returns:
            why it cannot be begun, in one line; the next append tries again.
        """
        if now < self._midnight:
            return None
        try:
            self._begin(now)
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        return None

    def sync(self) -> None:
        """Bring to the disk what was appended; may be called from another thread.

        Raises:
            JournalError: it may not be there. It is not tried again for these data, since the kernel may drop them.
        """
        with self._guard:
            files, self._ended = self._ended, []
            if self._dirty and self._file >= 0:
                self._dirty = False
                files.append(os.dup(self._file))
            new_name, self._new_name = self._new_name, False
        failures = [failure for file in files if (failure := _sync_and_close(file))]
        if new_name:
            with contextlib.suppress(OSError):  # some file systems cannot sync a directory
                os.fsync(self._directory)
        if failures:
            raise JournalError(f"{self._path}: cannot be synced: {failures[0]}")

    def close(self) -> None:
        """Sync and let go of the directory.

        Raises:
            JournalError: as :meth:`sync`; it is closed all the same.
        """
        try:
            self.sync()
        finally:
            for file in (self._file, self._directory, self._lock):
                if file >= 0:
                    os.close(file)
            self._file = self._directory = self._lock = -1

    def _begin(self, now: float) -> None:
        """Begin the next segment; the one before is synced and closed by the next sync.

        Raises:
            OSError: it cannot be created; the one before goes on, for a clock that is set back, but not for this day.
        """
        moment = max(dt.datetime.fromtimestamp(now, dt.UTC), self._last + dt.timedelta(microseconds=1))
        file = os.open(self._path / _name(moment), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        with contextlib.suppress(OSError):  # some file systems have no modes
            os.fchmod(file, 0o640)
        self._end()
        with self._guard:
            self._file, self._new_name = file, True
        self._size = 0
        self._last = moment
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        self._midnight = (day + dt.timedelta(days=1)).timestamp()

    def _end(self) -> None:
        with self._guard:
            if self._file >= 0:
                self._ended.append(self._file)
            self._file = -1
        if len(self._ended) > _MAX_UNSYNCED:
            with contextlib.suppress(JournalError):  # nothing is lost that the next sync could save
                self.sync()

    def _keep_whole_lines(self, written: bytes) -> int:
        """Cut what was written back to whole lines, and return how many they are."""
        whole = written.rfind(b"\n") + 1
        self._dirty = self._dirty or whole > 0
        self._size += whole
        if whole < len(written):
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                self._end()  # the half line is the last one of this segment
        return written.count(b"\n")


def _open_directory(directory: Path) -> tuple[int, int]:
    """Return descriptors of the directory and of the lock in it."""
    opened = []
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        opened.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
        opened.append(os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o640))
        fcntl.flock(opened[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        for file in opened:
            os.close(file)
        if isinstance(error, BlockingIOError):
            cure = "stop the other recorder, or give this one a journal of its own"
            raise JournalBusyError(f"{directory}: another process writes this journal: {cure}") from error
        raise JournalError(f"{directory}: the journal cannot be written: {error.strerror}") from error
    return opened[0], opened[1]


def _sync_and_close(file: int) -> str | None:
    try:
        os.fdatasync(file)
    except OSError as error:
        return error.strerror
    finally:
        os.close(file)
    return None


def _name(moment: dt.datetime) -> str:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    microseconds = (moment - midnight) // dt.timedelta(microseconds=1)
    return f"{moment.date()}.{microseconds:011d}.ndjson"


def _moment(name: str) -> dt.datetime | None:
    """Return what a segment is named after; ``None`` for a file that is none."""
    match = _NAME.match(name)
    if not match:
        return None
    try:
        day = dt.datetime.fromisoformat(match["day"]).replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    moment = day + dt.timedelta(microseconds=int(match["microseconds"]))
    return moment if moment.date() == day.date() else None


def _last_moment(directory: Path) -> dt.datetime:
    found = segments(directory)
    last = _moment(found[-1].name) if found else None
    return last or dt.datetime.fromtimestamp(0, dt.UTC)
