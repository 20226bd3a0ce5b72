"""The process that takes Exim's events: real sockets, clients that are good, slow, huge and many."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from policy import endpoints, listeners, mtasts, postfix, server, socketmap, verdict
from sender import asking, datagram, eximevents, eximjoining, eximlistener, session

PROMPTLY = 0.5
"""Seconds in which a connection must be closed; far less than the two that Exim waits, bearable on a busy machine."""

EVENT = (
    b'event_name="smtp:ehlo" event_data="250-mx.example.net\\n250 STARTTLS" pid=%d domain=%b host=mx.example.net '
    b"host_address=192.0.2.25 host_port=25 sending_ip_address=192.0.2.1 tls_out_ver=TLS1.3 "
    b"tls_out_certificate_verified=%d\n"
)


def event(pid: int = 1, domain: bytes = b"example.com", verified: int = 1) -> bytes:
    """Return an event that makes an attempt on its own."""
    return EVENT % (pid, domain, verified)


class Listening:
    """A listener in this event loop, and what it gave."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.attempts: list[eximjoining.Attempt] = []
        self.told = asyncio.Event()
        self.now = 0.0
        self.listener = eximlistener.Listener(self._take, clock=lambda: self.now)

    def _take(self, attempt: eximjoining.Attempt) -> None:
        self.attempts.append(attempt)
        self.told.set()

    async def send(self, *pieces: bytes, end: bool = True, pause: float = 0.0) -> tuple[bytes, float]:
        """Send pieces as Exim does; return what was answered, and how many seconds it took until the end."""
        began = time.monotonic()
        reader, writer = await asyncio.open_unix_connection(self.path)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
            if end:
                writer.write_eof()
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await reader.read()
        writer.close()
        return answer, time.monotonic() - began


@contextlib.asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[Listening]:
    """Listen inside of the context."""
    one = Listening(folder / "exim.sock")
    with listeners.bind_unix(one.path, socket.SOCK_STREAM, 0o600) as sock:
        await one.listener.start(sock)
        try:
            yield one
        finally:
            one.listener.end()


def in_listening(folder: Path, scenario: Callable[[Listening], Awaitable[None]]) -> None:
    """Run a scenario."""

    async def run() -> None:
        async with listening(folder) as one:
            await scenario(one)

    asyncio.run(run())


WHOLE = event()
JUNK = b"\xff\xfe\x00"

# id, pieces, attempts, malformed
SENT = [
    ("a line", [WHOLE], 1, 0),
    ("no line feed", [WHOLE.rstrip()], 1, 0),
    ("nothing", [], 0, 0),
    ("only a line feed", [b"\n"], 0, 0),
    ("cut in pieces", [WHOLE[:1], WHOLE[1:50], WHOLE[50:-1], b"\n"], 1, 0),
    ("each octet by itself", [WHOLE[place : place + 1] for place in range(len(WHOLE))], 1, 0),
    ("several in one", [event(1) + event(2) + event(3)], 3, 0),
    ("several, cut between", [event(1) + event(2)[:20], event(2)[20:]], 2, 0),
    ("junk", [JUNK], 0, 1),
    ("junk between", [event(1) + JUNK + b"\n" + event(2)], 2, 1),
    ("HTTP", [b"GET / HTTP/1.0\r\n\r\n"], 0, 1),
    ("a huge line", [b"x" * (eximevents.MAX_LINE + 1)], 0, 1),
    ("huge lines", [b"x" * 60_000 + b"\n"] * 20, 0, 21),
]


@pytest.mark.parametrize(("pieces", "attempts", "malformed"), [pytest.param(*row[1:], id=row[0]) for row in SENT])
def test_events_are_taken_and_nothing_is_answered(
    tmp_path: Path, pieces: list[bytes], attempts: int, malformed: int
) -> None:
    """However a client sends, it gets an end and nothing else, at once."""

    async def scenario(one: Listening) -> None:
        answer, seconds = await one.send(*pieces)
        assert answer == b""
        assert seconds < PROMPTLY
        assert len(one.attempts) == attempts
        if malformed <= 1:
            assert one.listener.malformed == malformed
        else:
            assert 0 < one.listener.malformed <= malformed

    in_listening(tmp_path, scenario)


def test_a_client_that_does_not_end_is_dropped_in_time(tmp_path: Path) -> None:
    """One that sends nothing, one that stops in the middle, one that goes on and on: each before Exim gives up."""

    async def scenario(one: Listening) -> None:
        took = await asyncio.gather(
            one.send(end=False),
            one.send(WHOLE[:30], end=False),
            one.send(WHOLE, end=False),
            one.send(*[b"x"] * 300, end=False, pause=0.01),
        )
        assert all(answer == b"" for answer, _ in took)
        assert all(seconds < 4 * eximlistener.CONNECTION_TIMEOUT for _, seconds in took)
        assert took[0][1] > eximlistener.CONNECTION_TIMEOUT / 2
        assert len(one.attempts) == 1
        assert one.listener.malformed == 2
        assert not one.listener.connections

    in_listening(tmp_path, scenario)


def test_thousands_of_connections(tmp_path: Path) -> None:
    """Each delivery has its own; none is lost, and none is answered."""
    count = 3000

    async def scenario(one: Listening) -> None:
        room = asyncio.Semaphore(100)

        async def client(pid: int) -> bytes:
            async with room:
                return (await one.send(event(pid)))[0]

        answers = await asyncio.gather(*[client(pid) for pid in range(count)])
        assert set(answers) == {b""}
        assert len(one.attempts) == count
        assert not one.listener.connections

    in_listening(tmp_path, scenario)


def test_connections_that_do_nothing_hold_nobody_up(tmp_path: Path) -> None:
    """Somebody opens connections and sits on them: the oldest are dropped, and Exim is served at once."""

    async def scenario(one: Listening) -> None:
        idle = [await asyncio.open_unix_connection(one.path) for _ in range(eximlistener.MAX_CONNECTIONS + 50)]
        answer, seconds = await one.send(WHOLE)
        assert (answer, len(one.attempts)) == (b"", 1)
        assert seconds < PROMPTLY
        assert len(one.listener.connections) <= eximlistener.MAX_CONNECTIONS
        for _, writer in idle:
            writer.close()

    in_listening(tmp_path, scenario)


def test_what_is_not_complete_is_told_at_the_end(tmp_path: Path) -> None:
    """A server without STARTTLS is known before its connection ends."""
    told: list[eximjoining.Attempt] = []

    async def run() -> None:
        async with listening(tmp_path) as one:
            plain = event().replace(b"STARTTLS", b"HELP").replace(b"TLS1.3", b'""')
            await one.send(plain)
            assert one.attempts == []
        told.extend(one.attempts)

    asyncio.run(run())
    assert [attempt.outcome for attempt in told] == [eximjoining.Outcome.NOT_OFFERED]


def test_a_refused_starttls_is_told_by_itself(tmp_path: Path) -> None:
    """Nothing follows such a connection, so the listener looks after it by its clock."""

    async def scenario(one: Listening) -> None:
        first = event().replace(b"TLS1.3", b'""')
        await one.send(first + first.replace(b"smtp:ehlo", b"tcp:close"))
        assert one.attempts == []
        one.now += eximjoining.SETTLE
        async with asyncio.timeout(20):
            await one.told.wait()
        assert [attempt.outcome for attempt in one.attempts] == [eximjoining.Outcome.REFUSED]

    in_listening(tmp_path, scenario)


def attempt(domain: str = "example.com", *, verified: bool = True) -> eximjoining.Attempt:
    """Return an attempt."""
    return eximjoining.Attempt(
        domain=domain,
        host="mx.example.net",
        ip="192.0.2.25",
        sending_ip="192.0.2.1",
        helo="250 mx.example.net",
        outcome=eximjoining.Outcome.ESTABLISHED,
        verified=verified,
        tlsa=False,
        matched=False,
        reason="",
        dane="",
        certificate=None,
    )


class OneAnswer:
    """Answers for the policy socket: each domain has the same policy in testing."""

    POLICY = mtasts.parse_policy(b"version: STSv1\nmode: testing\nmx: mx.example.net\nmax_age: 86400\n")

    def ready(self, request: bytes) -> bytes:
        """Return the answer in JSON."""
        map_name, key = socketmap.request(request) or (b"", b"")
        assert map_name == postfix.JSON
        sts = verdict.Sts(self.POLICY, "1", None, ())
        decided = verdict.decide(key.decode(), verdict.Dane(None, (), None), sts)
        return socketmap.reply(postfix.json(decided))

    async def answer(self, request: bytes) -> bytes:
        """Return the same."""
        return self.ready(request)


@contextlib.contextmanager
def policy_socket(address: str) -> Iterator[None]:
    """Serve policies in a thread."""
    loop, ended, started = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def run() -> None:
        async with server.serving(OneAnswer(), endpoints.listen([address])):
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert started.wait(20)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def received(sock: socket.socket) -> session.Session:
    """Return the next session that a recorder gets."""
    sock.settimeout(20)
    return datagram.decode(sock.recv(1 << 18))


def test_the_policy_is_asked_for(tmp_path: Path) -> None:
    """A certificate that Exim lets pass unverified is a failure of a policy in testing."""
    address = f"unix:{tmp_path / 'p'}"
    with policy_socket(address), listeners.bind_unix(tmp_path / "r", socket.SOCK_DGRAM, 0o600) as recorder:
        handing = eximlistener.Handing(asking.Policies([address], name=postfix.JSON), str(tmp_path / "r"))
        handing.take(attempt(verified=False))
        (result,) = received(recorder).results
        handing.take(attempt())
        (second,) = received(recorder).results
        handing.end()
    assert result.policy == session.Policy(
        session.PolicyType.STS, "example.com", OneAnswer.POLICY.strings, ("mx.example.net",)
    )
    assert [failure.result_type for failure in result.failures] == [session.ResultType.VALIDATION_FAILURE]
    assert not second.failed
    assert (handing.sent, handing.lost) == (2, 0)


def test_without_a_policy_socket_sessions_are_told_without_a_policy(tmp_path: Path) -> None:
    """Nobody answers: the session counts all the same."""
    with listeners.bind_unix(tmp_path / "r", socket.SOCK_DGRAM, 0o600) as recorder:
        handing = eximlistener.Handing(asking.Policies([f"unix:{tmp_path / 'none'}"]), str(tmp_path / "r"))
        handing.take(attempt())
        (result,) = received(recorder).results
        handing.end()
    assert result == session.Result(session.Policy(session.PolicyType.NO_POLICY_FOUND, "example.com"), failed=False)


def test_sessions_wait_for_a_recorder_that_is_started_later(tmp_path: Path) -> None:
    """Nothing is lost while the recorder is away."""
    handing = eximlistener.Handing(asking.Policies([]), str(tmp_path / "r"))
    domains = [f"n{number}.example" for number in range(5)]
    for domain in domains:
        handing.take(attempt(domain))
    with listeners.bind_unix(tmp_path / "r", socket.SOCK_DGRAM, 0o600) as recorder:
        assert [received(recorder).domain for _ in domains] == domains
        handing.end()
    assert (handing.sent, handing.lost) == (5, 0)


def test_what_cannot_be_handed_over_is_counted(tmp_path: Path) -> None:
    """There is no recorder: what comes beyond the bound is lost at once, the rest at the end, without waiting long."""
    handing = eximlistener.Handing(asking.Policies([]), str(tmp_path / "none"))
    count = eximlistener.MAX_WAITING + 10
    for _ in range(count):
        handing.take(attempt())
    assert handing.lost >= 9  # one may be on its way
    handing.end()
    assert (handing.sent, handing.lost) == (0, count)


def test_attempts_without_a_domain_are_no_sessions(tmp_path: Path) -> None:
    """Exim does not tell the domain of a message for several; addresses have no policy."""
    with listeners.bind_unix(tmp_path / "r", socket.SOCK_DGRAM, 0o600) as recorder:
        handing = eximlistener.Handing(asking.Policies([]), str(tmp_path / "r"))
        for domain in ("", "[192.0.2.9]", "a..b", "example.com"):
            handing.take(attempt(domain))
        assert received(recorder).domain == "example.com"
        handing.end()
    assert (handing.sent, handing.without_domain) == (1, 3)
