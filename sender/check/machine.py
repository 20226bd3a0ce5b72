"""The machine: the kernel's queue of datagrams, the clock, room on the disk."""

import ctypes
import datetime as dt
import os
import pathlib
import shutil
from collections.abc import Iterator

from sender import config, journal
from sender.check import findings

QUEUE = pathlib.Path("/proc/sys/net/unix/max_dgram_qlen")

LEAST_QUEUE = 100
"""Datagrams. Postfix drops an event when the queue is full; with the kernel's ten a busy server loses some."""

GOOD_QUEUE = 512

TIME_ERROR = 5
"""What adjtimex(2) returns while nothing keeps the clock right."""

FEW_BYTES, TOO_FEW_BYTES = 1_000_000_000, 100_000_000
"""Room left on the disk below which is warned: a day of a million sessions takes some hundred million bytes."""


def look(settings: config.Config) -> Iterator[findings.Finding]:
    """Look at the machine."""
    yield queue(QUEUE)
    yield _clock()
    yield from _future(pathlib.Path(settings.recorder.journal), dt.datetime.now(dt.UTC).date())
    yield from journal_folder(pathlib.Path(settings.recorder.journal))


def queue(path: pathlib.Path) -> findings.Finding:
    """Judge how many datagrams the kernel keeps for a socket."""
    id_ = "kernel-queue"
    try:
        length = int(path.read_text())
    except (OSError, ValueError):
        return findings.unknown(id_, f"{path} cannot be read")
    if length >= LEAST_QUEUE:
        return findings.ok(id_, f"the kernel keeps {length} session results while the recorder is busy")
    lines = f"net.unix.max_dgram_qlen = {GOOD_QUEUE}"
    cure = f'echo "{lines}" > /etc/sysctl.d/60-tlsrpt.conf && sysctl --system, then restart tlsrpt'
    found = f"the kernel keeps {length} session results only while the recorder is busy; Postfix drops the others"
    return findings.warning(id_, found, cure)


class _Timex(ctypes.Structure):
    """struct timex of <sys/timex.h>; all zero, it asks and changes nothing."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 512))


def _clock() -> findings.Finding:
    id_ = "clock"
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.byref(_Timex()))
    if state < 0:
        return findings.unknown(id_, f"the kernel does not tell of its clock: {os.strerror(ctypes.get_errno())}")
    if state == TIME_ERROR:
        cure = "run chrony or systemd-timesyncd: timedatectl set-ntp true (in a container the host's clock counts)"
        return findings.hint(id_, "nothing keeps the clock right, as far as the kernel knows", cure)
    return findings.ok(id_, "the clock is kept right")


def _future(directory: pathlib.Path, today: dt.date) -> Iterator[findings.Finding]:
    id_ = "journal-days"
    try:
        segments = journal.segments(directory)
    except journal.JournalError as error:
        yield findings.error(id_, str(error), "let the user that tlsrpt runs as read it")
        return
    ahead = [one for one in segments if one.day > today]
    if ahead:
        found = f"the journal has sessions of {ahead[-1].day}: the clock was ahead when they came"
        yield findings.warning(id_, found, "keep the clock right; they are reported when their day is over")


def journal_folder(directory: pathlib.Path) -> Iterator[findings.Finding]:
    """Look at whether the journal can be written, and for how long."""
    existing = next(path for path in (directory, *directory.parents) if _is_there(path))
    if not os.access(existing, os.W_OK | os.X_OK):
        cure = f"chown {existing} to the user that tlsrpt runs as, or run tlsrpt check as that user"
        yield findings.error("journal", f"this user may not write to {existing}", cure)
    else:
        yield findings.ok(
            "journal", f"{directory} can be written" if existing == directory else f"{directory} can be made"
        )
    yield from _room(existing)


def _room(existing: pathlib.Path) -> Iterator[findings.Finding]:
    id_ = "room"
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        yield findings.unknown(id_, f"{existing}: {error.strerror}")
        return
    found = f"{existing} has {free / 1e9:.1f} GB left"
    if free < TOO_FEW_BYTES:
        yield findings.error(id_, found, "make room: what cannot be appended to the journal is lost")
    elif free < FEW_BYTES:
        yield findings.warning(id_, found, "make room before the journal cannot grow")
    else:
        yield findings.ok(id_, found)


def _is_there(path: pathlib.Path) -> bool:
    """Tell whether there is something, as far as this user may know; ``Path.exists`` raises where he may not."""
    return os.path.exists(path)  # noqa: PTH110 - as said
