"""What was found wrong with a policy, told to the recorder: RFC 8460 section 4.3.2.2 in libtlsrpt's datagrams.

Postfix cannot report that a policy could not be fetched or is invalid, so the policy room does, one datagram for each
answered query that met it, into the same socket as Postfix. :func:`datagram` makes one; it is pure.

A :class:`Recorder` sends without ever waiting. Datagrams that find the recorder's queue full (it is ten long by
default) wait here, in order and bounded; what comes beyond, and what comes while no recorder runs, is lost and counted.

Known limits: what waits when this process is killed is lost.
"""

import asyncio
import collections
import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from policy import mtasts, verdict

MAX_WAITING = 10_000
"""Datagrams that wait for room in the recorder's queue: it takes as many in some ten milliseconds."""

MAX_WAITING_OCTETS = 16 * 1024 * 1024
"""Octets of them; a datagram has some hundred, and more than 64 KiB when a policy does."""

SEND_BUFFER = 1024 * 1024
"""``SO_SNDBUF``, of which a datagram must fit in the part that the kernel grants (``net.core.wmem_max``)."""

REPEAT_AFTER = 60.0
"""Seconds between two warnings: a recorder that is down must not fill the log."""

_STS = 2
"""``policy-type`` of MTA-STS."""

_CODES = {
    verdict.FindingType.STS_POLICY_FETCH_ERROR: 301,
    verdict.FindingType.STS_POLICY_INVALID: 302,
    verdict.FindingType.STS_WEBPKI_INVALID: 303,
}


class _Detail(msgspec.Struct, frozen=True):
    c: int
    f: str


class _Policy(msgspec.Struct, frozen=True, omit_defaults=True, rename="kebab"):
    policy_type: int
    policy_domain: str
    policy_string: tuple[str, ...] = ()
    mx_host: tuple[str, ...] = ()
    failure_details: tuple[_Detail, ...] = ()
    t: int = 0
    f: int = 0


class _Datagram(msgspec.Struct, frozen=True, omit_defaults=True):
    version: str = msgspec.field(name="dpv")
    domain: str = msgspec.field(name="d")
    policies: tuple[_Policy, ...]
    record: str | None = msgspec.field(name="pr", default=None)


_ENCODER = msgspec.json.Encoder()


def datagram(
    domain: str, finding: verdict.Finding, record: str | None = None, policy: mtasts.Policy | None = None
) -> bytes:
    """Return a finding as libtlsrpt would send it: a session by an MTA-STS policy that failed.

    Args:
        domain: the policy domain as A-labels.
        finding: what was found.
        record: the text of the domain's TLSRPT record; ``None``: not known.
        policy: the one that goes on to be used; ``None``: none is.
    """
    failed = _Policy(
        policy_type=_STS,
        policy_domain=domain,
        policy_string=policy.strings if policy is not None else (),
        mx_host=policy.mx if policy is not None else (),
        failure_details=(_Detail(_CODES[finding.result_type], finding.reason),),
        t=1,
        f=1,
    )
    return _ENCODER.encode(_Datagram(version="1", domain=domain, policies=(failed,), record=record))


class Recorder:
    """Hands datagrams to the recorder's socket without waiting; to be used in an event loop, and closed.

    Args:
        path: of the recorder's socket. It need not be there yet, and may be made anew at any time.
        clock: seconds, for the pauses between warnings.
        log: where to warn.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        clock: Callable[[], float] = time.monotonic,
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self.sent = 0
        """Datagrams the recorder has in its queue, or took from it."""
        self.lost = 0
        """Datagrams that could not be handed over."""
        self._path = os.fspath(path)
        self._clock = clock
        self._log = log or structlog.get_logger()
        self._told: float | None = None
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # tells when there is room; None: need not
        self._waiting: collections.deque[bytes] = collections.deque()
        self._octets = 0

    def send(self, datagram: bytes) -> None:
        """Send a datagram, now or as soon as there is room; never waits, never fails."""
        if self._waiting or not self._try(datagram):
            self._wait(datagram)

    def close(self) -> None:
        """Send what waits as far as there is room, and close the socket."""
        while self._waiting and self._try(self._waiting[0]):
            self._waiting.popleft()
        self._give_up("the recorder does not take them")
        self._disconnect()

    def _try(self, datagram: bytes) -> bool:
        """Send or lose a datagram; return whether that is done, or it must wait for room."""
        error: OSError | None = None
        for _ in range(2):  # the second time to a recorder that was started again
            try:
                (self._socket or self._connect()).send(datagram)
            except BlockingIOError:
                return False
            except OSError as failure:
                error = failure
                self._disconnect()
            else:
                self.sent += 1
                return True
        self._lose(1, os.strerror(error.errno) if error and error.errno else str(error))
        return True

    def _wait(self, datagram: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING or self._octets + len(datagram) > MAX_WAITING_OCTETS:
            self._lose(1, "too many wait already")
            return
        self._waiting.append(datagram)
        self._octets += len(datagram)
        self._watch()

    def _flush(self) -> None:
        """Send what waits until there is no room again."""
        while self._waiting and self._try(self._waiting[0]):
            self._octets -= len(self._waiting.popleft())
            if self._socket is None:
                self._give_up("there is no recorder any more")
        if self._waiting:
            self._watch()
        else:
            self._unwatch()

    def _give_up(self, reason: str) -> None:
        if self._waiting:
            self._lose(len(self._waiting), reason)
        self._waiting.clear()
        self._octets = 0

    def _watch(self) -> None:
        """Be told when there is room."""
        if self._loop is None and self._socket is not None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_writer(self._socket, self._flush)

    def _unwatch(self) -> None:
        if self._loop is not None and self._socket is not None:
            self._loop.remove_writer(self._socket)
        self._loop = None

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        return sock

    def _disconnect(self) -> None:
        self._unwatch()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _lose(self, count: int, reason: str) -> None:
        self.lost += count
        now = self._clock()
        if self._told is None or now - self._told >= REPEAT_AFTER:
            self._told = now
            what = "findings lost: they could not be handed to the recorder"
            self._log.warning(what, socket=self._path, error=reason, lost=self.lost)
