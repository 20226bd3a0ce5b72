"""The systemd journal as lines of Postfix, through ``journalctl`` as a child process.

A rim. Entries come as JSON; their cursors are the marks. The child is started when something is to be read; one that
ended is started again after the last entry. Only entries of the mail facility are asked for
(``syslog_facility = mail``, the default).

Known limits: what the journal dropped (``RateLimitBurst=``) or has removed already is not there to be counted.
"""

import contextlib
import os
import re
import select
import subprocess
import time
from collections.abc import Sequence

import msgspec
import structlog

from sender import logsource, postfixlog

PROGRAM = "journalctl"

FIELDS = "MESSAGE,SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,_HOSTNAME"

PIECE = 256 * 1024
"""Bytes read at a time."""

MAX_ENTRY = 64 * 1024
"""Bytes of an entry in JSON; a line of 8 KiB whose every octet is told as a number."""

WAIT = 0.2
"""Seconds that a read waits for the child."""

TIME_OUT = 60.0
"""Seconds for the newest entry, or for the end of a child that was told to end; a large journal on a slow disk."""

PAUSE = 5.0
"""Seconds until a child that ended is started again."""


class _Entry(msgspec.Struct, frozen=True):
    cursor: str = msgspec.field(name="__CURSOR")
    message: object = msgspec.field(name="MESSAGE", default=None)
    identifier: object = msgspec.field(name="SYSLOG_IDENTIFIER", default=None)
    syslog_pid: object = msgspec.field(name="SYSLOG_PID", default=None)
    pid: object = msgspec.field(name="_PID", default=None)
    host: object = msgspec.field(name="_HOSTNAME", default=None)


_DECODER = msgspec.json.Decoder(_Entry)
_TIME = re.compile(r";t=([0-9a-f]{1,16});")


class Reader:
    """Reads on from where it is told; to be closed.

    Args:
        follow: wait for entries to come; else end with those that are there.
        program: ``journalctl``, or what speaks like it.
        pause: seconds until a child that ended is started again.
        log: where to warn.
    """

    def __init__(
        self,
        *,
        follow: bool,
        program: str = PROGRAM,
        pause: float = PAUSE,
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self.at_end = False
        self.too_long = 0
        self._follow, self._program, self._pause = follow, program, pause
        self._log = log or structlog.get_logger()
        self._child: subprocess.Popen[bytes] | None = None
        self._start: tuple[str, ...] = ()
        self._start_at = float("-inf")
        self._buffer = b""
        self._skipping = False
        self._done: str | None = None

    def resume(self, replay: str, done: str) -> bool:
        """Read from ``replay``; entries up to ``done`` are not new. The journal finds the nearest one if it is gone."""
        self._start = (f"--cursor={replay}",)
        self._done = done
        return True

    def skip_to_end(self) -> tuple[str, bool] | None:
        """Leave out what is there; return the newest entry; ``None``: there is none.

        Raises:
            logsource.LogError: the journal cannot be read.
        """
        command = [*self._command(), "--lines=1"]
        try:
            told = subprocess.run(command, stdout=subprocess.PIPE, timeout=TIME_OUT, check=False)  # noqa: S603 - a list
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._error(str(error)) from error
        if told.returncode:
            raise self._error(f"ended with {told.returncode}")
        entries = [entry for line in told.stdout.splitlines() if (entry := _decode(line))]
        if not entries:
            return None
        self._start = (f"--after-cursor={entries[-1].cursor}",)
        return entries[-1].cursor, True

    def read(self) -> Sequence[logsource.Record]:
        """Return entries that came; none: there was none within :data:`WAIT`.

        Raises:
            logsource.LogError: the journal cannot be read.
        """
        if self._child is None and not self._begin():
            self.at_end = True
            time.sleep(WAIT)
            return []
        octets = self._receive()
        if octets is None:
            self.at_end = False
            return []
        if not octets:
            self._ended()
        records = self._records(octets)
        self.at_end = not records and (self._follow or self._child is None)
        return records

    def close(self) -> None:
        """End the child."""
        if self._child is None:
            return
        self._child.terminate()
        if self._child.stdout is not None:
            self._child.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(TIME_OUT)
        self._child = None

    def _command(self) -> list[str]:
        return [
            self._program, "--output=json", f"--output-fields={FIELDS}", "--no-pager", "--quiet", "SYSLOG_FACILITY=2",
        ]  # fmt: skip

    def _begin(self) -> bool:
        """Start the child if it is time to; return whether it runs."""
        if time.monotonic() < self._start_at or (self.at_end and not self._follow):
            return False
        command = [*self._command(), *self._start, *(("--follow", "--no-tail") if self._follow else ())]
        try:
            self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)  # noqa: S603 - a list
        except OSError as error:
            raise self._error(str(error)) from error
        self._buffer, self._skipping = b"", False
        return True

    def _receive(self) -> bytes | None:
        """Return what the child wrote; empty: it ended; ``None``: nothing yet."""
        if self._child is None or self._child.stdout is None:
            return b""
        ready, _, _ = select.select([self._child.stdout], [], [], WAIT)
        if not ready:
            return b"" if self._child.poll() is not None else None
        return os.read(self._child.stdout.fileno(), PIECE)

    def _ended(self) -> None:
        """Note that the child ended.

        Raises:
            logsource.LogError: it failed, and nothing was to be followed.
        """
        if self._child is None:
            return
        if self._child.stdout is not None:
            self._child.stdout.close()
        code = self._child.wait(TIME_OUT)
        self._child = None
        if not self._follow:
            if code:
                raise self._error(f"ended with {code}")
            return
        self._start_at = time.monotonic() + self._pause
        self._log.warning("journalctl ended, is started again", exit_code=code, delay=self._pause)

    def _records(self, octets: bytes) -> list[logsource.Record]:
        *lines, self._buffer = (self._buffer + octets).split(b"\n")
        records = []
        for line in lines:
            if self._skipping or len(line) > MAX_ENTRY:
                self.too_long += 1
                self._skipping = False
            elif entry := _decode(line):
                records.append(self._record(entry))
        if len(self._buffer) > MAX_ENTRY:
            self._buffer, self._skipping = b"", True
        return records

    def _record(self, entry: _Entry) -> logsource.Record:
        text = _text(entry.message)
        pid = _text(entry.syslog_pid) or _text(entry.pid)
        line = postfixlog.line(_text(entry.host), _text(entry.identifier), pid, text)
        self._start = (f"--after-cursor={entry.cursor}",)
        return logsource.Record(line, entry.cursor, len(text) + 1, self._age(entry.cursor))

    def _age(self, cursor: str) -> logsource.Age:
        if self._done is None:
            return logsource.Age.NEW
        if cursor == self._done:
            self._done = None
            return logsource.Age.LAST
        if _time(cursor) > _time(self._done):
            self._done = None
            return logsource.Age.NEW
        return logsource.Age.OLD

    def _error(self, cause: str) -> logsource.LogError:
        cure = "is it installed, and may this user read the journal (group systemd-journal)?"
        return logsource.LogError(f"{self._program}: {cause}: {cure}")


def _decode(line: bytes) -> _Entry | None:
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _text(value: object) -> str:
    """Return a field's text: told as a text, as its octets, or several times."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        return ""
    if isinstance(value[0], str):
        return value[0]
    octets = [number for number in value if isinstance(number, int) and 0 <= number < 256]  # noqa: PLR2004 - an octet
    return bytes(octets).decode("utf-8", "replace")


def _time(cursor: str) -> int:
    """Return the time in a cursor, microseconds; 0: it has none."""
    match = _TIME.search(cursor)
    return int(match[1], 16) if match else 0
