"""The policy socket with real clients on Unix and TCP sockets: order, limits, slow and hostile clients, draining."""

import asyncio
import contextlib
import gc
import itertools
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import structlog
import uvloop

from policy import endpoints, listeners, server, socketmap

Run = Callable[[Callable[[], Awaitable[None]]], None]


class Book:
    """Knows an answer to each key; to those that begin with ``later`` once a gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun: list[bytes] = []
        self.cancelled = 0

    def ready(self, request: bytes) -> bytes | None:
        """Answer at once."""
        found = socketmap.request(request)
        if found is None:
            return None
        map_name, key = found
        if key.startswith((b"later", b"broken")):
            return None
        if key.startswith(b"long"):
            return socketmap.reply(b"x" * 100_000)
        return socketmap.reply(b"OK %b of %b" % (key, map_name))

    async def answer(self, request: bytes) -> bytes:
        """Answer when the gate is open."""
        found = socketmap.request(request)
        assert found is not None
        map_name, key = found
        self.begun.append(key)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if key.startswith(b"broken"):
            raise RuntimeError("a fault of ours")
        return socketmap.reply(b"OK %b of %b" % (key, map_name))


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine in each of the event loops."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def in_loop(main: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await main()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return in_loop


@pytest.fixture(autouse=True)
def _open_files() -> Iterator[None]:
    """Give each test the limit of open files that it finds."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Client:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, *keys: bytes) -> None:
        """Send requests in one go."""
        self.writer.write(b"".join(_request(key) for key in keys))
        await self.writer.drain()

    async def answers(self, count: int) -> list[bytes]:
        """Take so many answers."""
        taken = []
        for _ in range(count):
            length = int((await self.reader.readuntil(b":"))[:-1])
            taken.append((await self.reader.readexactly(length + 1))[:-1])
        return taken

    async def gone(self) -> bool:
        """Wait until the server closes; tell whether nothing came before."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


def _request(key: bytes) -> bytes:
    return socketmap.reply(b"QUERY " + key)


def _ok(*keys: bytes) -> list[bytes]:
    return [b"OK %b of QUERY" % key for key in keys]


@contextlib.asynccontextmanager
async def _connect(sock: socket.socket) -> AsyncIterator[Client]:
    """Connect to a listening socket."""
    if sock.family == socket.AF_UNIX:
        reader, writer = await asyncio.open_unix_connection(_path(sock))
    else:
        reader, writer = await asyncio.open_connection(*sock.getsockname()[:2])
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


_PATHS: dict[int, Path] = {}


def _path(sock: socket.socket) -> Path:
    return _PATHS[sock.fileno()]


def _unix(path: Path) -> endpoints.Listening:
    listening = endpoints.listen([f"unix:{path}"])
    _PATHS[listening.sockets[0].fileno()] = path
    return listening


def _tcp(host: str = "127.0.0.1") -> endpoints.Listening:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind((host, 0))
    sock.listen()
    return endpoints.Listening((sock,), ())


async def _until(true: Callable[[], bool]) -> None:
    """Wait for what happens soon; the test's time-out ends it."""
    for _ in itertools.count():
        if true():
            break
        await asyncio.sleep(0.005)


LISTENING = ["unix", "127.0.0.1", "::1"]


@pytest.mark.parametrize("where", LISTENING)
def test_requests_are_answered_in_order(run: Run, tmp_path: Path, where: str) -> None:
    """One by one, pipelined, and cut into single octets."""

    async def main() -> None:
        listening = _unix(tmp_path / "s") if where == "unix" else _tcp(where)
        async with server.serving(Book(), listening), _connect(listening.sockets[0]) as client:
            for key in (b"a.example", b"b.example"):
                await client.ask(key)
                assert await client.answers(1) == _ok(key)
            keys = [b"%d.example" % number for number in range(2000)]
            await client.ask(*keys)
            assert await client.answers(2000) == _ok(*keys)
            for octet in _request(b"c.example") + _request(b""):
                client.writer.write(bytes((octet,)))
                await client.writer.drain()
                await asyncio.sleep(0)
            assert await client.answers(2) == _ok(b"c.example", b"")

    run(main)


def test_what_must_wait_holds_up_only_its_own_connection(run: Run, tmp_path: Path) -> None:
    """Look-ups begin at once and together; their answers keep the order of the questions."""

    async def main() -> None:
        book, listening = Book(), _unix(tmp_path / "s")
        async with (
            server.serving(book, listening),
            _connect(listening.sockets[0]) as one,
            _connect(listening.sockets[0]) as two,
        ):
            keys = [b"first", b"later.1", b"second", b"later.2", b"third"]
            await one.ask(*keys)
            assert await one.answers(1) == _ok(b"first")
            await _until(lambda: book.begun == [b"later.1", b"later.2"])
            await two.ask(b"other")
            assert await two.answers(1) == _ok(b"other")
            book.gate.set()
            assert await one.answers(4) == _ok(*keys[1:])

    run(main)


def test_look_ups_of_one_connection_are_bounded(run: Run, tmp_path: Path) -> None:
    """What comes beyond is not read before there is room, so the rest waits in the kernel; nothing is lost."""

    async def main() -> None:
        clock, book, listening = Clock(), Book(), _unix(tmp_path / "s")
        async with server.serving(book, listening, clock=clock) as serving, _connect(listening.sockets[0]) as client:
            keys = [b"later.%d.example" % number for number in range(3000)]
            asking = asyncio.create_task(client.ask(*keys))
            await _until(lambda: len(book.begun) == server.MAX_PIPELINED)
            clock.now = 3 * server.IDLE_TIMEOUT
            serving.look()
            assert len(serving.connections) == 1
            assert len(book.begun) == server.MAX_PIPELINED
            [connection] = serving.connections
            assert len(connection._requests) <= server._CHUNK // 20
            book.gate.set()
            await asking
            assert await client.answers(3000) == _ok(*keys)

    run(main)


# id, octets after a good request
HOSTILE = [
    ("a gigabyte", b"1073741824:"),
    ("too long by one", b"513:"),
    ("more digits than any number", b"9" * 100_000),
    ("no number", b"QUERY example.com\n"),
    ("HTTP", b"GET / HTTP/1.1\r\n\r\n"),
    ("no comma", b"3:abcd"),
    ("leading zero", b"03:abc,"),
    ("negative", b"-1:,"),
]


@pytest.mark.parametrize("octets", [pytest.param(case[1], id=case[0]) for case in HOSTILE])
def test_who_speaks_no_netstrings_is_dropped_at_once(run: Run, tmp_path: Path, octets: bytes) -> None:
    """What was asked before is answered, also what must wait; nothing after."""

    async def main() -> None:
        book, listening = Book(), _unix(tmp_path / "s")
        book.gate.set()
        async with server.serving(book, listening) as serving, _connect(listening.sockets[0]) as client:
            client.writer.write(_request(b"a") + _request(b"later") + octets + _request(b"b"))
            assert await client.answers(2) == _ok(b"a", b"later")
            assert await client.gone()
            await _until(lambda: not serving.connections)

    run(main)


# id, octets, after how many seconds it is dropped
SLOW = [
    ("a part of a length", b"1", server.REQUEST_TIMEOUT),
    ("a part of a request", b"17:QUERY example", server.REQUEST_TIMEOUT),
    ("a part after a request", _request(b"x.example") + b"17:QUERY example", server.REQUEST_TIMEOUT),
    ("a part that ends with a comma", b"17:QUERY,", server.REQUEST_TIMEOUT),
    ("nothing", b"", server.IDLE_TIMEOUT),
    ("a request", _request(b"x.example"), server.IDLE_TIMEOUT),
]


@pytest.mark.parametrize(("octets", "seconds"), [pytest.param(*case[1:], id=case[0]) for case in SLOW])
def test_slow_and_idle_clients_are_dropped_in_time(run: Run, tmp_path: Path, octets: bytes, seconds: float) -> None:
    """A request must come whole soon; a connection may be idle for long."""

    async def main() -> None:
        clock, listening = Clock(), _unix(tmp_path / "s")
        async with (
            server.serving(Book(), listening, clock=clock) as serving,
            _connect(listening.sockets[0]) as client,
        ):
            clock.now = 1.0
            client.writer.write(octets)
            await _until(lambda: bool(serving.connections))
            [connection] = serving.connections
            await _until(lambda: connection.heard == 1.0 or not octets)
            started = connection.heard
            clock.now = started + seconds - 0.1
            serving.look()
            await client.answers(1 if b"x.example" in octets else 0)
            assert len(serving.connections) == 1
            clock.now = started + seconds
            serving.look()
            assert await client.gone()

    run(main)


def test_a_byte_a_minute_is_too_slow(run: Run, tmp_path: Path) -> None:
    """More octets do not give more time."""

    async def main() -> None:
        clock, listening = Clock(), _unix(tmp_path / "s")
        async with (
            server.serving(Book(), listening, clock=clock) as serving,
            _connect(listening.sockets[0]) as client,
        ):
            await _until(lambda: bool(serving.connections))
            [connection] = serving.connections
            for number, octet in enumerate(_request(b"a.example")[:2]):
                clock.now = 1 + number * (server.REQUEST_TIMEOUT - 0.1)
                client.writer.write(bytes((octet,)))
                await _until(lambda: connection.heard == clock.now)
            clock.now = 1 + server.REQUEST_TIMEOUT
            serving.look()
            assert await client.gone()

    run(main)


def test_who_waits_for_us_is_not_slow(run: Run, tmp_path: Path) -> None:
    """A request cut by our own pause, and one that waits for its look-up, do not count against the client."""

    async def main() -> None:
        clock, book, listening = Clock(), Book(), _unix(tmp_path / "s")
        async with server.serving(book, listening, clock=clock) as serving, _connect(listening.sockets[0]) as client:
            keys = [b"later.%d" % number for number in range(server.MAX_PIPELINED + 1)]
            last = _request(b"last")
            client.writer.write(b"".join(map(_request, keys)) + last[:5])
            await _until(lambda: len(book.begun) == server.MAX_PIPELINED)
            clock.now = 100 * server.REQUEST_TIMEOUT
            serving.look()
            book.gate.set()
            assert await client.answers(len(keys)) == _ok(*keys)
            serving.look()
            client.writer.write(last[5:])
            assert await client.answers(1) == _ok(b"last")

    run(main)


def test_who_does_not_read_is_dropped(run: Run, tmp_path: Path) -> None:
    """Its answers take bounded memory meanwhile, and its requests wait."""

    async def main() -> None:
        clock, listening = Clock(), _unix(tmp_path / "s")
        async with server.serving(Book(), listening, clock=clock) as serving:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                client.setblocking(False)
                asked = 0
                with contextlib.suppress(BlockingIOError):
                    while asked < 100_000_000:
                        asked += client.send(_request(b"long") * 1000)
                        await asyncio.sleep(0.001)
                [connection] = serving.connections
                await _until(lambda: connection._unread is not None)
                assert connection._transport.get_write_buffer_size() < 200_000
                clock.now = server.READ_TIMEOUT - 0.1
                serving.look()
                await asyncio.sleep(0)
                assert len(serving.connections) == 1
                clock.now = server.READ_TIMEOUT
                serving.look()
                await _until(lambda: not serving.connections)

    run(main)


def test_who_reads_late_gets_all(run: Run, tmp_path: Path) -> None:
    """Pausing is no loss."""

    async def main() -> None:
        listening = _unix(tmp_path / "s")
        async with server.serving(Book(), listening), _connect(listening.sockets[0]) as client:
            await client.ask(*[b"long"] * 300)
            await asyncio.sleep(0.05)
            assert await client.answers(300) == [b"x" * 100_000] * 300

    run(main)


def test_the_server_looks_by_itself(run: Run, tmp_path: Path) -> None:
    """Nobody has to tell it."""

    async def main() -> None:
        clock, listening = Clock(), _unix(tmp_path / "s")
        async with (
            server.serving(Book(), listening, clock=clock) as serving,
            _connect(listening.sockets[0]) as client,
        ):
            await _until(lambda: bool(serving.connections))
            clock.now = server.IDLE_TIMEOUT
            assert await client.gone()

    run(main)


def test_the_longest_idle_connection_makes_room(run: Run, tmp_path: Path) -> None:
    """Neither who was heard of lately nor who waits for an answer."""

    async def main() -> None:
        clock, book, listening = Clock(), Book(), _unix(tmp_path / "s")
        sock = listening.sockets[0]
        async with (
            server.serving(book, listening, max_connections=3, clock=clock) as serving,
            _connect(sock) as waiting,
            _connect(sock) as idle,
            _connect(sock) as busy,
        ):
            await _until(lambda: len(serving.connections) == 3)
            await waiting.ask(b"later")
            await _until(lambda: bool(book.begun))
            clock.now = 1.0
            await idle.ask(b"a")
            await idle.answers(1)
            clock.now = 2.0
            await busy.ask(b"b")
            await busy.answers(1)
            async with _connect(sock) as new:
                await new.ask(b"c")
                assert await new.answers(1) == _ok(b"c")
                assert await idle.gone()
            book.gate.set()
            assert await waiting.answers(1) == _ok(b"later")
            await busy.ask(b"d")
            assert await busy.answers(1) == _ok(b"d")

    run(main)


def test_when_all_wait_a_new_connection_is_refused(run: Run, tmp_path: Path) -> None:
    """Nobody loses an answer to a newcomer."""

    async def main() -> None:
        book, listening = Book(), _unix(tmp_path / "s")
        sock = listening.sockets[0]
        async with server.serving(book, listening, max_connections=1), _connect(sock) as waiting:
            await waiting.ask(b"later")
            await _until(lambda: bool(book.begun))
            async with _connect(sock) as new:
                assert await new.gone()
            book.gate.set()
            assert await waiting.answers(1) == _ok(b"later")

    run(main)


IDLE = 2000


def _resident() -> int:
    """Return the memory of this process in octets."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_thousands_of_idle_connections_cost_little(run: Run, tmp_path: Path) -> None:
    """Each with a part of a request; others are served meanwhile."""
    server.room()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * IDLE + 500:
        pytest.skip(f"needs {2 * IDLE + 500} open files")

    async def main() -> None:
        listening = _unix(tmp_path / "s")
        async with server.serving(Book(), listening) as serving:
            gc.collect()
            before = _resident()
            with contextlib.ExitStack() as stack:
                for number in range(IDLE):
                    await _until(lambda number=number: len(serving.connections) > number - 500)  # type: ignore[misc]
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.connect(str(tmp_path / "s"))
                    client.send(b"512:QUERY ")
                await _until(lambda: sum(one.heard > 0 for one in serving.connections) == IDLE)
                assert _resident() - before < IDLE * 10_000
                async with _connect(listening.sockets[0]) as client_:
                    await client_.ask(b"a")
                    assert await client_.answers(1) == _ok(b"a")
            await _until(lambda: not serving.connections)

    run(main)


def test_a_client_that_leaves_is_forgotten(run: Run, tmp_path: Path) -> None:
    """At the latest with the answer it did not wait for; the others go on."""

    async def main() -> None:
        book, listening = Book(), _unix(tmp_path / "s")
        async with server.serving(book, listening) as serving, _connect(listening.sockets[0]) as staying:
            async with _connect(listening.sockets[0]) as client:
                await client.ask(b"later.1", b"later.2", b"now")
                await _until(lambda: len(book.begun) == 2)
                client.writer.transport.abort()
            book.gate.set()
            await _until(lambda: len(serving.connections) == 1)
            await staying.ask(b"a")
            assert await staying.answers(1) == _ok(b"a")

    with structlog.testing.capture_logs() as logs:
        run(main)
    assert logs == []


def test_who_has_no_more_questions_gets_the_answers(run: Run, tmp_path: Path) -> None:
    """``printf ... | nc -U`` closes its side at once."""

    async def main() -> None:
        book, listening = Book(), _unix(tmp_path / "s")
        async with server.serving(book, listening), _connect(listening.sockets[0]) as client:
            await client.ask(b"a", b"later")
            client.writer.write_eof()
            await _until(lambda: bool(book.begun))
            book.gate.set()
            assert await client.answers(2) == _ok(b"a", b"later")
            assert await client.gone()

    run(main)


def test_a_fault_of_ours_is_no_silence(run: Run, tmp_path: Path) -> None:
    """The connection goes on, and the log has it."""

    async def main() -> None:
        book, listening = Book(), _unix(tmp_path / "s")
        book.gate.set()
        async with server.serving(book, listening), _connect(listening.sockets[0]) as client:
            await client.ask(b"broken", b"a")
            assert await client.answers(2) == [b"TEMP internal error", *_ok(b"a")]

    with structlog.testing.capture_logs() as logs:
        run(main)
    assert [(line["log_level"], str(line["exc_info"])) for line in logs] == [("error", "a fault of ours")]


def test_draining_finishes_what_is_under_way(run: Run, tmp_path: Path) -> None:
    """Idle connections are closed, nobody new comes in, who waits gets his answer, and the socket file is gone."""

    async def main() -> None:
        book, listening = Book(), _unix(tmp_path / "s")
        sock = listening.sockets[0]
        serving = server.Server(book)
        await serving.start(listening)
        async with _connect(sock) as idle, _connect(sock) as waiting:
            await waiting.ask(b"later", b"now")
            await _until(lambda: bool(book.begun) and len(serving.connections) == 2)
            draining = asyncio.create_task(serving.drain())
            assert await idle.gone()
            assert not (tmp_path / "s").exists()
            await waiting.ask(b"too late")
            book.gate.set()
            assert await waiting.answers(2) == _ok(b"later", b"now")
            assert await waiting.gone()
            await draining

    run(main)


def test_draining_does_not_wait_for_ever(run: Run, tmp_path: Path) -> None:
    """Neither for a look-up nor for who does not read."""

    async def main() -> None:
        book, listening = Book(), _unix(tmp_path / "s")
        serving = server.Server(book)
        await serving.start(listening)
        async with _connect(listening.sockets[0]) as waiting:
            await waiting.ask(b"later")
            await _until(lambda: bool(book.begun))
            await serving.drain(patience=0.05)
            assert await waiting.gone()
            await _until(lambda: book.cancelled == 1)

    run(main)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it(run: Run, tmp_path: Path, number: signal.Signals) -> None:
    """The role's process ends by them, in order."""

    async def main() -> None:
        listening = _unix(tmp_path / "s")
        running = asyncio.create_task(server.run(Book(), listening))
        async with _connect(listening.sockets[0]) as client:
            await client.ask(b"a")
            assert await client.answers(1) == _ok(b"a")
            os.kill(os.getpid(), number)
            assert await client.gone()
        await running
        assert not (tmp_path / "s").exists()

    run(main)


def test_a_socket_of_systemd_stays_where_it_is(run: Run, tmp_path: Path) -> None:
    """Its file is not ours to remove: systemd listens on, and starts us again."""

    async def main() -> None:
        unix = listeners.bind_unix(tmp_path / "systemd", socket.SOCK_STREAM, 0o666)
        _PATHS[unix.fileno()] = tmp_path / "systemd"
        listening = endpoints.listen([f"unix:{tmp_path / 'own'}"], [unix])
        async with server.serving(Book(), listening), _connect(unix) as client:
            await client.ask(b"a")
            assert await client.answers(1) == _ok(b"a")
        assert (tmp_path / "systemd").is_socket()

    run(main)


def test_room_is_made_as_far_as_allowed() -> None:
    """The soft limit of most systems is 1024; the hard one is not ours to change."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    room = server.room()
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert soft == min(hard, server.MAX_CONNECTIONS + server.OTHER_FILES)
    assert room == max(soft - server.OTHER_FILES, soft // 2)
