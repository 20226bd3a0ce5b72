"""``tlsrpt follow`` with a real recorder, a real policy socket and logs that go on: every session once."""

import collections
import contextlib
import fcntl
import json
import multiprocessing
import os
import pathlib
import random
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

import msgspec
import pytest

from policy import mtasts, postfix, socketmap, verdict
from sender import applied, asking, bookmark, comparing, config, datagram, following, journal, session

DATA = pathlib.Path(__file__).parents[1] / "data"
WITHIN = 20.0
"""Seconds; a busy machine needs one or two."""

StartRecorder = Callable[[config.Config], BaseProcess]

PROGRAM = "from sender import following\nraise SystemExit(following.main(settings))"


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> config.Config:
    """A host with a recorder and a log; nobody answers at the policy socket."""
    section = config.Recorder(socket=str(tmp_path / "s"), journal=str(tmp_path / "journal"))
    follower = config.Follower(log=str(tmp_path / "mail.log"))
    nobody = msgspec.structs.replace(config.Config().policy, listen=(f"unix:{tmp_path / 'policy.sock'}",))
    return config.Config(recorder=section, follower=follower, policy=nobody)


@pytest.fixture
def start_follower(fork_server: multiprocessing.context.ForkServerContext) -> Iterator[Callable[..., BaseProcess]]:
    """Return a function that starts the role as a process; what is left of it at the end is killed."""
    started: list[BaseProcess] = []

    def start(settings: config.Config) -> BaseProcess:
        process = fork_server.Process(target=exec, args=(PROGRAM, {"settings": settings}))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()
        process.close()


def once(settings: config.Config) -> following.Totals:
    """Read the log to its end."""
    return following.run(settings, settings.follower.log, once=True, stop=threading.Event())


def lines(number: int, pid: int = 1, *, recipients: int = 1) -> str:
    """Return what a session for a domain of its own logs."""
    head = f"Nov 24 02:07:28 host postfix/smtp[{pid}]: "
    to = (
        f"{head}4F5C925602B: to=<u@n{number}.example>, relay=mx.example[192.0.2.1]:25, delay=1, "
        "delays=0.01/0/0/0, dsn=2.0.0, status=sent (250 ok)\n"
    )
    return f"{head}Trusted TLS connection established to mx.example[192.0.2.1]:25: TLSv1.3\n{to * recipients}"


def write(settings: config.Config, *texts: str) -> None:
    """Append to the log."""
    with pathlib.Path(settings.follower.log).open("a") as file:
        file.write("".join(texts))


def recorded(settings: config.Config) -> list[session.Session]:
    """Return what is in the journal."""
    segments = journal.segments(pathlib.Path(settings.recorder.journal))
    return [datagram.decode(line) for segment in segments for line in journal.read(segment, 0, 1 << 26).lines]


def domains(settings: config.Config) -> list[str]:
    """Return the domains in the journal, in order."""
    return [one.domain for one in recorded(settings)]


def names(*numbers: int) -> list[str]:
    """Return domains of :func:`lines`."""
    return [f"n{number}.example" for number in numbers]


def wait_until(true: Callable[[], object]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def test_a_log_read_twice_counts_once(settings: config.Config, start_recorder: StartRecorder) -> None:
    """Also with what is added in between, and what was open when it stopped."""
    start_recorder(settings)
    write(settings, lines(0, recipients=3), lines(1))
    assert once(settings).sessions == 2
    assert once(settings).sessions == 0
    begin, end = lines(2).splitlines(keepends=True)
    write(settings, lines(3, pid=2), begin)
    assert once(settings).sessions == 1
    write(settings, end)
    assert once(settings).sessions == 1
    wait_until(lambda: len(domains(settings)) >= 4)
    assert domains(settings) == names(0, 1, 3, 2)


def test_a_log_that_was_never_followed_is_followed_from_its_end(
    settings: config.Config, start_recorder: StartRecorder, start_follower: Callable[..., BaseProcess]
) -> None:
    """Sessions of last week must not count for today."""
    start_recorder(settings)
    write(settings, lines(0))
    process = start_follower(settings)
    state = pathlib.Path(settings.recorder.journal).parent / "follower"
    wait_until(lambda: state.exists() and any(path.stat().st_size for path in state.iterdir()))
    write(settings, lines(1))
    wait_until(lambda: domains(settings) == names(1))
    process.terminate()
    process.join(WITHIN)
    assert process.exitcode == 0


def test_a_log_that_was_not_there_yet_is_followed_from_its_beginning(
    settings: config.Config, start_recorder: StartRecorder, start_follower: Callable[..., BaseProcess]
) -> None:
    """Also where the follower that waited for it was killed before it could read any of it."""
    start_recorder(settings)
    state = pathlib.Path(settings.recorder.journal).parent / "follower"
    killed = start_follower(settings)
    wait_until(lambda: state.exists() and any(path.stat().st_size for path in state.iterdir()))
    killed.kill()
    killed.join(WITHIN)
    write(settings, lines(0))
    start_follower(settings)
    wait_until(lambda: domains(settings) == names(0))


ROUNDS = 40
SEED = 7672


def test_kill_9_over_and_over_tells_no_session_twice(
    settings: config.Config, start_recorder: StartRecorder, start_follower: Callable[..., BaseProcess]
) -> None:
    """While the log is written and rotated; each time at most one session is lost."""
    chance = random.Random(SEED)
    start_recorder(settings)
    write(settings, "")
    bookmarked(settings)
    with log_that_grows(settings) as written:
        for _ in range(ROUNDS):
            process = start_follower(settings)
            process.join(chance.uniform(0.02, 0.2))
            assert process.is_alive()
            process.kill()
            process.join()
    once(settings)
    total = written()
    wait_until(lambda: len(domains(settings)) >= total - ROUNDS)
    counted = collections.Counter(domains(settings))
    print(f"{total} written, {total - len(counted)} lost, seed {SEED}")  # noqa: T201 (shown when the test fails)
    assert total > ROUNDS * 10
    assert {name: times for name, times in counted.items() if times > 1} == {}
    assert counted.keys() <= set(names(*range(total)))
    assert total - len(counted) <= ROUNDS


def bookmarked(settings: config.Config) -> None:
    """Begin at the beginning of the log."""
    assert once(settings).sessions == 0
    write(settings, lines(0))
    assert once(settings).sessions == 1


@contextlib.contextmanager
def log_that_grows(settings: config.Config) -> Iterator[Callable[[], int]]:
    """Write sessions of four mixed processes, and rotate now and then; yield what tells how many there were."""
    ended = threading.Event()
    log = pathlib.Path(settings.follower.log)
    count = 1

    def grow() -> None:
        nonlocal count
        while not ended.wait(0.002):
            pairs = [lines(count + pid, pid).splitlines(keepends=True) for pid in range(4)]
            count += 4
            write(settings, *[pair[0] for pair in pairs])
            write(settings, *[pair[1] for pair in pairs])
            if count % 400 == 1:
                log.rename(log.with_name(f"{log.name}.{20000 - count}"))

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        yield lambda: count
    finally:
        ended.set()
        thread.join()


def test_sessions_wait_for_a_recorder_that_is_away(
    settings: config.Config, start_recorder: StartRecorder, start_follower: Callable[..., BaseProcess]
) -> None:
    """Before it is started, and while it is started again."""
    write(settings, lines(0))
    state = following._state(settings, settings.follower.log)
    process = start_follower(settings)
    recorder = start_recorder(settings)
    wait_until(lambda: state.exists() and state.stat().st_size)
    write(settings, lines(1))
    wait_until(lambda: domains(settings) == names(1))
    recorder.terminate()
    recorder.join(WITHIN)
    before = state.read_bytes()
    write(settings, lines(2))
    wait_until(lambda: state.read_bytes() != before)
    start_recorder(settings)
    write(settings, lines(3))
    wait_until(lambda: domains(settings) == names(1, 2, 3))
    process.terminate()
    process.join(WITHIN)
    assert process.exitcode == 0


def test_a_stop_while_the_recorder_is_away_loses_nothing(
    settings: config.Config, start_recorder: StartRecorder, start_follower: Callable[..., BaseProcess]
) -> None:
    """What was noted but not taken is taken back."""
    recorder = start_recorder(settings)
    write(settings, "")
    bookmarked(settings)
    wait_until(lambda: domains(settings) == names(0))
    process = start_follower(settings)
    write(settings, lines(1))
    wait_until(lambda: domains(settings) == names(0, 1))
    recorder.terminate()
    recorder.join(WITHIN)
    state = following._state(settings, settings.follower.log)
    before = state.read_bytes()
    write(settings, lines(2), lines(3))
    wait_until(lambda: state.read_bytes() != before)
    process.terminate()
    process.join(WITHIN)
    assert process.exitcode == 0
    start_recorder(settings)
    assert once(settings).sessions == 2
    wait_until(lambda: domains(settings) == names(0, 1, 2, 3))


def test_two_do_not_follow_the_same_log(settings: config.Config, start_recorder: StartRecorder) -> None:
    """Each session would count twice."""
    start_recorder(settings)
    write(settings, lines(0))
    once(settings)
    (path,) = (pathlib.Path(settings.recorder.journal).parent / "follower").iterdir()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(bookmark.BookmarkError, match="another process follows this log"):
            once(settings)


def test_a_bookmark_that_was_cut_leaves_the_one_before(tmp_path: pathlib.Path) -> None:
    """Whatever bytes of the newest are missing; nonsense is none at all."""
    path = tmp_path / "folder" / "bookmark"
    keeper = bookmark.Keeper(path)
    assert keeper.kept is None
    first, second = (bookmark.Bookmark(replay=mark, done=mark, services=("postfix/smtp",)) for mark in "ab")
    keeper.note(first)
    keeper.note(second)
    keeper.close()
    whole = path.read_bytes()
    newest = whole.index(b'"done":"b"')
    for cut in range(0, 120, 7):
        path.write_bytes(whole[: newest - 60 + cut] + b"\0" + whole[newest - 59 + cut :])
        again = bookmark.Keeper(path)
        assert again.kept in {first, second}
        again.close()
    path.write_bytes(b"nonsense" * 3000)
    empty = bookmark.Keeper(path)
    assert empty.kept is None
    empty.close()


# The policy socket.


class Answering(socketserver.BaseRequestHandler):
    """Answers like the policy socket, whose words these are."""

    def handle(self) -> None:
        """Answer until the other end has enough."""
        assert isinstance(self.server, Server)
        self.server.connections.append(self.request)
        reader = socketmap.Reader()
        while octets := self.request.recv(4096):
            for request in reader.feed(octets):
                map_name, key = socketmap.request(request) or (b"", b"")
                self.server.asked.append((map_name, key))
                self.request.sendall(socketmap.reply(self.server.answer(key)))


class Server(socketserver.ThreadingUnixStreamServer):
    """Knows what domains ask for."""

    daemon_threads = True

    def __init__(self, path: str, known: dict[bytes, bytes]) -> None:
        super().__init__(path, Answering)
        self.asked: list[tuple[bytes, bytes]] = []
        self.connections: list[socket.socket] = []
        self.known = known

    def answer(self, key: bytes) -> bytes:
        """Return the answer to a key."""
        return self.known.get(key, postfix.NOT_FOUND)


@contextlib.contextmanager
def policy_socket(path: pathlib.Path, known: dict[bytes, bytes]) -> Iterator[Server]:
    """Answer on a socket."""
    with Server(str(path), known) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            path.unlink()
            for connection in server.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def policy_of(level: verdict.Level, mode: str) -> bytes:
    """Return an answer in JSON."""
    sts = mtasts.parse_policy(f"version: STSv1\nmode: {mode}\nmx: mx.example\nmax_age: 86400\n".encode())
    return postfix.json(verdict.Verdict("n.example", level, sts, "1", None, ()))


KNOWN = {
    b"n0.example": policy_of(verdict.Level.SECURE, "enforce"),
    b"n1.example": policy_of(verdict.Level.NONE, "testing"),
    b"n2.example": policy_of(verdict.Level.DANE_ONLY, "enforce"),
    b"n4.example": b"TEMP later",
}


def test_the_policy_socket_tells_which_policy_applied(
    settings: config.Config, start_recorder: StartRecorder, tmp_path: pathlib.Path
) -> None:
    """Each domain is asked for once; a relay host is not."""
    start_recorder(settings)
    relayed = lines(5).replace("]:25", "]:587")
    write(settings, *[lines(number).replace("Trusted", "Verified") for number in (0, 1, 2, 3, 4, 0, 1)], relayed)
    with policy_socket(tmp_path / "policy.sock", KNOWN) as server:
        assert once(settings).sessions == 8
    asked = [key for name, key in server.asked if name == postfix.PEEK]
    assert asked == [b"n0.example", b"n1.example", b"n2.example", b"n3.example", b"n4.example"]
    wait_until(lambda: len(domains(settings)) == 8)
    policies = {one.domain: one.results[0].policy for one in recorded(settings)}
    assert {domain: (str(policy.type), policy.domain) for domain, policy in policies.items()} == {
        "n0.example": ("sts", "n0.example"),
        "n1.example": ("sts", "n1.example"),
        "n2.example": ("tlsa", "mx.example"),
        "n3.example": ("no-policy-found", "n3.example"),
        "n4.example": ("no-policy-found", "n4.example"),
        "mx.example": ("no-policy-found", "mx.example"),
    }
    assert policies["n1.example"].strings == ("version: STSv1", "mode: testing", "mx: mx.example", "max_age: 86400")
    assert policies["n1.example"].mx_hosts == ("mx.example",)


def test_answers_are_remembered_for_minutes_and_a_silent_socket_is_left_alone(tmp_path: pathlib.Path) -> None:
    """One that was made anew is found; so is the second address where the first is none."""
    now = [0.0]
    addresses = (f"unix:{tmp_path / 'none.sock'}", f"unix:{tmp_path / 'policy.sock'}")
    with contextlib.closing(asking.Policies(addresses, clock=lambda: now[0])) as policies:
        assert policies.of("n0.example") == applied.NOTHING
        for _ in range(2):
            with policy_socket(tmp_path / "policy.sock", KNOWN) as server:
                assert policies.of("n3.example") == applied.NOTHING
                assert server.asked == []
                now[0] += asking.PAUSE
                assert policies.of("N0.example.").level is verdict.Level.SECURE
                assert policies.of("n0.example").level is verdict.Level.SECURE
                assert [key for _, key in server.asked] == [b"n0.example"]
                now[0] += asking.KEPT
            assert policies.of("n0.example").level is verdict.Level.SECURE, "better an old answer than none"
        assert policies.of("[192.0.2.1]") == policies.of("") == policies.of("a b\udc80") == applied.NOTHING


MISBEHAVING = [
    ("ends at once", b""),
    ("no netstring", b"hello, world"),
    ("a part", b"10:OK"),
    ("too much", b"2:OK,2:OK,"),
    ("too long", b"99999999999:"),
    ("endless", b"1" * 200_000),
]


@pytest.mark.parametrize("octets", [case[1] for case in MISBEHAVING], ids=[case[0] for case in MISBEHAVING])
def test_whoever_sits_at_the_policy_socket_does_no_harm(octets: bytes, tmp_path: pathlib.Path) -> None:
    """Nothing is known then."""

    def misbehave(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(100)
                    connection.sendall(octets)

    path = str(tmp_path / "policy.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        thread = threading.Thread(target=misbehave, args=(server,))
        thread.start()
        with contextlib.closing(asking.Policies((f"unix:{path}",))) as policies:
            assert policies.of("a.example") == applied.NOTHING
            assert policies.unanswered == 1
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


# A Postfix that reports itself.

TEN = [json.loads(row) for row in (DATA / "postfix-3.10.jsonl").read_text().splitlines()]
REPORTED = [octets.encode() for row in TEN for octets in row["datagrams"]]
DROPPED = (
    "Nov 24 02:07:28 host postfix/smtp[1]: warning: Could not report TLS handshake result to tlsrpt library: "
    "Resource temporarily unavailable (errno 11)\n"
)
FINDING = b'{"d":"f.example","policies":[{"policy-type":2,"failure-details":[{"c":301}],"t":1,"f":1}]}'


def findings_left_out() -> list[bytes]:
    """Return the captured datagrams without those that only a policy socket that names failures would cause."""
    return [octets for octets in REPORTED if comparing._failed(octets) is not None]


def send(settings: config.Config, *datagrams: bytes) -> None:
    """Tell the recorder, waiting for it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(settings.recorder.socket)
        for octets in datagrams:
            client.send(octets)


def test_a_postfix_that_reports_itself_is_compared_with_what_was_recorded(
    settings: config.Config, start_recorder: StartRecorder
) -> None:
    """Nothing is made of its log; what the kernel dropped is told, and findings of the policy socket are left out."""
    start_recorder(settings)
    ours = findings_left_out()
    left_out = len(REPORTED) - len(ours)
    write(settings, *[f"{line}\n" for row in TEN for line in row["log"]], DROPPED)
    send(settings, *ours[1:], FINDING)
    totals = once(settings)
    assert totals.sessions == 0
    assert totals.compared is not None
    events = len(REPORTED)
    assert str(totals.compared) == f"{events} events of Postfix, {len(ours) - 1} recorded, 1 dropped by the kernel"
    assert totals.compared.missing == left_out
    write(settings, *[f"{line}\n" for line in TEN[0]["log"]])
    send(settings, ours[0])
    again = once(settings).compared
    assert again == comparing.Result(1, 0, 1, 0, 0, 0)
    assert len(domains(settings)) == len(ours) + 1, "no session was made of the log"


# The command.


def tlsrpt(settings: config.Config, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    folder = pathlib.Path(settings.recorder.journal).parent
    (folder / "tlsrpt.toml").write_text(
        f'[recorder]\nsocket = "{settings.recorder.socket}"\njournal = "{settings.recorder.journal}"\n'
        f'[policy]\nlisten = ["{settings.policy.listen[0]}"]\ncache = ""\n[store]\nurl = "sqlite:///{folder}/db"\n'
    )
    command = [sys.executable, "-m", "sender", *arguments, "--config", str(folder / "tlsrpt.toml")]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment
    )


def test_the_command_tells_how_many_sessions_there_were(settings: config.Config, start_recorder: StartRecorder) -> None:
    """With ``--once`` it ends at the end of the log."""
    start_recorder(settings)
    write(settings, lines(0), lines(1))
    done = tlsrpt(settings, "follow", settings.follower.log, "--once")
    assert (done.returncode, done.stdout) == (0, "2 sessions handed to the recorder\n")
    named = tlsrpt(settings, "follow", "--once", TLSRPT_FOLLOWER_LOG=settings.follower.log)
    assert (named.returncode, named.stdout) == (0, "0 sessions handed to the recorder\n")


WRONG = [
    ("no log", ("follow", "--once"), {}, 2, 'follower.log = ""'),
    ("no log for the role", ("serve", "follower"), {}, 2, 'follower.log = ""'),
    ("no such log", ("follow", "/no/such/log", "--once"), {}, 1, "/no/such/log: no such file"),
    ("no recorder", ("follow", "/dev/null"), {"TLSRPT_RECORDER_SOCKET": ""}, 2, 'recorder.socket = ""'),
    ("no policy", ("follow", "/dev/null"), {"TLSRPT_POLICY_LISTEN": "x"}, 2, 'policy.listen: "x"'),
]


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "text"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: tuple[str, ...], environment: dict[str, str], code: int, text: str, settings: config.Config
) -> None:
    """With the exit code of its kind."""
    done = tlsrpt(settings, *arguments, **environment)
    told = [line for line in done.stderr.splitlines() if not line.startswith("timestamp=")]
    assert done.returncode == code
    assert len(told) == 1
    assert text in told[0]


def test_once_fails_where_there_is_no_recorder_and_loses_nothing(
    settings: config.Config, start_recorder: StartRecorder
) -> None:
    """One line, exit code 1; the next time all is there."""
    write(settings, lines(0))
    done = tlsrpt(settings, "follow", settings.follower.log, "--once")
    assert done.returncode == 1
    assert "no such socket" in done.stderr
    start_recorder(settings)
    assert once(settings).sessions == 1


def test_the_role_follows_the_log_of_the_configuration(
    settings: config.Config, serve: Callable[..., object], tmp_path: pathlib.Path
) -> None:
    """Beside a recorder, until SIGTERM ends both in order."""
    tlsrpt(settings, "pending")
    write(settings, "")
    environment = os.environ | {"TLSRPT_FOLLOWER_LOG": settings.follower.log}
    served = serve("recorder", "follower", "--config", str(tmp_path / "tlsrpt.toml"), env=environment)
    served.wait_for("follower started")  # type: ignore[attr-defined] # of this folder's conftest
    served.wait_for("recorder started")  # type: ignore[attr-defined]
    state = following._state(settings, settings.follower.log)
    wait_until(lambda: state.exists() and state.stat().st_size)
    write(settings, lines(0))
    wait_until(lambda: domains(settings) == names(0))
    assert served.end(signal.SIGTERM) == 0  # type: ignore[attr-defined]
