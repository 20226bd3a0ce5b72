"""The policy socket: socketmap over Unix and TCP stream sockets, any number of connections and pipelined requests.

A rim. :class:`Server` moves octets: ``policy.socketmap`` cuts requests out of them, an :class:`Answerer` answers. What
is ready is answered on the spot; what must wait is begun at once, and answers go out in the order of the questions.
``policy.endpoints`` has the sockets, :func:`run` serves until SIGTERM.

Most often there is one request in what comes, whose answer is ready: then nothing is cut at all.

Clients are local programs, but nothing they do may cost more than their own connection. One is dropped when it speaks
no netstrings, announces too long a request, takes too long to finish one or to read answers. There is room for
:data:`MAX_CONNECTIONS`; beyond, the one that is idle for the longest time is closed.

A connection costs some 3 KB of memory, besides that of the kernel.
"""

import asyncio
import collections
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import structlog

from policy import endpoints, listeners, socketmap, stopping

MAX_CONNECTIONS = 20_000
"""Connections at once; a large Postfix has some thousand smtp processes with one each."""

OTHER_FILES = 500
"""Descriptors kept free for look-ups, the cache and the log when the limit of this process is low."""

MAX_PIPELINED = 32
"""Requests of one connection that wait for a look-up at once; what comes beyond is read later."""

REQUEST_TIMEOUT = 10.0
"""Seconds for a request to come whole: clients write it at once, from this host or a near one."""

READ_TIMEOUT = 10.0
"""Seconds a client may leave its answers unread before it is dropped."""

IDLE_TIMEOUT = 3600.0
"""Seconds without a request until a connection is closed: Postfix closes its own after minutes, a dead peer never."""

ROUND = 1.0
"""Seconds between two looks for clients that are too slow."""

DRAIN_TIMEOUT = 25.0
"""Seconds for answers under way at the end: a look-up may take 20, and a supervisor does not wait for ever."""

_CHUNK = 8192
"""Octets read at once, into one buffer for all connections: some hundred requests."""

_MAX_UNREAD = 64 * 1024
"""Octets of answers that a client may leave unread before its next request has to wait."""

_INTERNAL = socketmap.reply(b"TEMP internal error")


class Answerer(Protocol):
    """Who knows the answers (``policy.answers``); requests and answers are netstrings."""

    def ready(self, request: bytes) -> bytes | None:
        """Return an answer at once; ``None``: it takes time, or this is not one whole request."""

    async def answer(self, request: bytes) -> bytes:
        """Return an answer."""


def room() -> int:
    """Raise the limit of open files as far as this process may, and return how many connections it leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(limit - OTHER_FILES, limit // 2)


async def run(answers: Answerer, listening: endpoints.Listening) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = stopping.asked()
    try:
        async with serving(answers, listening, max_connections=room()):
            await stop.wait()
    finally:
        for number in stopping.SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)


@contextlib.asynccontextmanager
async def serving(
    answers: Answerer,
    listening: endpoints.Listening,
    *,
    max_connections: int = MAX_CONNECTIONS,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator["Server"]:
    """Serve inside of the context, and drain at its end."""
    server = Server(answers, max_connections=max_connections, clock=clock)
    try:
        await server.start(listening)
        yield server
    finally:
        await server.drain()


class Server:
    """Serves connections.

    Args:
        answers: who knows the answers.
        max_connections: at once.
        clock: seconds; time-outs are told by it.
        log: where to warn.
    """

    def __init__(
        self,
        answers: Answerer,
        *,
        max_connections: int = MAX_CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self.answers = answers
        self.clock = clock
        self.log = log or structlog.get_logger()
        self.buffer = memoryview(bytearray(_CHUNK))
        self.connections: set[Connection] = set()
        self._max_connections = max_connections
        self._listening: endpoints.Listening | None = None
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    async def start(self, listening: endpoints.Listening) -> None:
        """Begin to accept connections; the sockets are closed by :meth:`drain`."""
        self._listening = listening
        for sock in listening.sockets:
            self._servers.append(await listeners.accept(sock, lambda: Connection(self), endpoints.BACKLOG))
        self._timer = asyncio.get_running_loop().call_later(ROUND, self._tick)

    async def drain(self, patience: float = DRAIN_TIMEOUT) -> None:
        """Stop to listen, finish the requests under way, close all connections.

        Args:
            patience: seconds for that; then what is left is dropped.
        """
        if self._timer is not None:
            self._timer.cancel()
        for server in self._servers:
            server.close()
        if self._listening is not None:
            self._listening.close()
        for connection in tuple(self.connections):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.connections:
                    self._empty.clear()
                    await self._empty.wait()
        for connection in tuple(self.connections):
            connection.drop()

    def opened(self, connection: "Connection") -> None:
        """Count a new connection in, and make room for it."""
        self.connections.add(connection)
        if len(self.connections) > self._max_connections:
            idle = (one for one in self.connections if one.idle and one is not connection)
            min(idle, key=lambda one: one.heard, default=connection).drop()

    def closed(self, connection: "Connection") -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def look(self) -> None:
        """Drop who is too slow; happens by itself, too."""
        now = self.clock()
        for connection in tuple(self.connections):
            if connection.too_slow(now):
                connection.drop()

    def _tick(self) -> None:
        self.look()
        self._timer = asyncio.get_running_loop().call_later(ROUND, self._tick)


class Connection(asyncio.BufferedProtocol):
    """One client. Used by :class:`Server` only."""

    def __init__(self, server: Server) -> None:
        self.heard = server.clock()
        """When it sent something last."""
        self._server = server
        self._reader = socketmap.Reader()
        self._requests: collections.deque[bytes] = collections.deque()
        self._waiting: collections.deque[asyncio.Task[bytes] | bytes] = collections.deque()
        """Answers in order, from the first that is not there yet."""
        self._unfinished: float | None = None
        """Since when there is a part of a request."""
        self._unread: float | None = None
        """Since when it does not read what is written."""
        self._ending = False
        """Whether to close as soon as all is answered."""
        self._reading = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is a stream
        """Begin."""
        self._transport = transport
        transport.set_write_buffer_limits(high=_MAX_UNREAD)
        self._server.opened(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget what the client waited for; look-ups go on for others."""
        self._requests.clear()
        waiting, self._waiting = self._waiting, collections.deque()
        for one in waiting:
            if isinstance(one, asyncio.Task):
                one.cancel()
        self._server.closed(self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where to read to: what comes is taken out before anybody else reads."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came: most often one request whose answer is ready."""
        server = self._server
        octets = bytes(server.buffer[:nbytes])
        self.heard = server.clock()
        reply = server.answers.ready(octets) if self._unfinished is None and self.idle else None
        if reply is None:
            self._take(octets)
        else:
            self._transport.write(reply)

    def _take(self, octets: bytes) -> None:
        """Take any part of any number of requests."""
        try:
            requests = self._reader.feed(octets)
        except socketmap.ProtocolError as error:
            requests = error.before
            self._end()
        if not self._reader.rest:
            self._unfinished = None
        elif requests or self._unfinished is None:
            self._unfinished = self.heard
        self._requests.extend(requests)
        self._work()

    def eof_received(self) -> bool:
        """Answer what was asked, then close."""
        self._end()
        self._work()
        return True

    def pause_writing(self) -> None:
        """Notice that the client does not read."""
        self._unread = self._server.clock()

    def resume_writing(self) -> None:
        """Go on."""
        self._unread = None
        self._work()

    @property
    def idle(self) -> bool:
        """Whether it waits for nothing."""
        return not self._waiting and not self._requests and self._unread is None

    def too_slow(self, now: float) -> bool:
        """Tell whether the client used up its time."""
        if self._unread is not None:
            return now - self._unread >= READ_TIMEOUT
        if self._unfinished is not None and self._reading and now - self._unfinished >= REQUEST_TIMEOUT:
            return True
        return self.idle and now - self.heard >= IDLE_TIMEOUT

    def drain(self) -> None:
        """Take no more requests, and close as soon as all is answered."""
        self._end()
        self._work()

    def drop(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _end(self) -> None:
        self._ending = True

    def _work(self) -> None:
        """Answer in order as far as possible now, and read on if that was all."""
        if self._transport.is_closing():
            return
        requests, waiting, ready = self._requests, self._waiting, self._server.answers.ready
        if waiting:
            self._deliver()
        while requests and self._unread is None and len(waiting) < MAX_PIPELINED:
            request = requests.popleft()
            reply = ready(request)
            if reply is not None and not waiting:
                self._transport.write(reply)
            else:
                waiting.append(reply or self._begin(request))
        if self._ending and not waiting and not requests:
            self._transport.close()
        elif (not self._ending and not requests and self._unread is None) is not self._reading:
            self._turn()

    def _begin(self, request: bytes) -> asyncio.Task[bytes]:
        """Begin to answer a request that takes time."""
        task = asyncio.get_running_loop().create_task(self._server.answers.answer(request))
        task.add_done_callback(self._answered)
        return task

    def _answered(self, _task: asyncio.Task[bytes]) -> None:
        if self._waiting:
            self._work()

    def _deliver(self) -> None:
        """Write the answers that nothing before them has to wait for."""
        while self._waiting and self._unread is None:
            first = self._waiting[0]
            if isinstance(first, asyncio.Task):
                if not first.done():
                    break
                first = self._outcome(first)
            self._waiting.popleft()
            self._transport.write(first)

    def _outcome(self, task: asyncio.Task[bytes]) -> bytes:
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            self._server.log.error("an answer failed", exc_info=error)
            return _INTERNAL
        return task.result()

    def _turn(self) -> None:
        """Stop to read, or read on."""
        if self._reading:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            if self._unfinished is not None:
                self._unfinished = self._server.clock()  # the pause was ours
        self._reading = not self._reading
