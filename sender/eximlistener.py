"""The process that takes Exim's events: a stream socket in, datagrams into the recorder's socket out.

A rim, a process of its own of the role ``recorder`` where ``recorder.exim_socket`` is set: the recorder itself must
look into nothing and ask nobody. Exim waits until its connection is closed, so :class:`Listener` only reads, joins
(``sender.eximjoining``) and closes. It never writes: any answer would defer the mail. Who stays longer than
:data:`CONNECTION_TIMEOUT`, sends more than :data:`MAX_OCTETS` or finds :data:`MAX_CONNECTIONS` later ones, is dropped.

A thread (:class:`Handing`) then asks the policy socket what the domain asks for, judges (``sender.eximjudging``), and
hands over. It may wait for either; what waits for it is bounded.

Known limits: what waits here is lost when this process is killed, or ends after the recorder has.
"""

import asyncio
import collections
import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from policy import listeners, names, postfix, stopping
from sender import applied, asking, config, encoding, eximevents, eximjoining, eximjudging, metrics, readiness, submit

MAX_CONNECTIONS = 200
"""Connections at once; each lasts some hundred microseconds. Exim has one a delivery; more wait to be accepted."""

MAX_OCTETS = 1024 * 1024
"""Octets of one connection: Exim sends one line, and a test may send some thousand."""

CONNECTION_TIMEOUT = 1.0
"""Seconds a connection may last: less than the two that the snippet lets Exim wait."""

ROUND = 1.0
"""Seconds between two looks for attempts that nothing more will be told of."""

MAX_WAITING = 10_000
"""Attempts that wait to be handed over, some 10 MB: a recorder that is started anew takes as many in a second."""

RETRY_AFTER = 1.0
"""Seconds until a recorder that does not take anything is tried again."""

DRAIN_TIMEOUT = 10.0
"""Seconds for what waits at the end: the recorder ends at the same time."""

REPEAT_AFTER = 60.0
"""Seconds between two warnings of the same kind."""


class Handing:
    """A thread that makes sessions of attempts and hands them to the recorder.

    Args:
        policies: tells what domains ask for; used in the thread only, and closed there.
        recorder: path of the recorder's socket.
        log: where to warn.
    """

    def __init__(
        self, policies: asking.Policies, recorder: str, log: structlog.typing.FilteringBoundLogger | None = None
    ) -> None:
        self.sent = 0
        """Datagrams the recorder has in its queue, or took from it."""
        self.lost = 0
        """Attempts that could not be handed over."""
        self.without_domain = 0
        """Attempts of which Exim did not tell the domain, or for none."""
        self._policies = policies
        self._recorder = recorder
        self._log = log or structlog.get_logger()
        self._told: dict[str, float] = {}
        self._queue: queue.Queue[eximjoining.Attempt | None] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()  # both threads lose
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="handing", daemon=True)
        self._thread.start()

    def take(self, attempt: eximjoining.Attempt) -> None:
        """Take an attempt; never waits."""
        try:
            self._queue.put_nowait(attempt)
        except queue.Full:
            self._lose("too many wait already")

    def end(self, patience: float = DRAIN_TIMEOUT) -> None:
        """Hand over what waits, as long as there is a recorder.

        Args:
            patience: seconds for that; then what is left is lost.
        """
        self._ended.set()
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=patience)
        self._thread.join(patience)
        if self._thread.is_alive():
            with self._lock:
                self.lost += self._queue.qsize()

    def _work(self) -> None:
        while (attempt := self._queue.get()) is not None:
            try:
                self._hand_over(attempt)
            except Exception:  # noqa: BLE001  # one bad attempt must not end the thread
                self._lose("a fault of ours")
                self._log.exception("a session failed")
        self._policies.close()

    def _hand_over(self, attempt: eximjoining.Attempt) -> None:
        domain = names.host_name(attempt.domain)
        asked = applied.NOTHING if domain is None else self._policies.of(domain)
        told = eximjudging.judge(attempt, asked, time.time())
        if told is None:
            self.without_domain += 1
            return
        datagram = encoding.encode(told)
        while True:
            try:
                summary = submit.submit([datagram], self._recorder)
            except submit.SubmitError as error:
                self._warn("the recorder takes no sessions of Exim", error=str(error), waiting=self._queue.qsize())
                if self._ended.wait(RETRY_AFTER):
                    self._lose("there is no recorder any more")
                    return
            else:
                self.sent += summary.sent
                if summary.rejected:
                    self._lose(summary.bad[0].reason)
                return

    def _lose(self, reason: str) -> None:
        with self._lock:
            self.lost += 1
        self._warn("sessions of Exim lost", error=reason, lost=self.lost)

    def _warn(self, what: str, **about: object) -> None:
        now = time.monotonic()
        if now - self._told.get(what, float("-inf")) >= REPEAT_AFTER:
            self._told[what] = now
            self._log.warning(what, **about)


class Listener:
    """Accepts connections, reads events, joins them.

    Args:
        take: called with each attempt that is complete; must not wait.
        clock: seconds, for joining.
        log: where to warn.
    """

    def __init__(
        self,
        take: Callable[[eximjoining.Attempt], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self.events = 0
        """Lines that are events, of interest or not."""
        self.malformed = 0
        """Lines that are none, and connections with too much or too late."""
        self.joiner = eximjoining.Joiner()
        self.connections: collections.OrderedDict[_Connection, None] = collections.OrderedDict()
        self._take = take
        self._clock = clock
        self._log = log or structlog.get_logger()
        self._told = float("-inf")
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket) -> None:
        """Begin to accept connections on a listening socket."""
        self._server = await listeners.accept(sock, lambda: _Connection(self), listeners.BACKLOG)
        self._timer = asyncio.get_running_loop().call_later(ROUND, self._tick)

    def end(self) -> None:
        """Stop to accept, drop all connections, and tell what is known of those of Exim."""
        if self._server is not None:
            self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self.connections):
            connection.drop()
        self._give(self.joiner.end(self._clock()))

    def line(self, line: bytes) -> None:
        """Take a line."""
        try:
            event = eximevents.parse(line)
        except eximevents.MalformedError as error:
            self.bad(str(error))
            return
        self.events += 1
        if event is not None:
            self._give(self.joiner.feed(event, self._clock()))

    def bad(self, reason: str) -> None:
        """Count something that is no event."""
        self.malformed += 1
        now = time.monotonic()
        if now - self._told >= REPEAT_AFTER:
            self._told = now
            cure = "is conf/exim/tlsrpt.conf of this version in use?"
            self._log.warning("not an event of Exim", error=reason, total=self.malformed, cure=cure)

    def look(self) -> None:
        """Give the attempts that are complete because nothing more came; happens by itself, too."""
        self._give(self.joiner.expire(self._clock()))

    def _give(self, attempts: list[eximjoining.Attempt]) -> None:
        for attempt in attempts:
            self._take(attempt)

    def _tick(self) -> None:
        self.look()
        self._timer = asyncio.get_running_loop().call_later(ROUND, self._tick)


class _Connection(asyncio.Protocol):
    """One client; nothing is ever written to it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._buffer = bytearray()
        self._octets = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is a stream
        self._transport = transport
        self._deadline = asyncio.get_running_loop().call_later(CONNECTION_TIMEOUT, self._too_late)
        others = self._listener.connections
        others[self] = None
        if len(others) > MAX_CONNECTIONS:
            next(iter(others)).drop()

    def data_received(self, data: bytes) -> None:
        self._octets += len(data)
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            if line.strip():
                self._listener.line(bytes(line))
        if self._octets > MAX_OCTETS or len(rest) > eximevents.MAX_LINE:
            self._listener.bad("too long")
            self.drop()

    def eof_received(self) -> bool:
        if self._buffer.strip():
            self._listener.line(bytes(self._buffer))
        return False  # which closes

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # however it ended
        self._deadline.cancel()
        self._listener.connections.pop(self, None)

    def drop(self) -> None:
        self._listener.connections.pop(self, None)
        self._transport.abort()

    def _too_late(self) -> None:
        if self._buffer:
            self._listener.bad("not whole in time")
        self.drop()


def main(settings: config.Config) -> int:
    """Run the listener of a configuration as this process until SIGTERM or SIGINT; return the exit code.

    Args:
        settings: the sections ``[recorder]`` and ``[policy]`` are used.
    """
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    section = settings.recorder
    path = Path(section.exim_socket)
    try:
        policies = asking.Policies(settings.policy.listen, name=postfix.JSON, log=log)  # Exim asks nobody itself
        sock = listeners.bind_unix(path, socket.SOCK_STREAM, int(section.socket_mode, 8), section.socket_group)
    except (ValueError, listeners.ListenError) as error:
        log.error("Exim cannot be listened to", error=str(error))
        return 1
    handing = Handing(policies, section.socket, log)
    listener = Listener(handing.take, log=log)
    log.info("listening to Exim", socket=str(path))
    readiness.tell()

    def publish() -> None:
        metrics.reach(metrics.EXIM_EVENTS, total=listener.events)
        metrics.reach(metrics.EXIM_MALFORMED, total=listener.malformed)
        metrics.reach(metrics.EXIM_SENT, total=handing.sent)
        metrics.reach(metrics.EXIM_LOST, total=handing.lost)

    try:
        with metrics.publishing(publish):
            asyncio.run(_serve(listener, sock))
    finally:
        listeners.unlink(path)
        handing.end()
    log.info(
        "stopped listening to Exim",
        events=listener.events,
        malformed=listener.malformed,
        sent=handing.sent,
        lost=handing.lost,
        without_domain=handing.without_domain,
    )
    return 0


async def _serve(listener: Listener, sock: socket.socket) -> None:
    """Listen until SIGTERM or SIGINT."""
    stop = stopping.asked()
    await listener.start(sock)
    try:
        await stop.wait()
    finally:
        listener.end()
