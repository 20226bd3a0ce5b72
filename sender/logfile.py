"""A log file that somebody else writes, rotates or truncates, as lines that each have a mark to come back to.

A rim. A file is known by device, inode and a hash of how it begins, so it is found again under another name
(``mail.log.1``, ``mail.log-20261124``) and told from one that took its place:

- renamed and made anew: the old one is read to its end once something is in the new one (its writer has changed over
  then), those in between too, then the new one;
- copied and truncated: it begins anew; what was added between the last look and the copy is read from the copy.

:meth:`Reader.read` never waits and reads a bounded piece; whoever calls it pauses when there is nothing.

Known limits: files that were compressed before they were read to their end are lost, and told. A file that is truncated
and grows beyond where it was, with the same beginning, between two looks is not noticed, and
what is truncated before its first :data:`SURE` bytes were seen is lost.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import structlog

from sender import logsource, postfixlog

PIECE = 256 * 1024
"""Bytes read at a time."""

BEGINNING = 256
"""Bytes that a file is known by: a line or two, with their time."""

SURE = 64
"""Bytes of a beginning that are enough to take a file with another inode for a copy."""

LOOKS = 10
"""Times that names are looked at which change meanwhile."""

MAX_SIBLINGS = 1000
"""Files looked at for one that was renamed; a year of days."""

_TURN = r"[0-9][0-9.T_-]*"
"""What rotation puts behind the name of a log: a number or a date."""

_COMPRESSED = frozenset((".gz", ".xz", ".bz2", ".zst", ".lz4"))


@dataclasses.dataclass(frozen=True, slots=True)
class _Identity:
    """What a file is known by."""

    device: int
    inode: int
    length: int
    """Bytes of the beginning that are hashed."""
    digest: str

    def is_in(self, file: int) -> bool:
        """Tell whether an open file begins so."""
        return _digest(os.pread(file, self.length, 0)) == self.digest if self.length else True

    def has_inode(self, status: os.stat_result) -> bool:
        return (self.device, self.inode) == (status.st_dev, status.st_ino)


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    identity: _Identity
    offset: int

    def is_in(self, file: int, *, by_inode: bool) -> bool:
        """Tell whether an open file is the one: the same, or else a copy as far as that can be told."""
        status = os.fstat(file)
        sure = self.identity.has_inode(status) if by_inode else self.identity.length >= SURE
        return sure and status.st_size >= self.offset and self.identity.is_in(file)


def _digest(octets: bytes) -> str:
    return hashlib.blake2b(octets, digest_size=12).hexdigest()


def _identify(file: int) -> _Identity:
    status = os.fstat(file)
    beginning = os.pread(file, BEGINNING, 0)
    return _Identity(status.st_dev, status.st_ino, len(beginning), _digest(beginning))


def _mark(identity: _Identity, offset: int) -> str:
    return f"{identity.device}.{identity.inode}.{identity.length}.{identity.digest}.{offset}"


def _place(mark: str) -> _Place | None:
    parts = mark.split(".")
    if len(parts) != 5 or not all(part.isdigit() for part in (*parts[:3], parts[4])):  # noqa: PLR2004 - as _mark
        return None
    device, inode, length, digest, offset = parts
    return _Place(_Identity(int(device), int(inode), min(int(length), BEGINNING), digest), int(offset))


class Reader:
    """Reads on from where it is told; to be closed.

    Args:
        path: of the log. It need not be there yet.
        log: where to warn.
    """

    def __init__(self, path: Path, log: structlog.typing.FilteringBoundLogger | None = None) -> None:
        self._path = path
        self._log = log or structlog.get_logger()
        self._file = -1
        self._identity = _Identity(0, 0, 0, "")
        self._offset = 0
        """Of the first byte that was not read."""
        self._rest = b""
        """A line that is not whole; it ends at the offset."""
        self._skipping = 0
        """Bytes of a line that is too long."""
        self._lost: set[str] = set()
        """Compressed files that were told of."""
        self._done: _Place | None = None
        """The last line that is not new; ``None``: all are new from here on."""
        self._done_here = False
        """It is in the open file."""
        self.at_end = False
        self.too_long = 0

    def resume(self, replay: str, done: str) -> bool:
        """Read from ``replay``; lines up to ``done`` are not new. Return whether both are still there.

        Without ``replay`` it begins at ``done``; without ``done`` all that there is now is newer.

        Raises:
            logsource.LogError: the log cannot be read.
        """
        last, first = _place(done), _place(replay)
        found = self._find(last) if last else None
        if last is None or found is None:
            self._log.warning("where the log was left is gone: lines may be missing", log=str(self._path))
            return False
        earlier = self._find(first) if first else None
        self._done = _Place(_identify(found), last.offset)
        if first is None or earlier is None:
            self._take(found, last.offset)
        else:
            os.close(found)
            self._take(earlier, first.offset)
        return True

    def skip_to_end(self) -> tuple[str, bool] | None:
        """Leave out what is there; return where the next line will be; ``None``: there is no file yet.

        Raises:
            logsource.LogError: it cannot be read.
        """
        if not self._switch(self._path):
            return None
        self._offset = _end_of_lines(self._file)
        return _mark(self._identity, self._offset), False

    def read(self) -> Sequence[logsource.Record]:
        """Return lines that are there and were not read; none: nothing now.

        Raises:
            logsource.LogError: the log cannot be read.
        """
        before = (self._file, self._identity.inode, self._offset)
        try:
            records = self._read()
        except OSError as error:
            raise _error(self._path, error) from error
        self.at_end = not records and (self._file, self._identity.inode, self._offset) == before
        return records

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _read(self) -> list[logsource.Record]:
        if self._file < 0 and not self._switch(self._path):
            return []
        if self._is_truncated():
            self._begin_anew()
        self._refresh()
        piece = os.pread(self._file, PIECE, self._offset)
        if piece:
            return self._lines(piece)
        return self._go_on() if self._is_left() else []

    def _lines(self, piece: bytes) -> list[logsource.Record]:
        """Cut a piece into lines; keep what is not whole."""
        start = self._offset - len(self._rest)
        self._offset += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        records = []
        for line in lines:
            begin, size = start - self._skipping, len(line) + 1 + self._skipping
            records.append(self._record(line, begin, size))
            start, self._skipping = begin + size, 0
        if len(self._rest) + self._skipping > postfixlog.MAX_LINE:
            self._skipping += len(self._rest)
            self._rest = b""
        return records

    def _record(self, octets: bytes, begin: int, size: int) -> logsource.Record:
        too_long = size > postfixlog.MAX_LINE + 1
        self.too_long += too_long
        line = None if too_long else postfixlog.parse(octets)
        return logsource.Record(line, _mark(self._identity, begin), size, self._age(begin))

    def _age(self, begin: int) -> logsource.Age:
        if self._done is None:
            return logsource.Age.NEW
        if not self._done_here or begin < self._done.offset:
            return logsource.Age.OLD
        is_last = begin == self._done.offset
        self._done = None
        return logsource.Age.LAST if is_last else logsource.Age.NEW

    def _refresh(self) -> None:
        """Know a file that has grown by more of its beginning."""
        if self._identity.length < BEGINNING:
            self._identity = _identify(self._file)

    def _is_truncated(self) -> bool:
        return os.fstat(self._file).st_size < self._offset or not self._identity.is_in(self._file)

    def _begin_anew(self) -> None:
        """Go on in the copy that was made before the file was truncated, if there is one; then from the beginning."""
        self._log.info("the log was truncated: it is read from its beginning", log=str(self._path))
        place = _Place(self._identity, self._offset - len(self._rest) - self._skipping)
        copy = self._find(place)
        if copy is None:
            self._take(os.dup(self._file), 0)
            return
        if self._done is not None and self._done_here:  # it is in the copy now
            self._done, self._done_here = _Place(_identify(copy), self._done.offset), False
        self._take(copy, place.offset)

    def _is_left(self) -> bool:
        """Tell whether there is a next file with something in it. Its writer has left this one then."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return bool(self._later())
        return not self._identity.has_inode(status) and (status.st_size > 0 or bool(self._later()))

    def _go_on(self) -> list[logsource.Record]:
        """Take what was added to this file until it was left, then go to the next one."""
        piece = os.pread(self._file, PIECE, self._offset)
        if piece:
            return self._lines(piece)
        file = self._next()
        if file is None:
            return []
        last = self._last_line()
        self._take(file, 0)
        return last

    def _next(self) -> int | None:
        """Open the file that came after this one. Names change while they are looked at: then look again."""
        for _ in range(LOOKS):
            later = self._later()
            file = _open(later[0][1] if later else self._path)
            if file is None:
                continue
            if os.fstat(file).st_ino == later[0][2] if later else not self._later():
                return file
            os.close(file)
        return None

    def _last_line(self) -> list[logsource.Record]:
        """Return a line that will not get its line feed any more."""
        if not self._rest and not self._skipping:
            return []
        size = len(self._rest) + self._skipping
        return [self._record(self._rest, self._offset - size, size)]

    def _switch(self, path: Path) -> bool:
        """Go to the beginning of another file; return whether it is there.

        Raises:
            logsource.LogError: it cannot be read.
        """
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _error(path, error) from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise logsource.LogError(f"{path}: not a file: give the path of a log, or journal")
        self._take(file, 0)
        return True

    def _take(self, file: int, offset: int) -> None:
        """Go on in an open file, which is closed in time."""
        if self._done_here:
            self._done = None  # it was in the file that is left
        self.close()
        self._file, self._identity, self._offset = file, _identify(file), offset
        self._rest, self._skipping = b"", 0
        self._done_here = self._done is not None and self._done.identity.has_inode(os.fstat(file))

    def _find(self, place: _Place) -> int | None:
        """Open the file that a place is in, under whatever name; rather the same inode than a copy."""
        for by_inode in (True, False):
            for path in (self._path, *self._siblings()):
                file = _open(path)
                if file is not None and place.is_in(file, by_inode=by_inode):
                    return file
                if file is not None:
                    os.close(file)
        return None

    def _later(self) -> list[tuple[int, Path, int]]:
        """Return files rotated after the one that is read, oldest first: time, name, inode."""
        left = os.fstat(self._file)
        later: list[tuple[int, Path, int]] = []
        for path in self._siblings():
            with contextlib.suppress(OSError):
                status = path.stat()
                if status.st_mtime_ns > left.st_mtime_ns and status.st_ino != left.st_ino:
                    later.append((status.st_mtime_ns, path, status.st_ino))
        lost = {path.name for _, path, _ in later if path.suffix in _COMPRESSED} - self._lost
        if lost:
            self._lost |= lost
            self._log.warning("a log was compressed before it was read: its lines are lost", logs=sorted(lost))
        return sorted(one for one in later if one[1].suffix not in _COMPRESSED)

    def _siblings(self) -> list[Path]:
        """Return files named like the log with more behind it."""
        try:
            names = [name for name in os.listdir(self._path.parent) if self._is_sibling(name)]  # noqa: PTH208 - names
        except OSError:
            return []
        return [self._path.parent / name for name in sorted(names)[:MAX_SIBLINGS]]

    def _is_sibling(self, name: str) -> bool:
        log = re.escape(self._path.name)
        dated = rf"{re.escape(self._path.stem)}-{_TURN}{re.escape(self._path.suffix)}"
        return re.fullmatch(rf"(?:{log}[.-]{_TURN}|{dated})(?:\.[a-z0-9]+)?", name) is not None


def _open(path: Path) -> int | None:
    """Open a file that may be gone by now, or be none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    return None


def _end_of_lines(file: int) -> int:
    """Return where the last whole line ends."""
    size = os.fstat(file).st_size
    start = max(0, size - postfixlog.MAX_LINE)
    tail = os.pread(file, size - start, start)
    found = tail.rfind(b"\n")
    return start + found + 1 if found >= 0 else size


def _error(path: Path, error: OSError) -> logsource.LogError:
    return logsource.LogError(f"{path}: cannot be read: {error.strerror}: let this user read it (on Debian: group adm)")
