"""``tlsrpt submit``: session results line by line into the recorder's socket, waiting instead of dropping.

Each line is a datagram as libtlsrpt sends it (``sender.datagram``). A line that could not be counted is not
sent but told, with its number; the others are.

Known limits: sent is not yet on the disk; the recorder has it in its queue then, and ends without losing it on SIGTERM.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sender import datagram

MAX_WAIT = 30
"""Seconds that one datagram waits for room in the recorder's queue. One that works makes room in milliseconds."""

MAX_BAD = 1000
"""Bad lines that are told one by one; what comes beyond is only counted."""

SEND_BUFFER = 4 * 1024 * 1024
"""``SO_SNDBUF``, of which a datagram must fit in the part that the kernel grants (``net.core.wmem_max``)."""

PROGRESS_EVERY = 1000
"""Lines between two calls of ``progress``."""


class SubmitError(Exception):
    """The recorder cannot be reached, or is gone; the text is one line that names path, cause and cure."""

    def __init__(self, text: str, sent: int) -> None:
        """Args: ``text``, for people; ``sent``, how many datagrams the recorder took before."""
        super().__init__(text)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was not sent."""

    number: int
    """Counted from 1."""
    reason: str
    """The stable word of :class:`sender.datagram.Reason`, a colon, and what it is about."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of all lines that were not blank."""

    sent: int
    rejected: int
    """Lines that were not sent."""
    bad: list[BadLine]
    """The first :data:`MAX_BAD` of them."""


@dataclass(slots=True)
class _Tally:
    sent: int = 0
    rejected: int = 0
    bad: list[BadLine] = field(default_factory=list)

    def reject(self, number: int, reason: str) -> None:
        self.rejected += 1
        if len(self.bad) < MAX_BAD:
            self.bad.append(BadLine(number, reason))


def submit(lines: Iterable[bytes], socket_path: str, progress: Callable[[int], None] | None = None) -> Summary:
    """Send lines to the recorder.

    Args:
        lines: with or without their line ends; blank ones do not count.
        socket_path: of the recorder's datagram socket.
        progress: called now and then, and at the end, with the number of lines that are done.

    Raises:
        SubmitError: nobody receives there, or not any more, or not within :data:`MAX_WAIT`.
    """
    tally = _Tally()
    number = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        _connect(sock, socket_path)
        for number, line in enumerate(lines, start=1):
            content = line.strip()
            if content:
                _send(sock, socket_path, number, content, tally)
            if progress and number % PROGRESS_EVERY == 0:
                progress(number)
    if progress and number % PROGRESS_EVERY:
        progress(number)
    return Summary(tally.sent, tally.rejected, tally.bad)


def _connect(sock: socket.socket, socket_path: str) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", MAX_WAIT, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    try:
        sock.connect(socket_path)
    except OSError as error:
        raise SubmitError(f"{socket_path}: {_cause(error)}", 0) from error


def _send(sock: socket.socket, socket_path: str, number: int, content: bytes, tally: _Tally) -> None:
    try:
        datagram.decode(content)
        sock.send(content)
    except datagram.MalformedError as error:
        tally.reject(number, str(error))
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise SubmitError(f"{socket_path}: after {tally.sent} sent: {_cause(error)}", tally.sent) from error
        tally.reject(number, f"{datagram.Reason.TRUNCATED}: longer than net.core.wmem_max lets a datagram be")
    else:
        tally.sent += 1


def _cause(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such socket: is `tlsrpt serve recorder` running, and is this recorder.socket of its configuration?"
    if isinstance(error, ConnectionError):
        return "nobody receives: is `tlsrpt serve recorder` running?"
    if isinstance(error, PermissionError):
        return "not allowed to write to it: run this as a member of the socket's group (recorder.socket_group)"
    if isinstance(error, BlockingIOError):
        return f"nothing was received for {MAX_WAIT} seconds: is `tlsrpt serve recorder` stopped or stuck?"
    return os.strerror(error.errno) if error.errno else str(error)
