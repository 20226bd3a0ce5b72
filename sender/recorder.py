"""The recorder: receives the datagrams of the MTA and appends them to the journal, nothing else.

The MTA does not wait: what comes while the kernel's queue is full is lost. So this is one loop of blocking
calls that takes all that is queued, a system call for each, and appends it in one write. It does not
look into a datagram (a line feed in it becomes a blank, that is all). A thread brings the journal to the disk; while it
does, the loop only receives, since a write to a file that is being synced may wait for the disk.

When it is told to stop it takes its socket file away, refuses what comes from then on, and appends what was
queued before.

Known limits: the queue is short by default (``net.unix.max_dgram_qlen``). A datagram of exactly
:data:`sender.datagram.MAX_DATAGRAM` bytes cannot be told from a longer one later and counts as truncated, too.
"""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from policy import listeners
from sender import config, datagram, journal, metrics, readiness

BUFFER = 16 * 1024 * 1024
"""Bytes received before they must be written, disk or not: two seconds of 20,000 datagrams a second. Memory is used as
it fills."""

MAX_BATCH = 65536
"""Datagrams received before they must be written, so that empty ones do not fill the memory either."""

ROUND = 1024
"""Datagrams received between two writes while there is no pause: some milliseconds, so a ``kill -9`` loses little."""

RECEIVE_BUFFER = 4 * 1024 * 1024
"""``SO_RCVBUF``. Linux bounds a queue of Unix datagrams by their number; other kernels bound it by this."""

SYNC_AFTER = 0.5
"""Seconds from a write to the sync that covers it: with the sync itself less than a second on a working disk."""

WAIT_WHILE_SYNCING = 5
"""Milliseconds between two looks whether the disk is ready for what was received meanwhile."""

WAIT_WHILE_IDLE = 30_000
"""Milliseconds. The longest that a new day waits for its segment when nothing is received."""

REPEAT_AFTER = 60.0
"""Seconds between two warnings of the same kind: a full disk must not fill the log as well."""

DRAIN_ROUNDS = 100
"""Rounds of receiving after a stop, for a socket that systemd keeps open and whose senders never pause."""

_LAST_SLOT = BUFFER - datagram.MAX_DATAGRAM - 1
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_TRUNC


@dataclass(frozen=True, slots=True)
class Totals:
    """What a recorder did in its life, in datagrams."""

    received: int
    truncated: int
    """Of those received: longer than :data:`sender.datagram.MAX_DATAGRAM`."""
    lost: int
    """Of those received: not appended because the disk was full or broken."""


def run(
    sock: socket.socket,
    writer: journal.Writer,
    *,
    stop: int,
    own_path: Path | None = None,
    clock: Callable[[], float] = time.time,
    log: structlog.typing.FilteringBoundLogger | None = None,
) -> Totals:
    """Receive and append until told to stop; then take what is queued, sync, and return.

    Args:
        sock: a bound datagram socket; not closed here.
        writer: closed at the end.
        stop: a file descriptor that becomes readable when it is time to end.
        own_path: of the socket file if it is ours to remove; ``None`` when systemd keeps the socket.
        clock: tells Unix seconds.
        log: where to warn.

    Raises:
        JournalError: the last sync failed.
    """
    log = log or structlog.get_logger()
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    loop = _Loop(sock, writer, clock, log)
    try:
        with metrics.publishing(loop.publish):
            loop.until(stop)
        if own_path is not None:
            listeners.unlink(own_path)
            sock.shutdown(socket.SHUT_RD)
        loop.drain()
    finally:
        loop.end()
    return loop.totals()


def main(settings: config.Config, inherited: list[socket.socket]) -> int:
    """Run the recorder of a configuration as this process until SIGTERM or SIGINT.

    Args:
        settings: the section ``[recorder]`` is used.
        inherited: sockets that systemd handed over; a Unix datagram socket among them is used instead of binding one.

    Returns:
        the exit code: 0 ended as told, 1 it could not start or the last data may not be on the disk.
    """
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    path = Path(settings.recorder.socket)
    try:
        with _signals() as stop:
            writer = journal.Writer(Path(settings.recorder.journal), time.time())
            if writer.is_ahead(time.time()):
                cure = "stop the recorder and move the journal's files of later days away"
                log.warning("the clock ran ahead once: sessions count for a later day", cure=cure)
            sock, own_path = _socket(settings.recorder, inherited, writer)
            where = {"socket": str(path), "journal": settings.recorder.journal}
            log.info("recorder started", **where, inherited=own_path is None, realtime=_come_first())
            readiness.tell()
            with sock:
                totals = run(sock, writer, stop=stop, own_path=own_path, log=log)
    except (journal.JournalError, listeners.ListenError) as error:
        log.error("recorder failed", error=str(error))
        return 1
    log.info("recorder stopped", received=totals.received, truncated=totals.truncated, lost=totals.lost)
    return 0


def _socket(
    section: config.Recorder, inherited: list[socket.socket], writer: journal.Writer
) -> tuple[socket.socket, Path | None]:
    """Return the socket, and its path if it is our own. The journal's lock is held by now: nobody takes it over."""
    sock = listeners.choose(inherited, socket.AF_UNIX, socket.SOCK_DGRAM)
    if sock is not None:
        return sock, None
    path = Path(section.socket)
    try:
        return listeners.bind_unix(path, socket.SOCK_DGRAM, int(section.socket_mode, 8), section.socket_group), path
    except listeners.ListenError:
        writer.close()
        raise


def _come_first() -> bool:
    """Be scheduled before all else, where the system lets this process: the kernel's queue holds but milliseconds.

    The thread that syncs inherits it: were it held up while it has the interpreter's lock, so would be who receives.

    Returns:
        Whether it does (``CAP_SYS_NICE``, or ``LimitRTPRIO=`` of systemd).
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))
        return True
    return False


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """Yield a descriptor that becomes readable on SIGTERM or SIGINT."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def _ignore(_number: int, _frame: object) -> None:
    """Leave it to the wake-up descriptor."""


class _Loop:
    """The parts that receive, write and sync, joined."""

    def __init__(
        self,
        sock: socket.socket,
        writer: journal.Writer,
        clock: Callable[[], float],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._sock = sock
        self._writer = writer
        self._clock = clock
        self._batch = _Batch()
        self._syncer = _Syncer(writer, log)
        self._warnings = _Warnings(log)
        self._received = 0
        self._last = 0.0

    def until(self, stop: int) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(stop, select.POLLIN)
        while stop not in [descriptor for descriptor, _ in poller.poll(self._patience())]:
            self._batch.receive(self._sock)
            if not self._syncer.busy or self._batch.full():
                self._write()

    def drain(self) -> None:
        for _ in range(DRAIN_ROUNDS):
            received = self._batch.receive(self._sock)
            self._write()
            if not received:
                break

    def end(self) -> None:
        self._syncer.end()
        self._writer.close()

    def publish(self) -> None:
        metrics.reach(metrics.RECEIVED, total=self._received)
        metrics.reach(metrics.TRUNCATED, total=self._warnings.truncated)
        metrics.reach(metrics.LOST, total=self._warnings.lost)
        if self._last:
            metrics.show(metrics.LAST_RECEIVED, value=self._last)

    def totals(self) -> Totals:
        return Totals(self._received, self._warnings.truncated, self._warnings.lost)

    def _patience(self) -> int:
        return WAIT_WHILE_SYNCING if self._batch.count() else WAIT_WHILE_IDLE

    def _write(self) -> None:
        now = self._clock()
        count = self._batch.count()
        if not count:
            error = self._writer.turn(now)
            if error:
                self._warnings.loss(journal.Loss(0, error), now)
            return
        loss = self._writer.append(self._batch.lines(), count, now)
        self._syncer.wake()
        self._warnings.truncation(self._batch.truncated, now)
        self._warnings.loss(loss, now)
        self._received += count
        self._last = now
        self._batch.clear()


class _Batch:
    """Datagrams one behind the other, each with a line feed."""

    def __init__(self) -> None:
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._ends: list[int] = []
        self.truncated = 0

    def receive(self, sock: socket.socket) -> int:
        """Take what is queued, as much as there is room for, without waiting; return how many it was."""
        buffer, view, end = self._buffer, self._view, self._end
        ends: list[int] = []
        receive, ended, longest = (
            sock.recv_into,
            ends.append,
            datagram.MAX_DATAGRAM,
        )  # looked up once: this is the hot loop
        try:
            for _ in range(ROUND):
                if end > _LAST_SLOT:
                    break
                size = receive(view[end:], longest, _FLAGS)
                if size > longest:
                    size = longest
                    self.truncated += 1
                end += size
                buffer[end] = _LINE_FEED
                end += 1
                ended(end)
        except BlockingIOError:
            pass
        self._end = end
        self._ends += ends
        return len(ends)

    def lines(self) -> memoryview:
        """Return it all, as lines."""
        if self._buffer.count(b"\n", 0, self._end) != len(self._ends):
            start = 0
            for end in self._ends:
                self._view[start : end - 1] = bytes(self._view[start : end - 1]).replace(b"\n", b" ")
                start = end
        return self._view[: self._end]

    def count(self) -> int:
        return len(self._ends)

    def full(self) -> bool:
        """Tell whether there is little room: what is queued in a busy moment may not fit."""
        return self._end > BUFFER // 2 or len(self._ends) > MAX_BATCH

    def clear(self) -> None:
        self._end = 0
        self._ends = []
        self.truncated = 0


_LINE_FEED = ord("\n")


class _Syncer:
    """A thread that syncs the journal soon after a write, and sleeps while there is none."""

    def __init__(self, writer: journal.Writer, log: structlog.typing.FilteringBoundLogger) -> None:
        self.busy = False
        self._writer = writer
        self._log = log
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sync", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        if not self._wanted.is_set():
            self._wanted.set()

    def end(self) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join()

    def _work(self) -> None:
        while self._wanted.wait() and not self._ended.wait(SYNC_AFTER):
            self._wanted.clear()
            self.busy = True
            try:
                self._writer.sync()
            except journal.JournalError as error:
                self._log.error("datagrams may be lost: the journal could not be synced", error=str(error))
            finally:
                self.busy = False


class _Warnings:
    """Counts what went wrong, and tells now and then."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self.truncated = 0
        self.lost = 0
        self._log = log
        self._failing = False
        self._told: dict[str, float] = {}

    def truncation(self, count: int, now: float) -> None:
        if not count:
            return
        self.truncated += count
        if self._is_time("truncated", now):
            limit = datagram.MAX_DATAGRAM
            self._log.warning("datagrams truncated: longer than the format allows", limit=limit, total=self.truncated)

    def loss(self, loss: journal.Loss | None, now: float) -> None:
        if loss is None:
            if self._failing:
                self._log.warning("the journal can be written again", lost=self.lost)
            self._failing = False
            return
        self._failing = True
        self.lost += loss.datagrams
        if self._is_time("lost", now):
            self._log.error("datagrams lost: the journal cannot be written", error=loss.error, lost=self.lost)

    def _is_time(self, kind: str, now: float) -> bool:
        told = self._told.get(kind)
        if told is not None and abs(now - told) < REPEAT_AFTER:
            return False
        self._told[kind] = now
        return True
