"""Asks the policy socket which policy holds for a domain, and remembers the answer for some minutes.

A rim, blocking. The question is the one in JSON of ``policy.postfix``. Postfix has just asked the same for the same
domain, so the answer is ready; one that is not within :data:`TIME_OUT`, or that nobody gives, is none, and nobody is
asked again for :data:`PAUSE`: the log must be read on, mail or no mail.
"""

import collections
import socket
import time
from collections.abc import Callable, Iterable

import structlog

from policy import endpoints, postfix, socketmap
from sender import applied

TIME_OUT = 2.0
"""Seconds for one answer."""

KEPT = 300.0
"""Seconds an answer is remembered: TLSA records and policies live longer."""

PAUSE = 10.0
"""Seconds until a socket that did not answer is asked again."""

MAX_REMEMBERED = 10_000
"""Answers; most have some hundred octets."""

MAX_REMEMBERED_OCTETS = 32 * 1024 * 1024
"""Octets of the policies in them."""

RECEIVED = 64 * 1024
"""Octets received at once; most answers have some hundred."""

REPEAT_AFTER = 600.0
"""Seconds between two warnings that nobody answers."""


class Policies:
    """Tells what domains ask for; to be closed.

    Args:
        addresses: ``policy.listen``; the first that works is used. None: nothing is known of any domain.
        name: by which it is asked: ``postfix.JSON`` where nobody else asks before mail goes out, so that what is
            found wrong counts.
        clock: seconds.
        log: where to warn.

    Raises:
        ValueError: an address cannot be read.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        *,
        name: bytes = postfix.PEEK,
        clock: Callable[[], float] = time.monotonic,
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self.unanswered = 0
        """Domains that were told without their policy."""
        self._addresses = [endpoints.parse(address) for address in addresses]
        self._name, self._clock = name, clock
        self._log = log or structlog.get_logger()
        self._socket: socket.socket | None = None
        self._silent_until = float("-inf")
        self._warned_at = float("-inf")
        self._remembered: collections.OrderedDict[str, tuple[float, applied.Applied, int]] = collections.OrderedDict()
        self._octets = 0

    def of(self, domain: str) -> applied.Applied:
        """Return what a domain asks for; :data:`sender.applied.NOTHING` where nobody tells.

        Args:
            domain: as it stands in the log.
        """
        key = socketmap.key(domain.encode("utf-8", "replace"))
        if key is None or not self._addresses:
            return applied.NOTHING
        known = self._remembered.get(key.a_label)
        now = self._clock()
        if known is not None and now - known[0] < KEPT:
            return known[1]
        told = self._ask(key.a_label, now)
        if told is None:
            self.unanswered += 1
            return known[1] if known is not None else applied.NOTHING
        self._remember(key.a_label, now, told)
        return told

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _remember(self, domain: str, now: float, told: applied.Applied) -> None:
        size = sum(map(len, told.sts.lines)) if told.sts else 0
        self._forget(domain)
        self._remembered[domain] = (now, told, size)
        self._octets += size
        while len(self._remembered) > MAX_REMEMBERED or self._octets > MAX_REMEMBERED_OCTETS:
            self._forget(next(iter(self._remembered)))

    def _forget(self, domain: str) -> None:
        forgotten = self._remembered.pop(domain, None)
        self._octets -= forgotten[2] if forgotten else 0

    def _ask(self, domain: str, now: float) -> applied.Applied | None:
        if now < self._silent_until:
            return None
        error: OSError | None = None
        for attempt in range(2):  # the second time to a socket that was made anew
            fresh = self._socket is None or attempt > 0
            try:
                return applied.read(self._exchange(domain))
            except OSError as failure:
                error = failure
                self.close()
                if fresh:
                    break
        self._be_silent(error, now)
        return None

    def _exchange(self, domain: str) -> bytes:
        if self._socket is None:
            self._socket = _connect(self._addresses)
        self._socket.sendall(socketmap.reply(self._name + b" " + domain.encode("ascii")))
        return _receive(self._socket, time.monotonic() + TIME_OUT)

    def _be_silent(self, error: OSError | None, now: float) -> None:
        self._silent_until = now + PAUSE
        if now - self._warned_at >= REPEAT_AFTER:
            self._warned_at = now
            what = "the policy socket does not answer: sessions are told without their policy"
            self._log.warning(what, error=str(error), again_in=PAUSE)


def _connect(addresses: list[endpoints.UnixAddress | endpoints.InetAddress]) -> socket.socket:
    """Return a connection to the first address that takes one.

    Raises:
        OSError: none does.
    """
    error: OSError = OSError("no address")
    for address in addresses:
        try:
            if isinstance(address, endpoints.InetAddress):
                return socket.create_connection((address.host, address.port), TIME_OUT)
            return _connect_unix(str(address.path))
        except OSError as failure:
            error = failure
    raise error


def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(TIME_OUT)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _receive(sock: socket.socket, deadline: float) -> bytes:
    """Return the answer in one netstring.

    Raises:
        OSError: it does not come in time or in whole, or is none.
    """
    reader = socketmap.Reader(postfix.MAX_ANSWER)
    while True:
        octets = sock.recv(RECEIVED)
        try:
            answers = reader.feed(octets)
        except socketmap.ProtocolError as error:
            raise OSError("not an answer") from error
        if not octets or len(answers) > 1 or (answers and reader.rest):
            raise OSError("not an answer")
        if answers:
            return socketmap.text(answers[0])
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
