"""Where in a log the follower is, kept so that ``kill -9`` at any moment counts no session twice.

A rim: one small file for each log, locked by the process that uses it. It has two slots that are written in turn, each
in one call and with a checksum, so that one that was cut leaves the other. Each note is in the kernel before the
session it is about is handed over: killed in between, that one session is lost, none is told twice.

Known limits: what the kernel had not written yet is gone when the machine loses power (it is synced every
:data:`SYNC_AFTER` seconds); sessions of that time can be counted twice then.
"""

import contextlib
import fcntl
import os
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

SLOT = 8192
"""Bytes of a slot: two positions of at most a thousand characters and the names of 32 services."""

SYNC_AFTER = 1.0
"""Seconds between two syncs; the recorder syncs its journal as often."""

ALL = 2**31
"""In :attr:`Bookmark.index`: the line is done, whatever came of it."""


class BookmarkError(Exception):
    """The file cannot be used; the text is one line that names path, cause and cure."""


class Bookmark(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log was read. Positions are marks of the reader that gave them."""

    replay: str
    """From where to read again, to remember what is still open at :attr:`done`."""
    done: str
    """The last line of which something was handed over."""
    index: int = ALL
    """How many of the sessions that this line completes were handed over."""
    services: tuple[str, ...] = ()
    """Programs that were seen to use TLS."""
    reports: bool = False
    """Postfix reports itself: there are no sessions to make."""
    recorded: str | None = None
    """Where the recorder's journal ended when the comparison began, if it was ended in order."""


class _Slot(msgspec.Struct, frozen=True):
    number: int
    bookmark: Bookmark


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Slot)
_HEAD = 16
"""Bytes: the checksum in hexadecimal digits, and the length in decimal ones."""


def path_of(directory: Path, source: str) -> Path:
    """Return the file for a log: named after it, so that a person knows which is which."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", source).strip("_.")[-200:]
    return directory / f"{name or 'log'}.{zlib.crc32(os.fsencode(source)):08x}.bookmark"


class Keeper:
    """Keeps the bookmark of a log; to be closed.

    Args:
        path: of the file; made when missing, like its folder.
        clock: seconds, for the pauses between syncs.

    Raises:
        BookmarkError: it cannot be used, or another process does.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._synced = clock()
        self._dirty = False
        self._file = _open(path)
        try:
            found = [slot for slot in (self._read(0), self._read(1)) if slot is not None]
        except OSError as error:
            os.close(self._file)
            raise BookmarkError(f"{path}: cannot be read: {error.strerror}: make it readable for this user") from error
        last = max(found, key=lambda slot: slot.number, default=None)
        self._number = last.number if last else 0
        self.kept = last.bookmark if last else None
        """``None``: this log was never read."""

    def note(self, bookmark: Bookmark) -> None:
        """Keep a bookmark in place of the one before.

        Raises:
            BookmarkError: it could not be written.
        """
        self._number += 1
        body = _ENCODER.encode(_Slot(self._number, bookmark))
        if len(body) > SLOT - _HEAD:
            body = _ENCODER.encode(_Slot(self._number, msgspec.structs.replace(bookmark, services=())))
        content = b"%08x%8d" % (zlib.crc32(body), len(body)) + body
        try:
            written = os.pwrite(self._file, content, SLOT * (self._number % 2))
        except OSError as error:
            raise BookmarkError(f"{self._path}: cannot be written: {error.strerror}: make room") from error
        if written < len(content):
            raise BookmarkError(f"{self._path}: cannot be written whole: make room")
        self.kept = bookmark
        self._dirty = True
        if self._clock() - self._synced >= SYNC_AFTER:
            self.sync()

    def sync(self) -> None:
        """Bring it to the disk, as far as the disk can."""
        if self._dirty:
            with contextlib.suppress(OSError):  # the next one may do; at worst power failure costs what it costs
                os.fdatasync(self._file)
        self._dirty, self._synced = False, self._clock()

    def close(self) -> None:
        """Sync and let go of the file."""
        self.sync()
        os.close(self._file)

    def _read(self, slot: int) -> _Slot | None:
        content = os.pread(self._file, SLOT, SLOT * slot)
        head, digits = content[:8], content[8:_HEAD].strip()
        body = content[_HEAD : _HEAD + int(digits)] if digits.isdigit() else b""
        if not body or head != b"%08x" % zlib.crc32(body):
            return None
        try:
            return _DECODER.decode(body)
        except msgspec.DecodeError:  # of another version
            return None


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        cure = "set follower.state to a folder this user can write to"
        raise BookmarkError(f"{path}: cannot be opened: {error.strerror}: {cure}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise BookmarkError(f"{path}: another process follows this log: stop it first") from error
    return file
